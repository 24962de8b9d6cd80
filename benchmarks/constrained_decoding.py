"""A step of beam search over item codes, beyond the log-softmax: ours beside ``prefix_allowed_tokens_fn``.

All start from the same log-probabilities (B * W, V) and the same beams, at every level of the codes; a step's cost is the mean
over them. The processor replaces ``prefix_allowed_tokens_fn`` inside ``generate``. Our own loop makes no mask: its step looks up
the children, gathers their log-probabilities and selects the next beams, which inside ``generate`` comes on top and is measured
as a row of its own. Run: ``python benchmarks/constrained_decoding.py``
"""

import argparse

import numpy as np
import torch
from timing import in_turn, quotients, row, write
from transformers import PrefixConstrainedLogitsProcessor

from recbole_persona.lm.decoding import Beams, TrieProcessor
from recbole_persona.lm.trie import Trie

START, END = 0, 1


def random_codes(n_items, vocabulary, n_levels, n_clusters, seed):
    """(I, n_levels + 1) codes as residual k-means gives them: clusters of unequal size, and a token that tells apart what
    shares all clusters; every level has tokens of its own."""
    generator = np.random.default_rng(seed)
    size = 1 / np.sqrt(np.arange(1, n_clusters + 1))
    clusters = generator.choice(n_clusters, size=(n_items, n_levels), p=size / size.sum())
    clusters = clusters[np.lexsort(clusters.T)]
    new = np.append(True, (clusters[1:] != clusters[:-1]).any(axis=1))
    places = np.arange(n_items)
    alike = places - np.maximum.accumulate(np.where(new, places, 0))
    codes = np.concatenate([clusters, alike[:, None]], axis=1)
    if alike.max() >= n_clusters or 2 + (n_levels + 1) * n_clusters > vocabulary:
        raise SystemExit("The vocabulary or the number of clusters is too small for so many items.")
    tokens = generator.permutation(np.arange(2, vocabulary))[: (n_levels + 1) * n_clusters].reshape(n_levels + 1, -1)
    codes = tokens[np.arange(n_levels + 1), codes]
    return np.concatenate([np.full((1, n_levels + 1), -1), generator.permutation(codes)])


def allowed_tokens(codes):
    """``prefix_allowed_tokens_fn`` as it is commonly written: nested dictionaries, walked for every beam."""
    trie = {}
    for code in codes[1:].tolist():
        node = trie
        for token in code:
            node = node.setdefault(token, {})

    def allowed(batch_id, sequence):
        node = trie
        for token in sequence.tolist()[1:]:  # the start token
            node = node.get(token, {})
        return list(node) or [END]

    return allowed


def select(log_probs, beam_scores, n_beams):
    """What ``generate`` does with the masked log-probabilities: the best 2 W of W * V continuations."""
    summed = log_probs.view(len(beam_scores), n_beams, -1) + beam_scores.unsqueeze(2)
    return summed.view(len(beam_scores), -1).topk(2 * n_beams)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--vocabulary", type=int, default=32_128)
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n_rows, n_beams, vocabulary = arguments.batch, arguments.beams, arguments.vocabulary
    codes = random_codes(arguments.items, vocabulary, 3, arguments.clusters, seed=0)
    trie = Trie.build(codes)
    log_probs = torch.randn(n_rows * n_beams, vocabulary).log_softmax(dim=1)
    by_beam = log_probs.view(n_rows, n_beams, vocabulary)
    scores = torch.zeros(n_rows, n_beams)

    steps, beams = [torch.full((n_rows * n_beams, 1), START)], Beams(trie, n_rows, n_beams)
    while beams.advance(by_beam[:, : beams.nodes.shape[1]].gather(2, beams.tokens)):
        path = trie.path[trie.first[beams.nodes], : beams.depth]  # (B, W, t)
        if path.shape[1] < n_beams:
            raise SystemExit(
                f"The first level has {path.shape[1]} tokens, fewer than {n_beams} beams; ask for more clusters."
            )
        steps.append(torch.cat([steps[0], trie.token[path].flatten(0, 1)], dim=1))
    theirs = PrefixConstrainedLogitsProcessor(allowed_tokens(codes), n_beams)
    ours = TrieProcessor(trie, start=1, end=END)
    for step in steps:
        assert torch.equal(theirs(step, log_probs), ours(step, log_probs))

    def own_loop():
        beams = Beams(trie, n_rows, n_beams)
        while beams.advance(by_beam[:, : beams.nodes.shape[1]].gather(2, beams.tokens)):
            pass

    functions = {
        "prefix_allowed_tokens_fn": lambda: [theirs(step, log_probs) for step in steps],
        "processor": lambda: [ours(step, log_probs) for step in steps],
        "own loop": own_loop,
        "selection": lambda: [select(log_probs, scores, n_beams) for _ in steps],
    }
    seconds = in_turn(functions, arguments.repeats)
    peer = seconds["prefix_allowed_tokens_fn"]
    sizes = {
        **{name: getattr(arguments, name) for name in ("items", "batch", "beams", "vocabulary")},
        "tokens of a code": trie.longest,
        "nodes": len(trie.token),
        "milliseconds a step": {name: 1000 * sorted(own)[len(own) // 2] / len(steps) for name, own in seconds.items()},
    }
    with_selection = [first + second for first, second in zip(peer, seconds["selection"])]
    asked = {
        "processor inside generate, at least 3": (peer, seconds["processor"]),
        "own loop, its selection of beams included, at least 20": (peer, seconds["own loop"]),
        "own loop, selection included on both sides": (with_selection, seconds["own loop"]),
    }
    name = "prefix_allowed_tokens_fn"
    rows = [
        row(f"seconds of a step, {claim}", name, quotients(*both), arguments.repeats, sizes)
        for claim, both in asked.items()
    ]
    write(__file__, rows)


if __name__ == "__main__":
    main()
