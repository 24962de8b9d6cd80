"""Evaluation against 100 sampled negatives of every user of ml-100k, beside RecBole's loader and trainer.

RecBole's are timed on their first batches, ours on all of them, so that what is compared is seconds a user; the scores of the
same candidates are compared. Run: ``python benchmarks/sampled_evaluation.py``
"""

import argparse
import itertools
import os
import tempfile

import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed
from timing import in_turn, quotients, row, write

from recbole_persona.config import Config

SETTINGS = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni100"},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "metrics": ["NDCG"],
    "valid_metric": "NDCG@10",
    "use_gpu": False,
    "show_progress": False,
}
MODELS = {"SASRec": {"train_neg_sample_args": None}, "GRU4Rec": {"train_neg_sample_args": None}, "BPR": {}}
LARGEST_ERROR = 1e-4


def compare(model, batches, repeats):
    """A row: the ratio of seconds a user, after a check that the scores of our batches are RecBole's."""
    config = Config(model, "ml-100k", config_dict=SETTINGS | MODELS[model])
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    made = get_model(model)(config, train._dataset).eval()
    ours, theirs = get_trainer(config["MODEL_TYPE"], model)(config, made), Trainer(config, made)
    ours.tot_item_num = theirs.tot_item_num = test._dataset.item_num
    loader = NegSampleEvalDataLoader(config, test._dataset, test._sampler)

    def recbole():
        for batch in itertools.islice(loader, batches):
            theirs._neg_sample_batch_eval(batch)

    def all_users():
        test.negatives = None  # the drawing counts
        for batch in test:
            ours._neg_sample_batch_eval(batch)

    with torch.no_grad():
        seconds = in_turn({"recbole": recbole, "ours": all_users}, repeats)
        batch = next(iter(test))
        pair = [trainer._neg_sample_batch_eval(batch)[1] for trainer in (ours, theirs)]
    finite = torch.isfinite(pair[0])
    error = (pair[0] - pair[1])[finite].abs().max().item()
    if not error <= LARGEST_ERROR or not torch.equal(finite, torch.isfinite(pair[1])):
        raise SystemExit(f"The scores differ by {error:.1e}; equal up to {LARGEST_ERROR} they would be comparable.")
    users = len(test.uid_list)
    timed = min(users, batches * loader.step)
    a_user = [value / timed for value in seconds["recbole"]], [value / users for value in seconds["ours"]]
    sizes = {
        "data": "ml-100k",
        "negatives": 100,
        "users": users,
        "users of the peer": timed,
        "largest difference": error,
    }
    return row("seconds a user of sampled evaluation", f"RecBole, {model}", quotients(*a_user), repeats, sizes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=3, help="of RecBole's loader that are timed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole's trainer writes its logs where it stands
        rows = [compare(model, arguments.batches, arguments.repeats) for model in MODELS]
        os.chdir("/")
    write(__file__, rows)


if __name__ == "__main__":
    main()
