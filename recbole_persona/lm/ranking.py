"""Scores of items from a language model without a search: the exact log-likelihood of every item's code.

The codes of a tile of items, neighbours in the trie, are one sequence of their nodes (recbole_persona.lm.tree_decoder): a
prefix that they share is computed once, the encoder's keys and values or the prompt once a row, and a leaf never, for nothing
follows it. Teacher forcing computes all of these for every item. Tiles bound the memory; only prefixes that reach over the
edge of a tile are computed twice.

Shapes: B rows, I items, C items of a tile, T tokens of the longest code, n nodes of a tile, V tokens of the vocabulary.
"""

import torch

from recbole_persona.lm.decoding import check_vocabulary
from recbole_persona.lm.tree_decoder import read_inputs, tree_decoder

TILE = 256  # nodes of a row at a time
POSITIONS = 2**12  # nodes of all rows at a time


@torch.no_grad()
def score_items(model, trie, items=None, **inputs):
    """Log-likelihoods ``log p(code of the item | input)``, over the model's whole vocabulary.

    Args:
        model: of transformers, with a language modelling head, in evaluation mode.
        trie: of all items, on the model's device.
        items: (B, N) int64 candidates of each row in any order, 0 behind them where a row has fewer; None: all items.
        inputs: of :func:`~recbole_persona.lm.tree_decoder.read_inputs`.

    Returns:
        (B, I) scores, -inf for items that are no candidates and for the padding item.

    Raises:
        UserError: a code outside the model's vocabulary, a model that our decoder cannot run.
    """
    check_vocabulary(model, trie)
    inputs = read_inputs(model, **inputs)
    ranks, scores = _sorted_ranks(trie, items), []
    for rows in torch.arange(len(inputs["attention_mask"]), device=trie.order.device).split(POSITIONS // TILE):
        own = ranks if items is None else ranks[rows]
        scores.append(_score_rows(model, trie, own, {name: values[rows] for name, values in inputs.items()}))
    scores = torch.cat(scores)
    if items is None:
        return scores
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, items, True)
    chosen[:, 0] = False
    return scores.masked_fill_(~chosen, -torch.inf)


def _sorted_ranks(trie, items):
    """(1 or B, N) places of the candidates in the trie's order, rising; what is missing repeats another of the row."""
    if items is None:
        return torch.arange(trie.n_items - 1, device=trie.order.device).unsqueeze(0)
    ranks = trie.rank[items]
    some = ranks.amax(dim=1, keepdim=True)  # a candidate, if the row has any
    return torch.where(items > 0, ranks, some).sort(dim=1).values


def _score_rows(model, trie, ranks, inputs):
    decoder = tree_decoder(model, inputs, trie.longest)
    first = trie.level_tokens(1)  # every item's way begins with one of them
    row = torch.arange(len(decoder), device=first.device).repeat_interleave(len(first))
    first = decoder.log_probs(decoder.root, row, first.repeat(len(decoder))).view(len(decoder), -1)
    scores = first.new_full((len(decoder), trie.n_items), -torch.inf)
    for tile in ranks.tensor_split(_tile_ends(trie, ranks), dim=1):
        found = _score_tile(decoder, trie, tile, first)
        scores.scatter_(1, trie.order[tile].expand(len(decoder), -1), found)
    return scores


def _tile_ends(trie, ranks):
    """Where to cut (1 or B, N) places, so that the items between have about ``TILE`` nodes in a row that has most."""
    path = trie.path[ranks]
    new = path != torch.nn.functional.pad(path, (0, 0, 1, 0), value=-1)[:, :-1]
    new[:, :, :-1] &= path[:, :, 1:] >= 0  # not a leaf
    nodes = new[:, :, :-1].sum(dim=2).amax(dim=0).cumsum(0)
    return (torch.nonzero((nodes // TILE).diff()).flatten() + 1).cpu()


def _score_tile(decoder, trie, ranks, first):
    """(B, C) log-likelihoods of the items at some places of the order.

    Args:
        ranks: (1 or B, C), rising.
        first: (B, U) log-probabilities of first tokens.
    """
    path = trie.path[ranks]  # (1 or B, C, T)
    places = path[:, :, 0] - 1  # nodes of depth 1 come behind the root
    scores = first.gather(1, places.expand(len(decoder), -1))
    follows = path[:, :, 1:].transpose(1, 2).flatten(1)  # (1 or B, (T - 1) * C), level by level
    inner = path[:, :, :-1].transpose(1, 2).flatten(1).masked_fill(follows < 0, -1)  # what they follow
    new = (inner >= 0) & (inner != torch.nn.functional.pad(inner, (1, 0), value=-1)[:, :-1])
    slot = new.cumsum(dim=1) - 1  # where in the sequence each inner node stands
    number = 1 + int(slot[:, -1].max()) if slot.shape[1] else 0
    if not number:
        return scores
    leaf = len(trie.token) - 1  # no other node sees it: behind the nodes of rows that have fewer
    nodes = inner.new_full((len(inner), number + 1), leaf)
    nodes = nodes.scatter_(1, torch.where(new, slot, number), inner)[:, :number]
    depth, begin, end = trie.depth[nodes], trie.first[nodes], trie.end[nodes]
    inside = (begin.unsqueeze(1) <= begin.unsqueeze(2)) & (end.unsqueeze(2) <= end.unsqueeze(1))
    visible = inside & (depth.unsqueeze(1) <= depth.unsqueeze(2))  # (1 or B, n, n), of a row's node its ancestors
    n_rows = len(decoder)
    states = decoder.extend(trie.token[nodes].expand(n_rows, -1), depth, visible, keep=False)  # (B, n, d)

    starts = number * torch.arange(n_rows, device=slot.device).unsqueeze(1)
    row, token = starts + slot.clamp(min=0), trie.token[follows.clamp(min=0)].expand(n_rows, -1)
    found = decoder.log_probs(states.flatten(0, 1), row.flatten(), token.flatten()).view(row.shape)
    found = found.masked_fill(follows < 0, 0)
    return scores + found.view(n_rows, trie.longest - 1, -1).sum(dim=1)
