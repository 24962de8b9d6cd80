"""Full ranking by the scores held beside RecBole's default step, 4096 scores: one user at a time above 4,096 items.

The same loader, model and metrics; only ``eval_batch_size`` differs: not set, or RecBole's default written out.
Untrained models on generated interactions; CPU seconds of an evaluation. Run: ``python benchmarks/full_ranking_step.py``
"""

import argparse
import tempfile
from contextlib import chdir
from pathlib import Path

import numpy as np
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from timing import in_turn, quotients, row, write

from recbole_persona.config import Config

# Users of each: those of a model that scores pairs take longest.
MODELS = {"BPR": 1000, "MultiVAE": 200, "AMPCF": 200, "NeuMF": 40}
EACH = 12  # interactions of a user


def generate(folder, users, items) -> None:
    """Write the data set ``generated``: users with ``EACH`` items drawn evenly, every item at least once."""
    path = Path(folder) / "generated"
    path.mkdir()
    random = np.random.default_rng(0)
    users, drawn = np.repeat(np.arange(users), EACH), random.integers(0, items, users * EACH)
    drawn[:items] = np.arange(items)[: len(drawn)]
    lines = [f"u{user}\ti{item}" for user, item in zip(users, drawn)]
    path.joinpath("generated.inter").write_text("user_id:token\titem_id:token\n" + "\n".join(lines) + "\n")


def evaluation(folder, name, **settings):
    """A function that evaluates a fresh model on the test part, and the number of test users."""
    shared = {"data_path": folder, "load_col": {"inter": ["user_id", "item_id"]}, "use_gpu": False, "state": "ERROR"}
    config = Config(name, "generated", config_dict=shared | settings)
    init_seed(config["seed"], True)
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train)
    return (lambda: trainer.evaluate(test, load_best_model=False)), test.sample_size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in asked.models:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):  # where RecBole's trainer writes
            generate(folder, MODELS[name], asked.items)
            ours, users = evaluation(folder, name)
            theirs, _ = evaluation(folder, name, eval_batch_size=4096)
            seconds = in_turn({"recbole": theirs, "ours": ours}, asked.repeats)
        claim = f"seconds of evaluating {name} by full ranking" + ", at least 10" * (name == "BPR")
        ratio = quotients(seconds["recbole"], seconds["ours"])
        sizes = {"users": users, "items": asked.items, "seconds, ours": seconds["ours"]}
        rows.append(row(claim, "eval_batch_size: 4096, RecBole's default", ratio, asked.repeats, sizes))
    write(__file__, rows)


if __name__ == "__main__":
    main()
