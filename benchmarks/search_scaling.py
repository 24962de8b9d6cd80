"""Two worker processes beside one: the same number of equal trials of AMPCF on ml-100k, one thread each.

Equal trials: nothing is pruned, training never stops early, and what varies changes no cost. Seconds are those of the
whole command, imports and the start of the workers included. They are seconds of the wall clock, since it is the waiting
that workers shorten: leave the machine alone meanwhile. Run: ``python benchmarks/search_scaling.py``
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import quotients, row, write

SPACE = "learning_rate: {low: 0.005, high: 0.006}\n"


def seconds(folder, workers, trials, epochs) -> float:
    """Of a whole search in a new folder."""
    study = Path(folder) / "study"
    command = [
        *(sys.executable, "-W", "ignore", "-m", "recbole_persona", "tune", "--model=AMPCF", "--dataset=ml-100k"),
        *(f"--space={folder}/space.yaml", f"--trials={trials}", f"--workers={workers}", f"--epochs={epochs}"),
        *(f"--stopping_step={epochs}", "--sampler=random", "--pruner=none", "--seeds=none", f"--study_dir={study}"),
    ]
    package = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package, "CUDA_VISIBLE_DEVICES": ""}
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    found = time.perf_counter() - start
    shutil.rmtree(study)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args()
    found = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "space.yaml").write_text(SPACE)
        for number in range(asked.repeats):
            for workers in found:
                found[workers].append(seconds(folder, workers, asked.trials, asked.epochs))
                print(f"repeat {number + 1}, {workers} workers: {found[workers][-1]:.1f} seconds", flush=True)
    sizes = {
        "data": "ml-100k",
        "model": "AMPCF",
        "trials": asked.trials,
        "epochs": asked.epochs,
        "cores": os.cpu_count(),
    }
    claim = "speed of two workers at equal trials, at least 1.6"
    write(__file__, [row(claim, "one worker", quotients(found[1], found[2]), asked.repeats, sizes)])


if __name__ == "__main__":
    main()
