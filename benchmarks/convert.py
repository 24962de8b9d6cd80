"""CPU seconds of ``convert`` on a table of ratings, beside pandas' ``read_csv`` and ``to_csv`` on the same file.

Run: ``python benchmarks/convert.py [--rows=1000000] [--repeats=5]``
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from timing import in_turn, quotients, row, write

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

        def converted(form, path, **columns):
            shutil.rmtree(folder / "out", ignore_errors=True)  # what was converted is not converted again
            convert(form, path, folder / "out", "made", **columns)

        functions = {
            "pandas": lambda: pd.read_csv(source).to_csv(folder / "table.tsv", sep="\t", index=False),
            "csv": lambda: converted("csv", source, **COLUMNS),
            "movielens": lambda: converted("movielens", folder),
        }
        seconds = in_turn(functions, arguments.repeats)
    rows = []
    for form in ("csv", "movielens"):
        ratio = quotients(seconds["pandas"], seconds[form])
        measured = {name: round(statistics.median(seconds[name]), 2) for name in ("pandas", form)}
        sizes = {"rows": arguments.rows, "seconds": measured}
        claim = f"speed of convert {form} beside reading and writing by pandas, at least 0.5"
        rows.append(row(claim, "pandas.read_csv and to_csv", ratio, arguments.repeats, sizes))
    write(__file__, rows)


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
