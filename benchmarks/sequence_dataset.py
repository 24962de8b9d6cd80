"""Sequential data sets beside RecBole's: from the parsed table, and from the file, of generated interactions to the first batch.

Each measurement has a process of its own: CPU seconds, and the peak of the resident memory above what it was before. The
peer's process imports RecBole alone (the names of numpy that it asks for are set by hand), and both see the same table and
settings: rating, time and item in every history, leave-one-out, cross-entropy. With more interactions ours alone runs,
and the exponent of its growth is fitted. Run: ``python benchmarks/sequence_dataset.py``
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from timing import peak_memory, quotients, row, spread, write

LENGTH, BATCH = 50, 2048
COLUMNS = ["user_id", "item_id", "rating", "timestamp"]


def generate(folder, n) -> None:
    """``n`` interactions, 20 for each user on average; items by Zipf's law."""
    random = np.random.default_rng(0)
    table = {
        "user_id:token": random.integers(0, n // 20, n),
        "item_id:token": random.zipf(1.3, n) % 50_000,
        "rating:float": random.integers(1, 6, n),
        "timestamp:float": random.integers(1_500_000_000, 1_600_000_000, n),
    }
    place = Path(folder) / f"n{n}"
    place.mkdir()
    pd.DataFrame(table).to_csv(place / f"n{n}.inter", sep="\t", index=False)


def first_batch(side, part, folder, name) -> dict:
    """Seconds and bytes to the first batch, in this process."""
    settings = {
        "data_path": folder,
        "load_col": {"inter": COLUMNS},
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_batch_size": BATCH,
        "train_neg_sample_args": None,
        "use_gpu": False,
        "state": "ERROR",
    }
    if side == "ours":
        from recbole_persona.config import Config
    else:
        for missing, kind in {"float": float, "complex": complex, "unicode": str, "int": int, "object": object}.items():
            vars(np).setdefault(missing, kind), vars(np).setdefault(f"{missing}_", kind)
        np.str = str
        from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    config = Config("SASRec", name, config_dict=settings)
    if part == "table":
        kinds = {"user_id:token": str, "item_id:token": str}
        table = pd.read_csv(Path(folder) / name / f"{name}.inter", sep="\t", dtype=kinds)
        table = table.astype({"rating:float": float, "timestamp:float": float})
        module = importlib.import_module("recbole.data.dataset.dataset")

        class Parsed:  # pandas, for RecBole's module, with the file read already
            read_csv = staticmethod(lambda *args, **kwargs: table)
            __getattr__ = staticmethod(lambda name: getattr(pd, name))

        module.pd = Parsed()

    def job():
        next(iter(data_preparation(config, create_dataset(config))[0]))

    seconds = time.process_time()
    memory = peak_memory(job)
    return {"seconds": time.process_time() - seconds, "memory": memory}


def measured(side, part, folder, n) -> dict:
    """:func:`first_batch` in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", side, part, folder, f"n{n}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    found = json.loads(printed.splitlines()[-1])
    print(f"{side}, {part}, {n}: {found['seconds']:.2f} s, {found['memory'] / 2**20:.0f} MiB", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=4, metavar=("SIDE", "PART", "FOLDER", "NAME"), help="what a process measures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.one:
        sys.argv = sys.argv[:1]  # RecBole reads the command line, too
        return print(json.dumps(first_batch(*asked.one)))
    n, rows = asked.interactions, []
    sizes = {"interactions": n, "users": n // 20, "items": 50_000, "length": LENGTH, "batch": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        for factor in (1, 2, 4, 8):
            generate(folder, factor * n)
        for part, time_claim, memory_claim in (
            ("table", "at least 20, aim 50", "at least 10"),
            ("file", "at least 5, aim 10", "at least 4"),
        ):
            found = {"ours": [], "recbole": []}
            for _ in range(asked.repeats):
                for side in found:
                    found[side].append(measured(side, part, folder, n))
            for what, claim in (("seconds", time_claim), ("memory", memory_claim)):
                ratio = quotients(*([one[what] for one in found[side]] for side in ("recbole", "ours")))
                text = f"{what} from the {part} to the first batch, {claim}"
                both = {f"{what}, {side}": [one[what] for one in found[side]] for side in found}
                rows.append(row(text, "RecBole's SequentialDataset", ratio, asked.repeats, sizes | both))
        exponents, all_seconds = [], {}
        for _ in range(asked.repeats):
            seconds = [measured("ours", "table", folder, factor * n)["seconds"] for factor in (1, 2, 4, 8)]
            exponents.append(float(np.polyfit(np.log([1, 2, 4, 8]), np.log(seconds), 1)[0]))
            all_seconds[len(all_seconds)] = seconds
        text = "exponent of the seconds from the table at 1, 2, 4 and 8 times as many interactions, about 1"
        rows.append(row(text, "itself", spread(exponents), asked.repeats, sizes | {"seconds": all_seconds}))
    write(__file__, rows)


if __name__ == "__main__":
    main()
