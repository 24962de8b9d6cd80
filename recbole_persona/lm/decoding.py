"""Generating items: only the codes of a trie, inside transformers' ``generate`` or by a beam search of our own.

A code's score is the sum of its tokens' log-probabilities, with no penalty on length: item codes are names, not sentences.

Which tokens they are normalised over: ``vocabulary`` takes the model's own probabilities, over all V tokens. An item's score
is then its likelihood, and items are ranked as by the probability of an item given that it is one. ``allowed`` takes at each
node the children alone as if the model had been asked to choose among them; it saves the product with V - U rows of the
output embedding, but ranks differently where a prefix is likely and its continuations are not, and so equals ``vocabulary``
only for a model that has learned which codes there are.

Shapes: B rows, W beams, A children of a node at most, V tokens of the vocabulary, U tokens that lead to one level.
"""

import torch
from transformers import LogitsProcessor
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput

from recbole_persona.errors import UserError
from recbole_persona.lm.tree_decoder import read_inputs, tree_decoder

NORMALISERS = ("vocabulary", "allowed")


class TrieProcessor(LogitsProcessor):
    """Masks what no item's code continues with; for ``generate(logits_processor=[...])`` with any model, beams or not.

    Leaves the same beams as ``prefix_allowed_tokens_fn`` with the children of each prefix. Set ``length_penalty=0``,
    ``max_new_tokens`` to ``trie.longest``, and more items than beams: ``generate`` fills beams that it has no item for
    with anything, at a score of -inf.

    Args:
        trie: of all items.
        start: tokens that stand before a code: 1 (the start token) for encoder-decoders, 0 for a decoder-only model with
            ``inputs_embeds``, the prompt's length for one with ``input_ids``.
        end: the model's end of sequence, what alone may follow a code.
        candidates: :class:`~recbole_persona.lm.trie.Candidates` of the rows, None: all items.

    Raises:
        UserError: codes of several lengths that do not end in ``end``.
    """

    def __init__(self, trie, start, end, candidates=None):
        if sum(map(bool, trie.n_leaves)) > 1 and trie.last_token != end:
            raise UserError(
                f"Codes of several lengths must end in the model's end of sequence ({end}) to be generated: "
                "give it to Trie.build as end."
            )
        self.trie, self.start, self.end, self.candidates = trie, start, end, candidates

    def __call__(self, input_ids, scores):
        """(R, t) tokens so far, (R, V) scores of the next -> (R, V), -inf where no item continues."""
        nodes = self.trie.walk(input_ids[:, self.start :])
        ended = (nodes < 0) | (self.trie.item[nodes] > 0)
        children, _ = self.trie.children_of(nodes.clamp(min=0))  # (R, A); repeated ones do no harm
        tokens = torch.where(ended.unsqueeze(1), self.end, self.trie.token[children])
        kept = scores.gather(1, tokens)
        if self.candidates is not None:
            rows = children.view(len(self.candidates), -1)  # (B, W * A)
            below = self.candidates.below(rows).view(children.shape) | ended.unsqueeze(1)
            kept = kept.masked_fill(~below, -torch.inf)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, kept)


