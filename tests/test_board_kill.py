"""Boards in several processes, killed: what a worker had begun is continued, and the numbers are those of a quiet board."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from board_files import PROTOCOL, ran, results, written

from recbole_persona.runs import read_json

ROWS = [{"name": f"BPR {size}", "model": "BPR", "config": {"embedding_size": size}} for size in (4, 8)]
SETTINGS = {key: value for key, value in PROTOCOL.items() if key != "embedding_size"} | {
    "epochs": 40,
    "stopping_step": 40,
}


def started(file, workers):
    command = [sys.executable, "-m", "recbole_persona", "leaderboard", str(file), f"--workers={workers}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, f"--runs={file.parent / 'runs'}"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def begun(place):
    """The run folders that hold a state and no result."""
    states = (place / "runs").glob("*/state/last.safetensors")
    return [state.parent.parent for state in states if not (state.parent.parent / "result.json").exists()]


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def numbers(folder):
    return {row["name"]: (row["metrics"], row.get("comparisons")) for row in read_json(folder / "board.json")}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The numbers of a board that was left alone."""
    folder = tmp_path_factory.mktemp("quiet")
    ran(written(folder, ROWS, protocol=SETTINGS, baseline="BPR 4"))
    return numbers(folder)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path, quiet):
    file = written(tmp_path, ROWS, protocol=SETTINGS, baseline="BPR 4")
    board = started(file, workers=2)
    until(lambda: begun(tmp_path))
    victim, *_ = [child for child in psutil.Process(board.pid).children() if "--join" in " ".join(child.cmdline())]
    os.kill(victim.pid, signal.SIGKILL)
    _, said = board.communicate(timeout=240)
    assert board.returncode == 0, said
    assert "A worker was killed" in said and len(results(tmp_path)) == 4
    assert numbers(tmp_path) == quiet


@pytest.mark.slow
def test_a_killed_board_goes_on(tmp_path, quiet):
    """The parent and all its workers are killed at once; workers whose parent alone has gone end by themselves."""
    file = written(tmp_path, ROWS, protocol=SETTINGS, baseline="BPR 4")
    board = started(file, workers=2)
    until(lambda: begun(tmp_path))
    everybody = [psutil.Process(board.pid), *psutil.Process(board.pid).children()]
    for process in everybody:
        process.kill()
    board.communicate()
    assert not (tmp_path / "board.json").exists()
    before = results(tmp_path)
    ran(file)
    assert before.items() <= results(tmp_path).items()
    assert numbers(tmp_path) == quiet


@pytest.mark.slow
def test_workers_end_when_their_parent_has_gone(tmp_path):
    rows = [{"name": f"BPR {size}", "model": "BPR", "config": {"embedding_size": size}} for size in range(2, 12)]
    board = started(written(tmp_path, rows, protocol=SETTINGS), workers=2)
    until(lambda: begun(tmp_path))
    workers = psutil.Process(board.pid).children()
    board.kill()
    board.communicate()
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert len(results(tmp_path)) < 20


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_reached(tmp_path):
    file = written(tmp_path, ROWS, protocol=SETTINGS, baseline="BPR 4")
    board = started(file, workers=1)
    until(lambda: begun(tmp_path))
    board.send_signal(signal.SIGINT)
    _, said = board.communicate(timeout=120)
    assert board.returncode == 130 and "the same command goes on" in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/dev/full"), reason="needs a way to fail a write")
def test_a_full_disk_stops_the_board_in_one_sentence(tmp_path):
    """A file-size limit of the shell fails every larger write, as a full disk does."""
    file = written(tmp_path, ROWS, protocol=SETTINGS, baseline="BPR 4")
    command = (
        f"ulimit -f 4; {sys.executable} -m recbole_persona leaderboard {file} --runs={tmp_path / 'runs'} --workers=2"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("failed.json"))
