"""A search of the guesser in processes of its own, for tests that kill them."""

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import optuna
import psutil
import yaml
from guesser import SPACE, diary, write_data

HERE = Path(__file__).parent
STUDY = "tiny-Guesser"


def command(place, **options) -> list[str]:
    """The command line of a search in ``place/study``; ``options`` are its options and settings, None leaves one out."""
    space = place / "space.yaml"
    space.write_text(yaml.safe_dump(SPACE))
    given = {
        "model": "guesser:Guesser",
        "dataset": "tiny",
        "space": space,
        "study_dir": place / "study",
        "seeds": "none",
        "diary": place / "diary",
        **write_data(place),
        **options,
    }
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items() if value is not None]
    return [sys.executable, "-W", "ignore", "-m", "recbole_persona", "tune", *flags]


def start(place, **options) -> subprocess.Popen:
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return subprocess.Popen(
        command(place, **options),
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, seconds=240) -> tuple[int, str, str]:
    """Status, output and errors of a process at its end."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def study(url):
    return optuna.load_study(study_name=STUDY, storage=url)


def states(url) -> list[str]:
    return [trial.state.name for trial in study(url).trials]


def wait_for_steps(file, number, seconds=120) -> list:
    """The diary as soon as it has so many lines."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        lines = diary(file) if file.is_file() else []
        if len(lines) >= number:
            return lines
        time.sleep(0.05)
    raise AssertionError(f"{file} has not got {number} lines")


def kill_one(file, beside=()) -> int:
    """SIGKILL the process of the last step; returns its id."""
    pid = diary(file)[-1][0]
    assert pid not in beside
    psutil.Process(pid).kill()
    return pid


def check_continued(file) -> None:
    """Every trial took the steps 0, 1, 2, … in this order; a step that was cut short came again, and no step before it.

    The guesser counts its steps in its weights, which are in the checkpoint: a trial that began anew would count from 0.
    """
    steps = {}
    for _, skill, step in diary(file):
        steps.setdefault(skill, []).append(step)
    for taken in steps.values():
        assert all(b in (a, a + 1) for a, b in pairwise(taken)) and taken[0] == 0, taken
