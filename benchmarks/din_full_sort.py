"""Ranking all items of ml-100k for all 943 users by DIN, beside RecBole's DIN with the same weights.

RecBole's is timed on a sample of users, one at a time, as its evaluation scores them; ours on all of them at once
(``eval_batch_size``), so that what is compared is seconds a user. Run: ``python benchmarks/din_full_sort.py``
"""

import argparse
import os
import tempfile

import torch
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed
from timing import in_turn, quotients, row, write

from recbole_persona.config import Config

SETTINGS = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    "metrics": ["NDCG"],
    "valid_metric": "NDCG@10",
    "embedding_size": 10,  # RecBole's sizes
    "mlp_hidden_size": [256, 256, 256],
    "eval_batch_size": 2**21,
    "use_gpu": False,
    "show_progress": False,
}
STEPS, LARGEST_ERROR = 5, 1e-4


def trained(columns):
    """RecBole's DIN after a few steps, ours with its weights, and the rows of all users."""
    settings = SETTINGS | {"load_col": {"inter": ["user_id", "item_id", "timestamp"], **columns}}
    config = Config("recbole:DIN", "ml-100k", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    trainer = Trainer(config, get_model("recbole:DIN")(config, train._dataset))
    for _, batch in zip(range(STEPS), train):
        trainer.optimizer.zero_grad()
        trainer.model.calculate_loss(batch).backward()
        trainer.optimizer.step()
    trainer.model.eval()
    trainer.tot_item_num, trainer.item_tensor = test._dataset.item_num, test._dataset.get_item_feature()
    ours = get_model("DIN")(Config("DIN", "ml-100k", config_dict=settings | {"variant": "recbole"}), train._dataset)
    ours.load_recbole(trainer.model.state_dict())
    return trainer, ours.eval(), next(iter(test))[0]


def compare(columns, n_sample, repeats):
    """A row: the ratio of seconds a user, after a check that the scores are equal."""
    trainer, ours, rows = trained(columns)
    sample = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:n_sample].tolist()
    found = {}

    def recbole():
        found["recbole"] = torch.cat([trainer._full_sort_batch_eval((rows[[n]], None, None, None))[1] for n in sample])

    def all_users():
        found["ours"] = ours.full_sort_predict(rows).view(len(rows), -1)

    with torch.no_grad():
        seconds = in_turn({"recbole": recbole, "ours": all_users}, repeats)
    error = (found["recbole"] - found["ours"][sample])[:, 1:].abs().max().item()
    if not error <= LARGEST_ERROR:
        raise SystemExit(f"The scores differ by {error:.1e}; equal up to {LARGEST_ERROR} they would be comparable.")
    a_user = [value / n_sample for value in seconds["recbole"]], [value / len(rows) for value in seconds["ours"]]
    sizes = {
        "data": "ml-100k",
        "users": len(rows),
        "users of the peer": n_sample,
        "items": ours.n_items,
        "item columns": ours.items.names,
        "largest difference of a score": error,
        **{key: SETTINGS[key] for key in ("embedding_size", "mlp_hidden_size")},
    }
    claim = "seconds a user of ranking all items, at least 12, aim 20"
    return row(claim, f"RecBole's DIN, item columns {', '.join(ours.items.names)}", quotients(*a_user), repeats, sizes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--users", type=int, default=12, help="in the sample that RecBole's DIN ranks for")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole's trainer writes its logs where it stands
        columns = ({}, {"item": ["item_id", "release_year", "class"]})
        rows = [compare(more, arguments.users, arguments.repeats) for more in columns]
        os.chdir("/")
    write(__file__, rows)


if __name__ == "__main__":
    main()
