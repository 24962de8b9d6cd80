"""The token sequences of a catalogue as one trie: flat tensors on the device, walked by gathers alone.

Nodes are numbered level by level, and within a level by their tokens' order, so that the children of a node have
consecutive numbers and so have the items below it.

Shapes: I items (RecBole's padding item 0 included), N nodes, T the longest code, B rows.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from recbole_persona.errors import UserError


class Trie(nn.Module):
    """All items' codes; ``Trie.build`` makes it. Its tensors move with the module and stand in no state dict.

    Attributes:
        n_items: I.
        longest: T, tokens of the longest code.
        levels: T + 2 ints; nodes of depth t are ``levels[t]`` up to ``levels[t + 1]``, the root (node 0) has depth 0.
        n_leaves: T + 1 ints, codes of each length.
        last_token: the token that ends every code, None if they end in different ones.
        token: (N,) the token that leads to each node, 0 for the root.
        children_start: (N + 1,) the children of node n are the nodes from ``children_start[n]`` up to the next entry.
        item: (N,) of each leaf, 0 for other nodes.
        first, end: (N,) the items below each node are ``order[first:end]``.
        order: (I - 1,) items in the order of their codes.
        rank: (I,) places of items in ``order``, 0 for the padding item.
        path: (I - 1, T) nodes on the way to each item of ``order``, without the root; -1 behind a leaf.
        depth: (N,).
    """

    def __init__(self, longest, levels, n_leaves, last_token, tensors):
        super().__init__()
        self.longest, self.levels, self.n_leaves, self.last_token = longest, levels, n_leaves, last_token
        for name, values in tensors.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.n_items = len(self.rank)
        self._span = int(self.token.max()) + 1
        parent = torch.repeat_interleave(torch.arange(len(self.token)), self.children_start.diff())
        self.register_buffer("_edges", parent * self._span + self.token[1:], persistent=False)  # (N - 1,), rising
        level_tokens = [self.token[start:end].unique() for start, end in pairwise(levels[1:])]
        for depth, tokens in enumerate(level_tokens, start=1):
            self.register_buffer(f"_tokens_{depth}", tokens, persistent=False)

    @classmethod
    def build(cls, codes, end=None):
        """The trie of a table of codes.

        Args:
            codes: (I, T) int64 array or tensor of token ids, -1 behind each code; row 0 is empty.
            end: a token that is put behind every code, as the model's end of sequence; needed where a code begins
                with all of another.

        Raises:
            UserError: an item without a code, two items with the same one, a code that begins with another item's.
        """
        codes = np.asarray(codes, dtype=np.int64)
        lengths = _checked_lengths(codes)
        if end is not None:
            codes = np.concatenate([codes, np.full((len(codes), 1), -1)], axis=1)
            codes[np.arange(1, len(codes)), lengths[1:]] = end
            lengths[1:] += 1
        order = np.lexsort(codes[1:].T[::-1]) + 1  # a code stands before those that it begins
        codes, lengths = codes[order], lengths[order]
        new = np.ones(codes.shape, dtype=bool)  # whether a code comes to a node of depth t + 1 before all others
        new[1:] = np.logical_or.accumulate(codes[1:] != codes[:-1], axis=1)
        _check_different(codes, lengths, order, new)
        new &= codes >= 0
        levels = np.concatenate([[0, 1], 1 + new.sum(0).cumsum()])
        path = np.where(codes >= 0, levels[1:-1] + new.cumsum(0) - 1, -1)  # (I - 1, T)

        row, depth = (places[np.argsort(path[new])] for places in np.nonzero(new))  # where each node first occurs
        n_below = np.bincount(path[path >= 0], minlength=levels[-1])
        n_below[0], first = len(codes), np.concatenate([[0], row])
        parent = np.where(depth > 0, path[row, depth - 1], 0)
        n_children = np.bincount(parent, minlength=levels[-1])
        last, last_tokens = path[np.arange(len(codes)), lengths - 1], codes[np.arange(len(codes)), lengths - 1]
        item, rank = np.zeros(levels[-1], dtype=np.int64), np.zeros(len(codes) + 1, dtype=np.int64)
        item[last], rank[order] = order, np.arange(len(order))
        tensors = {
            "token": np.concatenate([[0], codes[row, depth]]),
            "children_start": np.concatenate([[1], 1 + n_children.cumsum()]),
            "item": item,
            "first": first,
            "end": first + n_below,
            "order": order,
            "rank": rank,
            "path": path,
            "depth": np.concatenate([[0], depth + 1]),
        }
        last_token = int(last_tokens[0]) if (last_tokens == last_tokens[0]).all() else None
        n_leaves = np.bincount(lengths, minlength=codes.shape[1] + 1).tolist()
        return cls(codes.shape[1], levels.tolist(), n_leaves, last_token, tensors)

    def codes(self, items):
        """(...,) items -> (..., T) tokens, -1 behind each code and for the padding item."""
        path = torch.where((items > 0).unsqueeze(-1), self.path[self.rank[items]], -1)
        return torch.where(path < 0, -1, self.token[path])

    def children_of(self, nodes):
        """(...,) nodes -> (..., A) children and bool, which of them there are; A of the node that has most.

        Behind a node's last child its first one is repeated, behind a leaf some node.
        """
        start = self.children_start[nodes]
        number = self.children_start[nodes + 1] - start
        steps = torch.arange(max(1, int(number.max())), device=nodes.device)
        there = steps < number.unsqueeze(-1)
        last = len(self.token) - 1
        return (start.unsqueeze(-1) + steps * there).clamp(max=last), there

    def walk(self, tokens):
        """(R, t) tokens -> (R,) the node that each row leads to from the root, -1 where there is none."""
        nodes = tokens.new_zeros(len(tokens))
        for token in tokens.unbind(1):
            wanted = nodes * self._span + token
            place = torch.searchsorted(self._edges, wanted).clamp(max=len(self._edges) - 1)
            known = (nodes >= 0) & (token >= 0) & (token < self._span)
            found = known & (self._edges[place] == wanted)
            nodes = torch.where(found, place + 1, -1)
        return nodes

    def level_tokens(self, depth):
        """Tokens (U,), rising, that lead to nodes of a depth from 1."""
        return getattr(self, f"_tokens_{depth}")


class Candidates:
    """Which items each of B rows may get: one trie, and counts of what is allowed.

    Args:
        trie: of all items.
        allowed: (B, I) bool; seen items are excluded by False. The padding item is never allowed.
    """

    def __init__(self, trie, allowed):
        if allowed.shape[1] != trie.n_items:
            raise ValueError(f"allowed has {allowed.shape[1]} columns, the trie {trie.n_items} items.")
        self.trie = trie
        self.before = allowed.new_zeros(allowed.shape, dtype=torch.int32)  # allowed items that come before in the order
        torch.cumsum(allowed[:, trie.order], dim=1, dtype=torch.int32, out=self.before[:, 1:])

    def __len__(self):
        return len(self.before)

    def below(self, nodes):
        """(B, ...) nodes -> (B, ...) bool, whether an allowed item of the row is below."""
        flat = nodes.flatten(1)
        number = self.before.gather(1, self.trie.end[flat]) - self.before.gather(1, self.trie.first[flat])
        return (number > 0).view(nodes.shape)


def _checked_lengths(codes):
    """(I,) tokens of each code."""
    if codes.ndim != 2 or len(codes) < 2:
        raise UserError(f"codes are a table with a row an item, the first of them empty, not of shape {codes.shape}.")
    present = codes >= 0
    lengths = present.sum(1)
    if (present[:, 1:] & ~present[:, :-1]).any():
        raise UserError("A code is tokens from its row's first place on, -1 behind them.")
    if lengths[0]:
        raise UserError("Row 0 of the codes is the padding item's and has none (-1 in every place).")
    if not lengths[1:].all():
        raise UserError(f"Item {1 + int(lengths[1:].argmin())} has no code; every item needs one.")
    return lengths


def _check_different(codes, lengths, order, new):
    """UserError where a code begins with another's; in the order of codes they are neighbours."""
    begun = ~new[np.arange(1, len(codes)), lengths[:-1] - 1]
    if begun.any():
        place = int(begun.argmax())
        first, second = order[place], order[place + 1]
        code = " ".join(map(str, codes[place, : lengths[place]]))
        if lengths[place] == lengths[place + 1]:
            raise UserError(f"Items {first} and {second} have the same code ({code}); make the codes differ.")
        raise UserError(
            f"The code of item {first} ({code}) begins that of item {second}; give the token that ends codes (end)."
        )
