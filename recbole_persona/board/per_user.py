"""``<page>.per_user.csv.gz``: the primary metric of a board for each user, entry and seed.

With it a row that is run again is paired, user by user, with rows whose runs are gone. One CSV line holds one seed of one
row: ``dataset,row,seed,metric,values``, where ``values`` are the numbers of all users, separated by spaces. Users are
numbered by their sorted external ids, which are not stored. Every row is a gzip member of its own, so that their sizes add up.
"""

import csv
import gzip
import hashlib
import io
import zlib
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_persona.errors import UserError
from recbole_persona.upstream.files import atomic_path

SUFFIX = ".per_user.csv.gz"
MAX_BYTES = 2_000_000
DIGITS = (5, 4, 3)  # significant digits: the first number of them with which the file is small enough
_COLUMNS = ["dataset", "row", "seed", "metric", "values"]

Values = dict[tuple[str, str], pd.DataFrame]  # (data set, row) -> values (users, seeds), with the seeds as columns


def read_per_user(file) -> pd.DataFrame:
    """Read the values of single users that a board keeps beside its page.

    Args:
        file: path of ``<page>.per_user.csv.gz``.

    Returns:
        One line for each data set, row, seed and user, with the columns ``dataset``, ``row`` (str), ``seed`` (int),
        ``metric`` (str), ``user`` (int) and ``value`` (float, NaN where the metric is not defined). Users are numbered
        from 0 within a data set; equal numbers are equal users in all its rows and seeds.

    Raises:
        UserError: the file is missing, truncated or edited.
    """
    lines = _read(file)
    try:
        lines["value"] = [_numbers(text) for text in lines.pop("values")]
    except ValueError:
        raise _damaged(file) from None
    lines.insert(4, "user", [np.arange(len(values)) for values in lines["value"]])
    return lines.explode(["user", "value"], ignore_index=True).astype({"user": int, "value": float})


def read_values(file, rows: list[dict], metric: str) -> Values:
    """The values of those rows of a page that stand in the file as they stood when the page was written.

    Args:
        file: path of ``<page>.per_user.csv.gz``; without this file no row has values.
        rows: of ``<page>.json``.
        metric: what the values must be of.

    Raises:
        UserError: the file is truncated or edited.
    """
    if not Path(file).exists():
        return {}
    digests = {row_key(row): row.get("per_user", {}).get("sha256") for row in rows}
    found = {}
    for key, lines in _read(file).groupby(["dataset", "row"], sort=False):
        texts = dict(zip(lines["seed"].tolist(), lines["values"]))
        if digests.get(key) == _digest(_csv(*key, metric, texts)):
            found[key] = pd.DataFrame({seed: _numbers(text) for seed, text in texts.items()})
    return found


def write_values(file, rows: list[dict], values: Values, metric: str, limit: int = MAX_BYTES) -> None:
    """Write the values, and say in ``per_user`` of every row what is kept of it.

    Where 5 significant digits make the file larger than ``limit`` bytes, it has 4 or 3. Where 3 are too many, the rows that
    others are tested against and then the best rows are kept, as many as fit; the others are named in a warning.

    Args:
        rows: of ``<page>.json``, changed in place: ``per_user`` becomes ``{metric, digits, sha256}``, or ``{metric, left_out:
            true}``. A row without values of single users has none.
    """
    baselines = {(row["dataset"], found["against"]) for row in rows for found in row.get("comparisons", {}).values()}
    kept = [row for row in rows if row_key(row) in values]
    kept.sort(key=lambda row: (row_key(row) not in baselines, row["rank"]))
    head = gzip.compress(f"{','.join(_COLUMNS)}\n".encode(), 9, mtime=0)
    for digits in DIGITS:
        blocks = [_block(row, values[row_key(row)], metric, digits) for row in kept]
        ends = np.cumsum([len(head), *(len(block) for block, _ in blocks)])
        if ends[-1] <= limit:
            break
    for row in rows:
        if row_key(row) not in values and "left_out" not in row.get("per_user", {}):
            row.pop("per_user", None)  # its values are gone
    if not kept:
        Path(file).unlink(missing_ok=True)  # of an earlier page
        return
    fitting = int((ends[1:] <= limit).sum())
    for place, (row, (_, described)) in enumerate(zip(kept, blocks)):
        row["per_user"] = described if place < fitting else {"metric": metric, "left_out": True}
    if left_out := kept[fitting:]:
        names = ", ".join(f"{row['name']} on {row['dataset']}" for row in left_out)
        getLogger().warning("%s has no room for the values of %s: it holds at most %d bytes.", file, names, limit)
    with atomic_path(file) as temporary:
        Path(temporary).write_bytes(head + b"".join(block for block, _ in blocks[:fitting]))


def row_key(row: dict) -> tuple[str, str]:
    return row["dataset"], row["name"]


def _block(row, values, metric, digits) -> tuple[bytes, dict]:
    """The compressed lines of a row, and what its JSON says of them."""
    digits = min(digits, row.get("per_user", {}).get("digits", digits))  # values that were read again may have fewer
    texts = {seed: " ".join(np.char.mod(f"%.{digits}g", column.to_numpy()).tolist()) for seed, column in values.items()}
    text = _csv(*row_key(row), metric, texts)
    return gzip.compress(text.encode(), 9, mtime=0), {"metric": metric, "digits": digits, "sha256": _digest(text)}


def _csv(dataset, name, metric, texts) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([dataset, name, seed, metric, text] for seed, text in texts.items())
    return out.getvalue()


def _digest(text) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _numbers(text) -> np.ndarray:
    return np.array(text.split(), dtype=float)


def _read(file) -> pd.DataFrame:
    types = dict.fromkeys(_COLUMNS, str) | {"seed": int}
    try:
        lines = pd.read_csv(file, dtype=types, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"There is no file {file}.") from None
    except (EOFError, OSError, zlib.error, ValueError):
        raise _damaged(file) from None
    if list(lines) != _COLUMNS:
        raise _damaged(file)
    return lines


def _damaged(file):
    return UserError(f"{file} cannot be read; it was truncated or edited. Delete it to go on without it.")
