"""A tiny data set, and what tests of faults need around it."""

import shutil
from pathlib import Path

import numpy as np

from recbole_persona.cli import main

SMALL = {
    "epochs": 1,
    "embedding_size": 4,
    "eval_batch_size": 64,
    "metrics": ["NDCG"],
    "topk": [3],
    "valid_metric": "NDCG@3",
}
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def interactions(users=12, items=10, each=6):
    random = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}") for u in range(users) for i in random.permutation(items)[:each]]
    return "\n".join([HEADER, *(f"{u}\t{i}\t{n % 5 + 1}\t{n}" for n, (u, i) in enumerate(rows))]) + "\n"


def with_line(line, text=None):
    """The interactions with one more line, which is line 74."""
    return (text or interactions()) + line + "\n"


def write_tiny(place, inter=None, **others):
    """Write a data set named ``tiny`` under ``place``, its other files by suffix; returns settings that run on it."""
    folder = place / "data/tiny"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in {"inter": interactions() if inter is None else inter, **others}.items():
        (folder / f"tiny.{suffix}").write_bytes(text if isinstance(text, bytes) else text.encode())
    load_col = {"inter": ["user_id", "item_id", "rating", "timestamp"], **{suffix: "*" for suffix in others}}
    return SMALL | {"data_path": str(place / "data"), "load_col": load_col, "run_dir": str(place / "run")}


def command(*arguments, **settings):
    """A command line: the arguments, and the settings as people type them."""
    return [*arguments, *(f"--{key}={value}" for key, value in settings.items())]


def refused(capsys, *arguments, **settings) -> str:
    """The one line that a refused command prints."""
    assert main(command(*arguments, **settings)) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("recbole-persona: ") and "\n" not in printed and "Traceback" not in printed
    return printed.removeprefix("recbole-persona: ")


def lose(folder, *names):
    """Delete files and folders of a folder."""
    for name in names:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def contents(folder):
    """Every file under a folder but locks, as bytes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: path.read_bytes() for path in files}
