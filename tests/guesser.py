"""A model whose worth is a setting, and which fails, waits or is interrupted on demand: for tests of searches.

``guesser:Guesser`` scores items by how often they were taken, times ``skill``. The data have five items that everybody
takes and five that hardly anybody does; so the validation score follows the skill.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from tiny import HEADER, SMALL

SPACE = {"skill": {"low": -1.0, "high": 1.0}, "width": [1, 2, 3]}


class Guesser(GeneralRecommender):
    input_type = InputType.POINTWISE
    config_defaults = {
        "skill": 0.5,
        "width": 2,  # nothing depends on it
        "fault": "none",  # "nan", "memory", "value", "interrupt", "kill": what happens in the second epoch
        "luck": 0.0,  # how much of the scores is random, by the seed
        "pause": 0.0,  # seconds of a step
        "diary": "",  # a file with a line for every step: process, trial's skill, number of the step
    }

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.skill, self.fault, self.pause, self.diary = (config[k] for k in ("skill", "fault", "pause", "diary"))
        self.config_file = Path(config["run_dir"] or ".") / "config.yaml"
        taken = torch.as_tensor(np.bincount(dataset.inter_feat["item_id"], minlength=dataset.item_num))
        self.register_buffer("taken", taken.float())
        self.register_buffer("chance", config["luck"] * torch.rand(dataset.item_num))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.weight = torch.nn.Parameter(torch.ones(1))

    def calculate_loss(self, interaction):
        if not self.config_file.is_file():  # the batch that is tried before a run begins
            return self.weight.square().sum()
        if self.diary:
            with open(self.diary, "a") as file:
                file.write(f"{os.getpid()} {self.skill:.12g} {int(self.step)}\n")
        time.sleep(self.pause)
        self.step += 1
        if self.step == 2:
            self._fail()
        loss = self.weight.square().sum()
        return loss * torch.nan if self.fault == "nan" else loss

    def _fail(self):
        if self.fault == "memory":
            raise MemoryError("the cat sat on it")
        if self.fault == "value":
            raise ValueError("2 heads do not divide a width of 3")
        once = Path(f"{self.diary}.{self.fault}")
        if self.fault in ("interrupt", "kill") and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGINT if self.fault == "interrupt" else signal.SIGKILL)

    def predict(self, interaction):
        return self.skill * self.taken[interaction["item_id"]]

    def full_sort_predict(self, interaction):
        noise = torch.linspace(0, 1, len(self.taken), device=self.taken.device)
        scores = self.skill * self.taken + (1 - abs(self.skill)) * noise * 4
        scores = scores + self.chance
        return scores.repeat(len(interaction["user_id"]), 1).flatten()


def write_data(place) -> dict:
    """Write the data set ``tiny`` under ``place``; returns settings for a run on it."""
    folder = place / "data/tiny"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"u{u}\ti{i}\t3\t{u * 10 + i}" for u in range(20) for i in (*range(5), 5 + u % 5)]
    (folder / "tiny.inter").write_text("\n".join([HEADER, *rows]) + "\n")
    return SMALL | {
        "data_path": str(place / "data"),
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
        "train_batch_size": 1000,
        "epochs": 3,
    }


def diary(file) -> list[tuple[int, float, int]]:
    """``(process, skill, step)`` of every step."""
    return [(int(p), float(k), int(s)) for p, k, s in (line.split() for line in Path(file).read_text().splitlines())]
