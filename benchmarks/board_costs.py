"""What a board spends beside training: the statistics of a row, and the data of a cell.

The comparisons of all metrics of a row by one bootstrap, beside one bootstrap for each metric (the same numbers); and the data
of a row's second seed as a copy, beside reading the files again. CPU seconds. Run: ``python benchmarks/board_costs.py``
"""

import argparse
import json
import tempfile

import numpy as np
import pandas as pd
import torch
from recbole.data import create_dataset
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
from recbole_persona.runner.shared_data import dataset_of, sharing_data

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


def data(folder, name, repeats) -> dict:
    """CPU seconds of the data set of a row's other seeds: read again, and copied."""
    settings = {"data_path": folder, "load_col": {"inter": COLUMNS}, "use_gpu": False, "state": "ERROR"}
    configs = [Config("BPR", name, config_dict=settings | {"seed": seed}) for seed in range(2)]
    with sharing_data():
        dataset_of(configs[0])
        return in_turn({"read": lambda: create_dataset(configs[1]), "copied": lambda: dataset_of(configs[1])}, repeats)


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
        seconds = data(folder, f"n{asked.interactions}", asked.repeats)
    ratio = quotients(seconds["read"], seconds["copied"])
    claim = "seconds of the data set of a row's other seeds"
    rows.append(row(claim, "reading the files", ratio, asked.repeats, {"interactions": asked.interactions}))
    write(__file__, rows)


if __name__ == "__main__":
    main()
