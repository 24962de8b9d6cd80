"""Train in a process that is killed (SIGKILL) again and again, and continue each time from what it left.

``python kill_runs.py MODEL FOLDER KILLS`` prints a line of JSON: how many processes were killed, how many of them in
the middle of writing a file, and what differs from a run that was left alone (null if nothing does).

Every training process is forked from one that has imported everything, so that a kill costs no five seconds of imports.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import resume_runs
import torch
import upstream_models


def train(model, data, run_dir, epochs) -> None:
    """In this process: train to the end, from the state in ``run_dir`` if there is one; write what was reached."""
    _, stage = upstream_models.stages("BPR")[0]
    trainer, loaders = resume_runs.make(model, stage, data, run_dir, epochs=epochs, stopping_step=epochs)
    if trainer.state_file.is_file():
        trainer.resume()
    resume_runs.write(run_dir / "reached.json", resume_runs.finish(trainer, loaders))


def forked(function, *arguments) -> int:
    """Call in a process of its own; returns its id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    return pid


def half_written(run_dir) -> set:
    return {path for folder in (run_dir, run_dir / "state") for path in folder.glob(".*.tmp")}


def killed(run_dir, in_a_write: bool, *arguments) -> bool:
    """Train until a random moment, or until a file is being written; False if training came to its end before."""
    state, leftovers = run_dir / "state" / "last.safetensors", half_written(run_dir)
    begun, due = written(state), None
    pid = forked(train, *arguments)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.0002)
        if due is None and written(state) != begun:
            due = time.monotonic() + random.uniform(0, 0.2)  # it trains; before, it built data and model
        if due and time.monotonic() > due and (not in_a_write or half_written(run_dir) - leftovers):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
    return False


def written(file) -> int:
    return file.stat().st_mtime_ns if file.is_file() else 0


def main(model, folder, kills) -> dict:
    import recbole_persona  # noqa: F401
    from recbole_persona.upstream.files import load_tree

    torch.set_num_threads(1)
    random.seed(0)
    folder, kills = Path(folder), int(kills)
    epochs = 10 + 30 * kills  # more than pass between so many kills, also on a busy machine
    data = upstream_models.write_tiny(folder)
    straight, broken = folder / "straight", folder / "broken"
    resume_runs.make(model, upstream_models.stages("BPR")[0][1], data, folder / "first")  # imports what is used
    assert os.waitpid(forked(train, model, data, straight, epochs), 0)[1] == 0
    done, in_a_write = 0, 0
    for number in range(kills):
        leftovers = half_written(broken)
        done += killed(broken, number % 2 == 1, model, data, broken, epochs)
        in_a_write += bool(half_written(broken) - leftovers)
        for file in ("state/last.safetensors", "model.safetensors"):
            if (broken / file).is_file():
                load_tree(broken / file)
    assert os.waitpid(forked(train, model, data, broken, epochs), 0)[1] == 0
    difference = None
    try:
        first, second = ((run / "reached.json").read_text() for run in (straight, broken))
        assert first == second, f"{first} and {second}"
        resume_runs.same_files(straight, broken)
    except AssertionError as error:
        difference = str(error)
    return {"killed": done, "in_a_write": in_a_write, "left": len(half_written(broken)), "difference": difference}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what RecBole prints must not mix with the answer
    print(json.dumps(main(*sys.argv[1:])), file=answers, flush=True)
