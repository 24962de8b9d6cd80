"""A training step of DIN on Amazon Beauty, beside RecBole's DIN and FuxiCTR's.

Step: forward, backward, Adam, on the same batches, with RecBole's sizes; item ids alone. Beside RecBole's, ours has its
weights (``variant: recbole``) and the same loss; beside FuxiCTR's, which has Dice, it has Dice. FuxiCTR is installed into a
virtual environment in a temporary folder and trains in its own process on a file of the batches.
Run: ``python benchmarks/din_training.py --data_path=FOLDER`` (with amazon-beauty in it)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed
from timing import quotients, row, write

from recbole_persona.config import Config

PEER = ["fuxictr==2.3.10", f"torch=={torch.__version__.partition('+')[0]}"]
SETTINGS = {
    "embedding_size": 10,
    "mlp_hidden_size": [256, 256, 256],
    "train_batch_size": 2048,
    "learning_rate": 0.001,
    "MAX_ITEM_LIST_LENGTH": 50,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "use_gpu": False,
}
DICE = {"attention_activation": "sigmoid", "attention_hidden_size": SETTINGS["mlp_hidden_size"]}
DICE |= {"mlp_norm": False, "item_bias": False, "reg_weight": 0.0, "user_fields": []}


def environment(folder):
    """The python of a new virtual environment with the peer, or None if pip cannot get it."""
    venv.create(folder, with_pip=True)
    python = Path(folder) / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER], check=False)
    return python if done.returncode == 0 else None


def models_and_batches(data_path, number):
    """RecBole's DIN, ours with its weights, ours with Dice, and the first batches of RecBole's loader."""
    settings = SETTINGS | {"data_path": data_path}
    config = Config("recbole:DIN", "amazon-beauty", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    loader = data_preparation(config, create_dataset(config))[0]
    data = loader._dataset
    theirs = get_model("recbole:DIN")(config, data)
    same, dice = (
        get_model("DIN")(Config("DIN", "amazon-beauty", config_dict=settings | more), data)
        for more in ({"variant": "recbole"}, DICE)
    )
    same.load_recbole(theirs.state_dict())
    batches = [batch for _, batch in zip(range(number), loader)]
    losses = [model.calculate_loss(batches[0]).item() for model in (theirs, same)]
    assert abs(losses[0] - losses[1]) < 1e-5, losses
    return {"recbole": theirs, "same": same, "dice": dice}, batches


def step_of(model, batches):
    """A function: CPU seconds of a step over all batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=SETTINGS["learning_rate"])

    def steps():
        start = time.process_time()
        for batch in batches:
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
        return (time.process_time() - start) / len(batches)

    return steps


def peer_of(python, folder, batches, sizes):
    """A process of FuxiCTR's DIN that answers to ``next``."""
    columns = {"history": "item_id_list", "target": "item_id", "label": "label"}
    np.savez(
        f"{folder}/batches.npz", **{k: np.stack([b[name].numpy() for b in batches]) for k, name in columns.items()}
    )
    command = [python, Path(__file__).parent / "peer_fuxictr.py", f"{folder}/batches.npz", json.dumps(sizes)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": open(f"{folder}/log", "w"), "text": True}
    peer = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=folder, **streams)
    if not peer.stdout.readline():
        sys.exit(f"FuxiCTR did not train: {Path(folder, 'log').read_text()}")
    return peer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset", help="folder with amazon-beauty in it")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--peer_python", help="of an environment that has FuxiCTR; a new one is made without it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models, batches = models_and_batches(arguments.data_path, arguments.batches)
    functions = {name: step_of(model, batches) for name, model in models.items()}
    sizes = {key: SETTINGS[key] for key in ("embedding_size", "mlp_hidden_size", "train_batch_size", "learning_rate")}
    sizes["n_items"] = models["same"].n_items
    seconds = {name: [] for name in (*functions, "fuxictr")}
    with tempfile.TemporaryDirectory() as folder:
        python = arguments.peer_python or environment(f"{folder}/fuxictr")
        if python is None:
            print("pip cannot get FuxiCTR here: its row is left out.")
        else:
            peer = peer_of(python, folder, batches, sizes)

            def fuxictr():
                print("next", file=peer.stdin, flush=True)
                return float(peer.stdout.readline())

            functions["fuxictr"] = fuxictr
        for number in range(arguments.repeats + 1):
            for name, function in functions.items():
                value = function()
                if number:
                    seconds[name].append(value)
        if python is not None:
            peer.stdin.close()
            peer.wait()
    sizes |= {"data": "amazon-beauty", "rows": len(batches[0]), "batches": len(batches)}
    sizes["mean length of a history"] = round(float(torch.cat([b["item_length"] for b in batches]).float().mean()), 1)
    rows = [
        row(claim, peer, quotients(seconds[theirs], seconds[ours]), arguments.repeats, sizes)
        for claim, peer, theirs, ours in (
            ("seconds of a training step on Beauty, at least 3, aim 5", "RecBole's DIN", "recbole", "same"),
            ("seconds of a training step on Beauty, at least 1, aim 1.5", "FuxiCTR's DIN", "fuxictr", "dice"),
        )
        if seconds[theirs]
    ]
    write(__file__, rows)


if __name__ == "__main__":
    main()
