"""Training epochs of AMPCF beside RecBole's BPR on ml-100k: loader, loss, gradients and optimiser together.

Same batch size, dimension, optimiser and number of negatives; BPR with RecBole's own loader, both in RecBole's training
loop. Run: ``python benchmarks/training_throughput.py``
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
    "embedding_size": 64,
    "learning_rate": 0.001,
    "train_batch_size": 2048,
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
    "use_gpu": False,
    "show_progress": False,
}


def epoch_of(model, **more):
    """A function that trains one more epoch."""
    config = Config(model, "ml-100k", config_dict={**SETTINGS, **more})
    init_seed(config["seed"], config["reproducibility"])
    loader = data_preparation(config, create_dataset(config))[0]
    trainer = Trainer(config, get_model(model)(config, loader._dataset))
    return lambda: trainer._train_epoch(loader, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole's trainer writes its logs where it stands
        seconds = in_turn(
            {
                "bpr": epoch_of("BPR"),
                "bare": epoch_of("AMPCF", n_personas=1, item_bias=False, reg_weight=0.0),
                "one": epoch_of("AMPCF", n_personas=1),
                "four": epoch_of("AMPCF", n_personas=4),
            },
            repeats,
        )
        os.chdir("/")
    sizes = {
        "data": "ml-100k",
        **{key: SETTINGS[key] for key in ("embedding_size", "train_batch_size")},
        "negatives": 1,
    }
    rows = [
        row(claim, peer, quotients(seconds[above], seconds[below]), repeats, sizes)
        for claim, peer, above, below in (
            ("samples a second of AMPCF, K = 1, at least 1, aim 2", "RecBole's BPR", "bpr", "one"),
            ("the same without item bias and penalty, which BPR has not (no aim)", "RecBole's BPR", "bpr", "bare"),
            ("seconds of AMPCF with K = 4, at most 3", "AMPCF with K = 1", "four", "one"),
        )
    ]
    write(__file__, rows)


if __name__ == "__main__":
    main()
