"""RecTools' SASRec in an environment of its own: trains a few batches for every line on standard input.

Started by ``user_encoder_epoch.py``: ``python peer_rectools.py INTERACTIONS SIZES``, a CSV file of (user, item, time)
and a JSON object. First answer: the number of batches of an epoch; then, for each line, CPU seconds of ``batches``.
"""

import json
import os
import sys
import time

import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


class Measured(Callback):
    """Waits for a line before every ``batches`` of them, and answers with their seconds."""

    def __init__(self, batches, answers):
        self.batches, self.answers = batches, answers  # the second is a file descriptor: Lightning copies callbacks

    def answer(self, number):
        os.write(self.answers, f"{number}\n".encode())

    def on_train_start(self, trainer, module):
        self.answer(trainer.num_training_batches)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx % self.batches == 0:
            if not sys.stdin.readline():
                return -1  # skips the rest of the epoch
            self.start = time.process_time()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (batch_idx + 1) % self.batches == 0:
            self.answer(time.process_time() - self.start)


def main(interactions, sizes):
    answers = os.dup(1)
    os.dup2(2, 1)  # what Lightning prints must not mix with the answers
    torch.set_num_threads(1)
    sizes = json.loads(sizes)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    measured = Measured(sizes["batches"], answers)
    table = pd.read_csv(interactions, names=[Columns.User, Columns.Item, Columns.Datetime])
    table[Columns.Datetime] = pd.to_datetime(table[Columns.Datetime], unit="s")
    table[Columns.Weight] = 1.0
    SASRecModel(
        n_blocks=sizes["n_layers"],
        n_heads=sizes["n_heads"],
        n_factors=sizes["hidden_size"],
        dropout_rate=sizes["dropout"],
        session_max_len=sizes["MAX_ITEM_LIST_LENGTH"],
        batch_size=sizes["windows"],
        loss="softmax",
        dataloader_num_workers=0,
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=lambda: Trainer(max_epochs=1, accelerator="cpu", callbacks=[measured], **quiet),
    ).fit(Dataset.construct(table))


if __name__ == "__main__":
    main(*sys.argv[1:])
