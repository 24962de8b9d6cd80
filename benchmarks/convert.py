"""CPU seconds of ``convert`` on a table of ratings, beside pandas' ``read_csv`` and ``to_csv`` on the same file.

python benchmarks/convert.py [--rows=1000000] [--repeats=5]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_persona.data.convert import convert

COLUMNS = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = folder / "ratings.csv"
        _table(arguments.rows).to_csv(source, index=False)
        ways = {
            "pandas": lambda place: pd.read_csv(source).to_csv(folder / f"{place}.tsv", sep="\t", index=False),
            "convert csv": lambda place: convert("csv", source, folder, f"table-{place}", **COLUMNS),
            "convert movielens": lambda place: convert("movielens", folder, folder, f"movielens-{place}"),
        }
        seconds = {name: [] for name in ways}
        for place in range(arguments.repeats):  # in turn, so that what else the machine does meets all of them
            for name, way in ways.items():
                begin = time.process_time()
                way(place)
                seconds[name].append(time.process_time() - begin)
    print(f"{arguments.rows:,} rows, CPU seconds: median (least to most); speed beside pandas in the same turn")
    for name, values in seconds.items():
        ratio = statistics.median(reference / value for reference, value in zip(seconds["pandas"], values))
        print(f"{name:18} {statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})  {ratio:.2f}")


def _table(rows) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "userId": draw.integers(1, 60_000, rows),
            "movieId": draw.integers(1, 20_000, rows),
            "rating": draw.integers(1, 11, rows) / 2,
            "timestamp": draw.integers(10**9, 2 * 10**9, rows),
        }
    )


if __name__ == "__main__":
    main()
