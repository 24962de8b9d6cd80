"""Metrics of generated explanations on many pairs of texts: seconds of each, how they grow, and the usual packages beside them.

The metrics are those that a run computes, through RecBole's data struct, without a model (no BERTScore, no judge). A growth is
the exponent of a power of the number of pairs, fitted to a quarter, a half and all of them: 1 is linear, 2 is what comparing all
pairs takes. Those that could compare pairs are fitted to all, twice and four times as many, where no cache holds the texts.
Run: ``python benchmarks/text_metrics.py``
"""

import argparse
import gc
from itertools import combinations

import numpy as np
from recbole.evaluator.collector import DataStruct
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp
from timing import in_turn, quotients, row, spread, write

from recbole_persona.evaluate import named_features, text_metrics
from recbole_persona.registry import METRICS, TEXT, import_path

ASKED = {"metric_decimal_place": 4, "bleu_tokenizer": "13a", "metrics": [], "device": "cpu"}
LEFT_OUT = ("bertscore", "judge", "meteor")  # a model, an endpoint, WordNet
LINEAR = ("div", "usr", "fcr")
FAMILIES = {
    "bleu": ("bleu-1", "bleu-2", "bleu-3", "bleu-4"),
    "peter-bleu": ("peter-bleu-1", "peter-bleu-2", "peter-bleu-3", "peter-bleu-4"),
    "rouge": ("rouge-1", "rouge-2", "rouge-l"),
    "peter-rouge": ("peter-rouge-1", "peter-rouge-2", "peter-rouge-l"),
}


def corpus(n, seed=0) -> DataStruct:
    """``n`` pairs: sentences of some 12 words by Zipf's law, two thirds of each hypothesis from its reference."""
    generator = np.random.default_rng(seed)
    vocabulary = np.array([f"w{number}" for number in range(20_000)])
    share = 1 / np.arange(1, len(vocabulary) + 1)
    lengths = generator.integers(5, 20, n)
    drawn = vocabulary[generator.choice(len(vocabulary), size=(n, 20), p=share / share.sum())]
    kept = np.where(generator.random((n, 20)) < 2 / 3, drawn, np.roll(drawn, 1, axis=0))
    features = ["", *vocabulary[50:2050].tolist(), *(" ".join(pair) for pair in vocabulary[50:450].reshape(-1, 2))]
    items = generator.integers(1, 5_000, n)
    struct = DataStruct()
    gathered = {
        "text.reference": [" ".join(words[:length]) for words, length in zip(drawn, lengths)],
        "text.generated": [" ".join(words[:length]) for words, length in zip(kept, lengths)],
        "text.feature": generator.choice(features[1:], n).tolist(),
        "text.items": items,
        "text.rating": generator.integers(1, 6, n).astype(float),
        "data.features": features,
        "data.middle_rating": 3.0,
        "data.item_features": {item: generator.integers(1, len(features), 50) for item in range(1, 5_000)},
    }
    for name, value in gathered.items():
        struct.set(name, value)
    return struct


def forget():
    """What sacrebleu remembers: the tokens of 65,536 texts, so that fewer would be tokenised once in all repeats."""
    for tokenizer in (Tokenizer13a, TokenizerRegexp):
        tokenizer.__call__.cache_clear()


def fresh(struct) -> DataStruct:
    """The same texts, nothing computed."""
    forget()
    copy = DataStruct()
    for name in ("text.reference", "text.generated", "text.feature", "text.items", "text.rating"):
        copy.set(name, struct.get(name))
    for name in ("data.features", "data.middle_rating", "data.item_features"):
        copy.set(name, struct.get(name))
    return copy


def jobs(struct, metrics) -> dict:
    """A function per family of metrics that share their counts, each from texts alone; and all of them in one struct."""
    alone = {name: (name,) for name in metrics if not any(name in names for names in FAMILIES.values())}

    def measure(names):
        data = fresh(struct)
        return [metrics[name].value(data) for name in names]

    return {
        label: lambda names=names: measure(names)
        for label, names in {**FAMILIES, **alone, "all": tuple(metrics)}.items()
    }


def all_pairs(struct):
    """DIV as PETER's code computes it: every pair of sets of features."""
    data = fresh(struct)
    named = [set(found) for found in text_metrics.Features().named(data)]
    return np.mean([len(one & other) for one, other in combinations(named, 2)])


def counted(struct):
    """DIV as it is computed here."""
    return named_features.diversity(text_metrics.Features().named(fresh(struct)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--peer-pairs", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    entries = {name: entry for name, entry in METRICS.items() if entry.type == TEXT and name not in LEFT_OUT}
    metrics = {name: import_path(entry.path)(ASKED) for name, entry in entries.items()}
    quarters = {part: asked.pairs * part // 4 for part in (1, 2, 4, 8, 16)}
    by_size = {size: jobs(corpus(size), metrics) for size in quarters.values()}
    measured = {
        label: [quarters[part] for part in ((4, 8, 16) if label in LINEAR else (1, 2, 4))]
        for label in by_size[asked.pairs]
    }
    gc.collect()
    gc.freeze()  # the collector need not walk over all these texts whenever a metric makes a list
    seconds = in_turn(
        {(label, size): by_size[size][label] for label, sizes in measured.items() for size in sizes}, asked.repeats
    )
    rows = []
    for label, sizes in measured.items():
        growths = [
            float(np.polyfit(np.log(sizes), np.log([seconds[label, size][number] for size in sizes]), 1)[0])
            for number in range(asked.repeats)
        ]
        must = ", at most 1.2" if label in LINEAR else ""
        used = {"pairs": sizes, "seconds": [round(float(np.median(seconds[label, size])), 3) for size in sizes]}
        rows.append(
            row(f"growth of {label} over pairs of texts{must}", "1 is linear", spread(growths), asked.repeats, used)
        )
    small = corpus(asked.peer_pairs)
    hypotheses, references = small.get("text.generated"), small.get("text.reference")
    own, scorer = jobs(small, metrics), RougeScorer(["rouge1", "rouge2", "rougeL"])

    def sacrebleu():
        forget()
        return BLEU().corpus_score(hypotheses, [references])

    peers = {
        "bleu": ("sacrebleu", sacrebleu),
        "rouge": ("rouge-score", lambda: [scorer.score(*pair) for pair in zip(references, hypotheses)]),
        "div": ("all pairs of texts", lambda: all_pairs(small)),
    }
    for label, (name, function) in peers.items():
        ours = own[label] if label != "div" else lambda: counted(small)
        both = in_turn({"peer": function, "ours": ours}, asked.repeats)
        ratio = quotients(both["peer"], both["ours"])
        rows.append(
            row(f"seconds of {name} over ours, {label}", name, ratio, asked.repeats, {"pairs": asked.peer_pairs})
        )
    write(__file__, rows)


if __name__ == "__main__":
    main()
