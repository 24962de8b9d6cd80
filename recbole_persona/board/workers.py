"""Several processes at one board: each walks the cells and takes those that nobody holds."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

import recbole_persona
from recbole_persona.board import cells as walk
from recbole_persona.errors import UserError

GRACE = 60  # seconds that interrupted workers have to keep their state
LOOK = 0.5  # seconds between looks at the workers


def run_open(cells, board_file: Path, runs: Path, workers: int) -> None:
    """Run every open cell, with a progress bar; returns when none is left.

    Args:
        cells: from :func:`recbole_persona.board.cells.plan`.
        board_file: what a worker reads to find the same cells.
        runs: folder of the run folders.
        workers: processes; 1 is this one.

    Raises:
        UserError: a file could not be written, here or in a worker.
    """
    with _bar(cells) as tell:
        waiting = sum(cell.open for cell in cells)
        if min(workers, waiting) > 1:
            _watch(_start(board_file, runs, min(workers, waiting)), tell)
        walk.work(cells, tell)  # what killed workers left; everything, for one process


def join(cells, parent: int) -> None:
    """Be a worker of the process ``parent``, and end when it is gone; a line on the screen for every cell."""
    walk.work(cells, lambda cell: print(cell, file=sys.stderr, flush=True), lambda: os.getppid() != parent)


@contextmanager
def _bar(cells):
    """A progress bar; lines where there is no terminal."""
    shown = sys.stderr.isatty()
    with tqdm(total=len(cells), initial=_finished(cells), desc="cells", unit="cell", disable=not shown) as bar:

        def tell(cell=None):
            if cell is not None and not shown:
                failed = f" failed: {cell.reason}" if cell.reason else ""
                print(f"{_finished(cells)}/{len(cells)} {cell}{failed}", file=sys.stderr, flush=True)
            bar.update(_finished(cells) - bar.n)

        yield tell


def _finished(cells) -> int:
    return sum(not cell.open for cell in cells)


def _start(board_file, runs, workers) -> dict:
    """The processes, and the file that each one's screen goes to."""
    runs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "recbole_persona", "leaderboard", str(board_file), f"--runs={runs}"]
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    package = str(Path(recbole_persona.__file__).parent.parent)
    places = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(places)}
    processes = {}
    for number in range(1, workers + 1):
        log = runs / f"worker-{number}.log"
        with open(log, "w", encoding="utf-8") as screen:
            process = subprocess.Popen(
                [*command, f"--join={os.getpid()}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=screen,
                env=environment,
            )
        processes[process] = log
    return processes


def _watch(processes, tell):
    """Wait for the workers; one that was killed is told of, one that met a fault of the board ends them all."""
    running = dict(processes)
    try:
        while running:
            time.sleep(LOOK)
            tell()
            for process in [process for process in running if process.poll() is not None]:
                log = running.pop(process)
                if process.returncode < 0 or process.returncode == 130:
                    print("A worker was killed; what it had begun is continued.", file=sys.stderr)
                elif process.returncode > 0:
                    raise UserError(_last_line(log))
    except KeyboardInterrupt:
        _wait(running, GRACE)  # Ctrl-C has reached them, too
        raise
    finally:
        for process in running:
            process.terminate()
        _wait(running, GRACE)
        for process in running:
            process.kill()


def _wait(processes, seconds):
    end = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue


def _last_line(log) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1].removeprefix("recbole-persona: ") if lines else "it said nothing."
    return f"A worker of the board ended: {reason} The whole is in {log}."