class Beams:
    """The beams of B rows on their way through a trie, without a model.

    One round: ``children`` are looked up, the caller tells their log-probabilities, ``advance`` keeps the best. An item that is
    complete leaves the beams, if it is among the W best of its round, and competes with the other complete ones; the W
    best of the rest go on. So does beam search in transformers.

    Attributes:
        nodes: (B, W') nodes that the beams stand at, W' at most W; a leaf for a beam of score -inf.
        children, there: (B, W', A) nodes that follow, and which of them are allowed.
        tokens: (B, W', A) that lead to them.
        depth: of ``nodes``.
        visible: (1 or B, W', k) bool, which of all nodes so far are ancestors of a beam or the beam itself.
        items, scores: (B, W) the complete ones, the best first; 0 and -inf where there are fewer.
    """

    def __init__(self, trie, n_rows, n_beams, candidates=None):
        if n_beams >= trie.n_items:
            raise UserError(f"{n_beams} beams are more than the {trie.n_items - 1} items; ask for fewer.")
        if candidates is not None and len(candidates) != n_rows:
            raise ValueError(f"There are candidates of {len(candidates)} rows for {n_rows} rows.")
        self.trie, self.n_beams, self.candidates = trie, n_beams, candidates
        self.nodes = trie.order.new_zeros(n_rows, 1)
        self.beam_scores, self.visible, self.depth = None, None, 0
        self.items, self.scores = self.nodes[:, :0], None
        self._look_up()

    def _look_up(self):
        self.children, self.there = self.trie.children_of(self.nodes)
        self.tokens = self.trie.token[self.children]
        if self.candidates is not None:
            self.there = self.there & self.candidates.below(self.children)

    def advance(self, log_probs):
        """One level down: ``log_probs`` (B, W', A) of ``tokens``. Returns whether there is anything left to do."""
        n_rows, _, width = log_probs.shape
        if self.beam_scores is not None:
            log_probs = log_probs + self.beam_scores.unsqueeze(2)
        scores = log_probs.masked_fill(~self.there, -torch.inf).view(n_rows, -1)  # (B, W' * A)
        children = torch.where(self.there, self.children, len(self.trie.token) - 1).view(
            n_rows, -1
        )  # the last is a leaf
        self.depth += 1
        n_leaves = self.trie.n_leaves[self.depth]
        if n_leaves:
            self._complete(scores, children)
        if n_leaves == self.trie.levels[self.depth + 1] - self.trie.levels[self.depth]:
            return False
        if n_leaves:
            scores = scores.masked_fill(self.trie.item[children] > 0, -torch.inf)
        self.beam_scores, best = scores.topk(min(self.n_beams, scores.shape[1]))
        self.nodes = children.gather(1, best)
        self._keep_visible(best // width)
        self._look_up()
        # what is not likelier than the worst of W complete items cannot become so
        hopeless = self.scores is not None and self.items.shape[1] == self.n_beams
        return not (hopeless and bool((self.beam_scores[:, 0] <= self.scores[:, -1]).all()))

    def _complete(self, scores, children):
        """Merge the items among the best W of the round into the complete ones."""
        scores, best = scores.topk(min(self.n_beams, scores.shape[1]))
        items = self.trie.item[children.gather(1, best)]
        scores = scores.masked_fill(items == 0, -torch.inf)
        if self.scores is not None:
            scores, items = torch.cat([self.scores, scores], dim=1), torch.cat([self.items, items], dim=1)
        self.scores, best = scores.topk(min(self.n_beams, scores.shape[1]))
        self.items = items.gather(1, best).masked_fill(self.scores == -torch.inf, 0)

    def _keep_visible(self, parents):
        """Ancestors of the new beams: those of their parents, and themselves."""
        own = torch.eye(parents.shape[1], dtype=torch.bool, device=parents.device).unsqueeze(0)
        if self.visible is None:
            self.visible = own
            return
        seen = self.visible.expand(len(parents), -1, -1)
        inherited = seen.gather(1, parents.unsqueeze(2).expand(-1, -1, seen.shape[2]))
        self.visible = torch.cat([inherited, own.expand(len(parents), -1, -1)], dim=2)


@torch.no_grad()
def beam_search(model, trie, n_beams, candidates=None, normalise="vocabulary", **inputs):
    """The likeliest items of each row, as beam search finds them.

    Same beams as ``generate`` with a :class:`TrieProcessor`, without a mask over the vocabulary, without a copy of the
    inputs or of a cache for every beam.

    Args:
        model: of transformers, with a language modelling head, in evaluation mode.
        trie: of all items, on the model's device.
        n_beams: W, at most the number of items.
        candidates: :class:`~recbole_persona.lm.trie.Candidates` of the rows, None: all items.
        normalise: ``vocabulary`` or ``allowed`` (see above).
        inputs: of :func:`~recbole_persona.lm.tree_decoder.read_inputs`.

    Returns:
        Items (B, W) int64, distinct, the best first, and their scores (B, W). A row with fewer candidates than W has the
        padding item 0 with -inf in its last places.

    Raises:
        UserError: more beams than items, an unknown normaliser, a code outside the model's vocabulary, a model that our
            loop cannot run.
    """
    check_vocabulary(model, trie)
    if normalise not in NORMALISERS:
        raise UserError(f"normalise is one of {', '.join(NORMALISERS)}, not {normalise!r}.")
    decoder = tree_decoder(model, read_inputs(model, **inputs), trie.longest)
    beams = Beams(trie, len(decoder), n_beams, candidates)
    measured = _over_vocabulary if normalise == "vocabulary" else _over_allowed
    states = decoder.root.unsqueeze(1)  # (B, 1, d)
    while beams.advance(measured(decoder, states, beams)):
        depth = torch.full_like(beams.nodes[:1], beams.depth)
        states = decoder.extend(trie.token[beams.nodes], depth, beams.visible, keep=True)
    missing = n_beams - beams.items.shape[1]
    items = torch.nn.functional.pad(beams.items, (0, missing))
    return items, torch.nn.functional.pad(beams.scores, (0, missing), value=-torch.inf)


def _over_vocabulary(decoder, states, beams):
    """(B, W', A) log-probabilities of the beams' next tokens."""
    row = torch.arange(beams.nodes.numel(), device=states.device).repeat_interleave(beams.tokens.shape[2])
    return decoder.log_probs(states.flatten(0, 1), row, beams.tokens.flatten()).view(beams.tokens.shape)


def _over_allowed(decoder, states, beams):
    """As :func:`_over_vocabulary`, of each beam's allowed tokens among themselves."""
    level = beams.trie.level_tokens(beams.depth + 1)
    place = torch.searchsorted(level, beams.tokens).clamp(max=len(level) - 1)  # a dead beam's are nowhere
    logits = decoder.logits(states, level).gather(2, place).masked_fill(~beams.there, -torch.inf)
    return logits - logits.logsumexp(dim=2, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)


def check_vocabulary(model, trie):
    """UserError for codes that the model has no tokens for."""
    size, largest = model.get_output_embeddings().out_features, int(trie.token.max())
    if largest >= size:
        raise UserError(f"The items' codes use token {largest}; the model's vocabulary has {size}.")


def generate_items(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    trie=None,
    candidates=None,
    normalise="vocabulary",
    **model_kwargs,
):
    """:func:`beam_search` as ``generate(custom_generate=generate_items, trie=…, num_beams=…)``.

    Returns:
        What ``generate`` returns: codes behind the tokens of ``input_ids``, (B * num_return_sequences, t + T), padded
        with the padding token; with ``return_dict_in_generate`` also ``sequences_scores``.
    """
    expanded, n_beams = (
        max(generation_config.num_beams, generation_config.num_return_sequences),
        generation_config.num_beams,
    )
    names = ("encoder_outputs",) if model.config.is_encoder_decoder else ("inputs_embeds",)
    inputs = {name: model_kwargs[name] for name in ("attention_mask", *names) if model_kwargs.get(name) is not None}
    if "encoder_outputs" in inputs:
        inputs["encoder_outputs"] = inputs["encoder_outputs"][0]
    elif "inputs_embeds" not in inputs:
        inputs["input_ids"] = input_ids
    inputs = {name: values[::expanded] for name, values in inputs.items()}  # generate has a copy for every beam
    items, scores = beam_search(model, trie, n_beams, candidates, normalise, **inputs)
    returned = generation_config.num_return_sequences
    codes = trie.codes(items[:, :returned].flatten())
    padding = generation_config.pad_token_id or 0
    before = input_ids[::expanded].repeat_interleave(returned, dim=0)
    sequences = torch.cat([before, codes.masked_fill(codes < 0, padding)], dim=1)
    if not generation_config.return_dict_in_generate:
        return sequences
    kind = GenerateBeamEncoderDecoderOutput if model.config.is_encoder_decoder else GenerateBeamDecoderOnlyOutput
    return kind(sequences=sequences, sequences_scores=scores[:, :returned].flatten())
