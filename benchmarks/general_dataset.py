"""General data sets beside RecBole's: from the file of generated interactions to the first batches.

Read, split by user at random (8:1:1), used items of three phases, loaders, the first training batch with a negative each and
the first batch of full ranking. Each measurement has a process of its own: CPU seconds, and the peak of the resident memory
above what it was before. The peer's process imports RecBole alone (the names of numpy that it asks for are set by hand), and
both have the same file and settings. The exponent of ours is fitted to all sizes. Run: ``python benchmarks/general_dataset.py``
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from sequence_dataset import COLUMNS, generate
from timing import peak_memory, quotients, row, spread, write

SIZES = [100_000, 300_000, 1_000_000]


def first_batches(side, folder, name) -> dict:
    """Seconds and bytes to the first batches, in this process."""
    if side == "ours":
        from recbole_persona.config import Config
    else:
        for missing, kind in {"float": float, "complex": complex, "unicode": str, "int": int, "object": object}.items():
            vars(np).setdefault(missing, kind), vars(np).setdefault(f"{missing}_", kind)
        np.str = str
        from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    settings = {"data_path": folder, "load_col": {"inter": COLUMNS}, "use_gpu": False, "state": "ERROR"}
    config = Config("BPR", name, config_dict=settings)

    def job():
        init_seed(config["seed"], True)
        train, _, test = data_preparation(config, create_dataset(config))
        next(iter(train)), next(iter(test))

    seconds = time.process_time()
    memory = peak_memory(job)
    return {"seconds": time.process_time() - seconds, "memory": memory}


def measured(side, folder, n) -> dict:
    """:func:`first_batches` in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", side, folder, f"n{n}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    found = json.loads(printed.splitlines()[-1])
    print(f"{side}, {n}: {found['seconds']:.2f} s, {found['memory'] / 2**20:.0f} MiB", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "FOLDER", "NAME"), help="what a process measures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of interactions")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.one:
        sys.argv = sys.argv[:1]  # RecBole reads the command line, too
        return print(json.dumps(first_batches(*asked.one)))
    sizes, rows, found = sorted(asked.sizes), [], {}
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            generate(folder, n)
            found[n] = {"ours": [], "recbole": []}
            for _ in range(asked.repeats):
                for side, results in found[n].items():
                    results.append(measured(side, folder, n))
    for n, both in found.items():
        for what, claim in (("seconds", "at least 3"), ("memory", "at least 2")):
            ratio = quotients(*([one[what] for one in both[side]] for side in ("recbole", "ours")))
            text = f"{what} from a file of {n:,} interactions to the first batches" + f", {claim}" * (n == sizes[-1])
            kept = {f"{what}, {side}": [one[what] for one in both[side]] for side in both}
            described = {"interactions": n, "users": n // 20, "items": 50_000} | kept
            rows.append(row(text, "RecBole's Dataset", ratio, asked.repeats, described))
    if len(sizes) > 1:
        for side in ("ours", "recbole"):
            seconds = [[found[n][side][turn]["seconds"] for n in sizes] for turn in range(asked.repeats)]
            exponents = [float(np.polyfit(np.log(sizes), np.log(turn), 1)[0]) for turn in seconds]
            text = f"exponent of the seconds, {side}" + ", at most 1.1" * (side == "ours")
            rows.append(row(text, "itself", spread(exponents), asked.repeats, {"interactions": sizes}))
    write(__file__, rows)


if __name__ == "__main__":
    main()
