"""An epoch of UserEncoder beside RecBole's SASRec on ml-100k: every training target once, cross-entropy over all items.

Same width, layers, heads, length, dropout, optimiser and targets per batch; loader, loss, gradients and optimiser
together. SASRec has a padded row for every target; its seconds are those of a sample of its batches, by the number of
rows. Run: ``python benchmarks/causal_epoch.py``
"""

import argparse
import os
import tempfile
from itertools import islice

import torch
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed
from timing import in_turn, quotients, row, write

from recbole_persona.config import Config

SIZES = {
    "hidden_size": 64,
    "inner_size": 256,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dropout_prob": 0.4,
    "attn_dropout_prob": 0.4,
    "MAX_ITEM_LIST_LENGTH": 50,
    "train_batch_size": 2048,
}
SETTINGS = {**SIZES, "train_neg_sample_args": None, "use_gpu": False, "show_progress": False, "state": "ERROR"}


def trainer_of(model):
    """A trainer of the model, and the loader of its training part."""
    config = Config(model, "ml-100k", config_dict=SETTINGS)
    init_seed(config["seed"], config["reproducibility"])
    loader = data_preparation(config, create_dataset(config))[0]
    return Trainer(config, get_model(model)(config, loader._dataset)), loader


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample", type=int, default=2, help="batches of SASRec in a measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole's trainer writes its logs where it stands
        own, windows = trainer_of("UserEncoder")
        peer, rows = trainer_of("recbole:SASRec")
        seconds = in_turn(
            {
                "own": lambda: own._train_epoch(windows, 0),
                "peer": lambda: peer._train_epoch(islice(rows, arguments.sample), 0),
            },
            arguments.repeats,
        )
        os.chdir("/")
    targets = len(rows._dataset.inter_feat)
    share = targets / (arguments.sample * SIZES["train_batch_size"])  # of the epoch that the sample stands for
    sizes = {"data": "ml-100k", "targets": targets, **SIZES, "batches of SASRec timed": arguments.sample}
    ratio = quotients([share * value for value in seconds["peer"]], seconds["own"])
    claim = "seconds of an epoch over every target of ml-100k, cross-entropy over all items, at least 15, aim 25"
    write(__file__, [row(claim, "RecBole's SASRec", ratio, arguments.repeats, sizes)])


if __name__ == "__main__":
    main()
