"""What a board and a search spend beside training: the statistics of a row, and the data of a cell or trial.

The comparisons of all metrics of a row by one bootstrap, beside one bootstrap for each metric (the same numbers); and the
loaders of what another run of the process has read and split, beside reading and splitting again: for another seed, another
model, another trial. CPU seconds. Run: ``python benchmarks/board_costs.py``
"""

import argparse
import json
import tempfile

import numpy as np
import pandas as pd
import torch
from recbole.data import create_dataset, data_preparation
from sequence_dataset import COLUMNS, generate
from timing import in_turn, quotients, row, write

from recbole_persona.config import Config
from recbole_persona.evaluate.significance import (
    average_seeds,
    compare,
    compare_metrics,
    corpus_counts,
    paired_bootstrap,
)
from recbole_persona.runner.shared_data import data_of, sharing_data

MEANS = [f"{name}@{k}" for name in ("recall", "ndcg", "mrr", "hit", "precision") for k in (5, 10, 20)]
CORPUS = [f"{name}@10" for name in ("itemcoverage", "shannonentropy", "giniindex")]


def table(seed, users, items):
    """A per-user table of 18 metrics."""
    random = np.random.default_rng(seed)
    lists = [json.dumps([f"i{item}" for item in each]) for each in random.integers(0, items, (users, 10))]
    return pd.DataFrame(
        {"user": [f"u{u}" for u in range(users)], **{m: random.random(users) for m in MEANS}, "items": lists}
    )


def statistics(users, items, means, corpus) -> dict:
    """Comparisons of all metrics of a row: by one bootstrap each, and by one for all."""
    ours, baseline = [table(0, users, items)], [table(1, users, items)]

    def each():
        found = {m: compare(average_seeds(ours, m), average_seeds(baseline, m), "t") for m in means}
        return found | {m: paired_bootstrap(*corpus_counts(ours, baseline, m, items + 1)) for m in corpus}

    return {"each": each, "all": lambda: compare_metrics(ours, baseline, means, corpus, items + 1, "t")}


RUNS = {  # the first run of a process, and another one
    "the other seeds of a general model": (("BPR", {}), ("BPR", {"seed": 1})),
    "the other seeds of a sequential model": (("SASRec", {}), ("SASRec", {"seed": 1})),
    "the other sequential models of a board": (("SASRec", {}), ("GRU4Rec", {})),
    "the other trials of a search": (("SASRec", {}), ("SASRec", {"learning_rate": 0.01, "hidden_size": 32})),
}


def data(folder, name, runs, repeats) -> dict:
    """CPU seconds to the loaders of the second of two runs: read and split again, and shared."""
    settings = {"data_path": folder, "load_col": {"inter": COLUMNS}, "use_gpu": False, "state": "ERROR"}
    first, second = (Config(model, name, config_dict=settings | own) for model, own in runs)
    with sharing_data():
        data_of(first)
        return in_turn(
            {"again": lambda: data_preparation(second, create_dataset(second)), "shared": lambda: data_of(second)},
            repeats,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--interactions", type=int, default=200_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for means, corpus, what in ((MEANS, [], "means over users"), ([], CORPUS, "metrics of the items shown")):
        seconds = in_turn(statistics(asked.users, 1000, means, corpus), asked.repeats)
        ratio = quotients(seconds["each"], seconds["all"])
        sizes = {"users": asked.users, "metrics": len(means) + len(corpus), "seconds, one for all": seconds["all"]}
        claim = f"seconds of the comparisons of a row, {what}"
        rows.append(row(claim, "a bootstrap for each metric", ratio, asked.repeats, sizes))
    with tempfile.TemporaryDirectory() as folder:
        generate(folder, asked.interactions)
        for what, runs in RUNS.items():
            seconds = data(folder, f"n{asked.interactions}", runs, asked.repeats)
            ratio = quotients(seconds["again"], seconds["shared"])
            sizes = {"interactions": asked.interactions, "seconds, shared": seconds["shared"]}
            claim = f"seconds to the loaders of {what}"
            rows.append(row(claim, "reading and splitting again", ratio, asked.repeats, sizes))
    write(__file__, rows)


if __name__ == "__main__":
    main()
