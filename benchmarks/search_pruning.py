"""A search with pruning beside the same search without: AMPCF on ml-100k, its shipped space, the same number of trials.

Each search is a study in a folder of ``--runs``: one that was stopped goes on, one that is complete is read. A repeat has
a seed of its own, the same for both searches. Run: ``python benchmarks/search_pruning.py --runs=runs/search_pruning``
"""

import argparse
from pathlib import Path

import torch
from timing import quotients, row, spread, write

from recbole_persona import tune

FIRST_SEED = 2020


def searched(folder, pruner, seed, asked) -> tuple[float, int]:
    """The best validation score of a search, and the epochs that it took."""
    settings = {"seed": seed, "use_gpu": False} | ({"epochs": asked.epochs} if asked.epochs else {})
    found = tune(
        "AMPCF",
        "ml-100k",
        config_dict=settings,
        trials=asked.trials,
        workers=asked.workers,
        pruner=pruner,
        seeds=[],
        study_dir=folder / f"{pruner}-{seed}",
        study_name=f"{pruner}-{seed}",
        resume=True,
    )
    budget = found["budget"]
    print(
        f"{pruner}, seed {seed}: {found['best_value']:.4f}, {budget['epochs']} epochs, {budget['pruned']} pruned",
        flush=True,
    )
    return found["best_value"], budget["epochs"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/search_pruning"), metavar="DIR")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, help="at most; as shipped by default")
    parser.add_argument("--pruners", nargs="+", default=["growth", "median"])
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(FIRST_SEED, FIRST_SEED + asked.repeats)
    found = {
        pruner: list(zip(*(searched(asked.runs, pruner, seed, asked) for seed in seeds)))
        for pruner in (*asked.pruners, "none")
    }
    rows = []
    for pruner in asked.pruners:
        sizes = {"data": "ml-100k", "model": "AMPCF", "trials": asked.trials, "pruner": pruner}
        for claim, more, ours, peer in zip(
            ("median validation NDCG@10 of the search, at least 1", "epochs of the search, at most 0.6"),
            ("score", "epochs"),
            found[pruner],
            found["none"],
        ):
            ratio = quotients(ours, peer) | {"median": spread(ours)["median"] / spread(peer)["median"]}
            both = {f"{more}, pruned": list(ours), f"{more}, not pruned": list(peer)}
            rows.append(row(f"{pruner}: {claim}", "the search without pruning", ratio, asked.repeats, sizes | both))
    write(__file__, rows)


if __name__ == "__main__":
    main()
