"""PeaPOD beside POD: a training step, the lists of some users, and memory, with few users and with ten times as many.

Both have the same backbone and see the same rows; what PeaPOD adds is a look-up of the neighbours, attention over them, and
three more vectors in front of each prompt. Its users' vectors are fitted and their neighbours found before; what that takes
stands in rows of its own. Times are taken in turn in one process, memory in a process for each model: the peak above what
the imports took, data and model included. Run: ``python benchmarks/peapod_scale.py`` (``--users 2000 20000 --repeats 2
--backbone scratch:gpt2-tiny`` for a minute)
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed
from timing import in_turn, peak_memory, quotients, resident, row, spread, write

from recbole_persona.config import Config
from recbole_persona.runner.memory import give_back_memory

ITEMS, EACH, TASTES = 12_000, 8, 200
MODELS = ("POD", "PeaPOD")


def generate(folder, n_users) -> str:
    """``n_users`` users of one taste each, with eight items; the name of the data set."""
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(n_users), EACH)
    own = random.integers(0, TASTES, n_users)[users] * (ITEMS // TASTES) + random.integers(
        0, ITEMS // TASTES, len(users)
    )
    items = np.where(random.random(len(users)) < 0.7, own, random.integers(0, ITEMS, len(users)))
    name, times = f"u{n_users}", np.arange(len(users))
    place = Path(folder) / name
    place.mkdir()
    table = {"user_id:token": users, "item_id:token": items, "timestamp:float": times}
    pd.DataFrame(table).to_csv(place / f"{name}.inter", sep="\t", index=False)
    return name


class Side:
    """A model with its optimiser, and what it is measured on."""

    def __init__(self, name, folder, data, arguments, loaders=None):
        settings = {
            "data_path": folder,
            "use_gpu": False,
            "state": "ERROR",
            "backbone": arguments.backbone,
            "item_codes": "random",
            "train_batch_size": arguments.batch,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        }
        self.config = Config(name, data, config_dict=settings)
        init_seed(0, True)
        self.loaders = loaders or data_preparation(self.config, create_dataset(self.config))
        start = time.process_time()
        self.model = get_model(name)(self.config, self.loaders[0]._dataset)
        self.seconds = time.process_time() - start
        self.optimiser = torch.optim.Adam(self.model.parameters())
        self.batch = next(iter(self.loaders[0]))
        self.rows = self.loaders[2]._dataset[torch.arange(arguments.lists)]

    def step(self):
        self.model.train()
        self.optimiser.zero_grad()
        self.model.calculate_loss(self.batch).backward()
        self.optimiser.step()

    def lists(self):
        self.model.eval()
        self.model.full_sort_predict(self.rows)


def memory_of(name, folder, data, arguments) -> dict:
    """Bytes at the peak of training steps and lists, data and model included; and of everything, making the model included."""
    command = [sys.executable, __file__, "--memory_of", name, "--data", folder, data]
    command += ["--backbone", arguments.backbone, "--batch", str(arguments.batch), "--lists", str(arguments.lists)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def print_memory(arguments):
    found = {}

    def make():
        found["side"] = Side(arguments.memory_of, *arguments.data, arguments)

    def work():
        for _ in range(3):
            found["side"].step()
        found["side"].lists()

    before = resident()
    making = peak_memory(make)
    give_back_memory()  # as a run does
    held = resident() - before
    print(json.dumps({"making": making, "working": held + peak_memory(work)}))


def rows_of(n_users, folder, arguments):
    data = generate(folder, n_users)
    pod = Side("POD", folder, data, arguments)
    peapod = Side("PeaPOD", folder, data, arguments, pod.loaders)
    sizes = {"users": n_users, "items": ITEMS, "interactions of a user": EACH, "backbone": arguments.backbone}
    sizes |= {"rows of a step": arguments.batch, "lists at a time": arguments.lists}
    rows = []
    for what, label in (("step", "seconds of a training step"), ("lists", "seconds of lists by beam search")):
        seconds = in_turn({"POD": getattr(pod, what), "PeaPOD": getattr(peapod, what)}, arguments.repeats)
        ratio = quotients(seconds["PeaPOD"], seconds["POD"])
        used = sizes | {"CPU seconds": {name: round(float(np.median(values)), 4) for name, values in seconds.items()}}
        rows.append(row(f"{label}, {n_users:,} users, at most 1.3", "POD", ratio, arguments.repeats, used))
    used = sizes | {"CPU seconds": {"POD": pod.seconds, "PeaPOD": peapod.seconds}}
    del pod, peapod
    rows.append(
        row(f"seconds of making the model, once, {n_users:,} users (no aim)", "POD",
            spread([used["CPU seconds"]["PeaPOD"] / used["CPU seconds"]["POD"]]), 1, used)
    )  # fmt: skip
    measured = [
        {name: memory_of(name, folder, data, arguments) for name in MODELS} for _ in range(min(3, arguments.repeats))
    ]
    for key, label in (("working", "peak memory of training and lists"), ("making", "peak memory of making the model")):
        ratios = [one["PeaPOD"][key] / one["POD"][key] for one in measured]
        mib = {"MiB": {name: round(measured[-1][name][key] / 2**20) for name in MODELS}}
        aim = ", at most 1.3" if key == "working" else ", once (no aim)"
        rows.append(row(f"{label}, {n_users:,} users{aim}", "POD", spread(ratios), len(ratios), sizes | mib))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[22_000, 220_000])
    parser.add_argument("--backbone", default="scratch:small")
    parser.add_argument("--batch", type=int, default=256, help="rows of a training step")
    parser.add_argument("--lists", type=int, default=16, help="users whose lists are made at a time")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    parser.add_argument("--data", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        print_memory(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(__file__, [entry for n_users in arguments.users for entry in rows_of(n_users, folder, arguments)])


if __name__ == "__main__":
    main()
