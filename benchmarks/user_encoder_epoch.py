"""An epoch of UserEncoder on Amazon Beauty beside RecTools' SASRec, cross-entropy over all items on both sides.

Same interactions, width, layers, heads, length, dropout, and sequences per batch; the feed-forward part is as wide as the
model, as RecTools has it. RecTools wants another numpy: it is installed into a virtual environment in a temporary folder,
and trains in its own process. Its seconds are those of a sample of its batches, by their number.
Run: ``python benchmarks/user_encoder_epoch.py --data_path=FOLDER`` (with amazon-beauty in it)
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

import torch
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed
from timing import quotients, row, write

from recbole_persona.config import Config
from recbole_persona.data.histories import END

PEER = ["rectools[torch]==0.19.0", f"torch=={torch.__version__.partition('+')[0]}"]
DROPOUT, WINDOWS = 0.2, 128  # RecTools' own defaults
SIZES = {"hidden_size": 64, "inner_size": 64, "n_layers": 2, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 50}


def environment(folder):
    """The python of a new virtual environment with the peer, or None if pip cannot get it."""
    venv.create(folder, with_pip=True)
    python = Path(folder) / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER], check=False)
    return python if done.returncode == 0 else None


def own_trainer(data_path):
    """A trainer of UserEncoder, its loader, and the training interactions (user, item, time), the first ones included."""
    settings = {
        **SIZES,
        "hidden_dropout_prob": DROPOUT,
        "attn_dropout_prob": DROPOUT,
        "data_path": data_path,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    config = Config("UserEncoder", "amazon-beauty", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    loader = data_preparation(config, create_dataset(config))[0]
    trainer = Trainer(config, get_model("UserEncoder")(config, loader._dataset))
    loader.step = WINDOWS
    rows = loader._dataset.inter_feat
    flat, trained = rows.histories.flat, loader.is_target.clone()
    users = flat["user_id"]
    trained[1:] |= (users[1:] != users[:-1]) & torch.isin(users[1:], rows["user_id"])
    trained[0] = True
    assert trained.sum() == len(rows[END]) + len(rows["user_id"].unique())
    columns = [flat[name][trained].tolist() for name in ("user_id", "item_id", "timestamp")]
    return trainer, loader, zip(*columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset", help="folder with amazon-beauty in it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=5, help="batches of the peer in a measurement")
    parser.add_argument("--peer_python", help="of an environment that has the peer; a new one is made without it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data_path = str(Path(arguments.data_path).resolve())
    with tempfile.TemporaryDirectory() as folder:
        python = arguments.peer_python or environment(f"{folder}/rectools")
        if python is None:
            print("pip cannot get RecTools here: there is nothing to compare with.")
            return
        os.chdir(folder)  # trainers write their logs where they stand
        trainer, loader, interactions = own_trainer(data_path)
        Path("train.csv").write_text("".join(f"{user},{item},{int(time)}\n" for user, item, time in interactions))
        sizes = {**SIZES, "dropout": DROPOUT, "windows": WINDOWS, "batches": arguments.batches}
        command = [python, Path(__file__).parent / "peer_rectools.py", "train.csv", json.dumps(sizes)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": open("peer.log", "w"), "text": True}
        with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **streams) as peer:
            answer = peer.stdout.readline()
            if not answer:
                sys.exit(f"RecTools did not train: {Path('peer.log').read_text()}")
            steps, own, theirs = int(answer), [], []
            for number in range(arguments.repeats + 1):
                print("next", file=peer.stdin, flush=True)
                seconds = float(peer.stdout.readline()) * steps / arguments.batches
                start = time.process_time()
                trainer._train_epoch(loader, 0)
                if number:
                    own.append(time.process_time() - start)
                    theirs.append(seconds)
            peer.stdin.close()
        os.chdir("/")
    sizes |= {"data": "amazon-beauty", "targets": loader.n_targets, "batches of an epoch, RecTools": steps}
    # RecTools computes every place of every sequence, ours the targets alone: per place, padding counts for neither.
    places = steps * WINDOWS * SIZES["MAX_ITEM_LIST_LENGTH"]
    a_place = [value / places for value in theirs], [value / loader.n_targets for value in own]
    fair = "seconds a place of a sequence, those of padding included, cross-entropy over all items, at least 1"
    claim = "seconds of an epoch on Beauty, cross-entropy over all items, of which RecTools pays for padding, too"
    rows = [(fair, quotients(*a_place)), (claim, quotients(theirs, own))]
    write(__file__, [row(text, "RecTools' SASRec", ratio, arguments.repeats, sizes) for text, ratio in rows])


if __name__ == "__main__":
    main()
