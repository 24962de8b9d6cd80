"""Single rows of a finished board that were run again: which rows run, and how they take their places in its JSON."""

import math
from dataclasses import replace

from recbole_persona.board.specification import Board
from recbole_persona.errors import UserError

_UNPAIRED = dict.fromkeys(("n", "se", "low", "high", "p", "p_holm", "df", "effect"))


def only(board: Board, names: list[str]) -> Board:
    """The board with the rows ``names`` and those that they re-rank or re-rank with.

    Raises:
        UserError: a name that is no row of the board, or none at all.
    """
    rows = {row.name: row for part in board.parts for row in part.rows}
    if not names:
        raise UserError("rows names no row; give the names of the rows that run again.")
    for name in names:
        if name not in rows:
            raise UserError(f"There is no row {name!r} on the board; its rows are {', '.join(map(repr, rows))}.")
    kept = {*names, *(needed for name in names for needed in rows[name].needs.values())}
    parts = [replace(part, rows=tuple(row for row in part.rows if row.name in kept)) for part in board.parts]
    return replace(board, parts=tuple(part for part in parts if part.rows))


def put_in(board: Board, old: list[dict], new: list[dict]) -> list[dict]:
    """``old`` with every row of ``new`` in the place of the row of its name and data set.

    Comparing a new row with one that stays needs the per-user values of both, which the JSON does not hold: only the
    difference of the means is kept then, with ``test`` ``unpaired``, no interval and no p.
    """
    fresh = {_key(row): row for row in new}
    rows = [fresh.get(_key(row), row) for row in old]
    rows += [row for row in new if _key(row) not in set(map(_key, old))]
    known = {_key(row): row for row in rows}
    against = {(part.dataset, row.name): row.against or board.baseline for part in board.parts for row in part.rows}
    for row in rows:
        here = against.get(_key(row))
        base = known.get((row["dataset"], here))
        if base is not None and base is not row and (_key(row) in fresh) != (_key(base) in fresh):
            _unpair(row, base)
        best = row.get("best_against_second")
        if best and (_key(row) in fresh) != ((row["dataset"], best["against"]) in fresh):
            del row["best_against_second"]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        _order([row for row in rows if row["dataset"] == dataset and row["status"] == "run"], board.primary)
    order = {dataset: place for place, dataset in enumerate(part.dataset for part in board.parts)}
    return sorted(rows, key=lambda row: (order.get(row["dataset"], len(order)), row.get("rank") or len(rows) + 1))


def _key(row):
    return row["dataset"], row["name"]


def _unpair(row, base):
    if row["status"] != "run" or base["status"] != "run":
        row.pop("comparisons", None)
        return
    row["comparisons"] = {
        metric: _UNPAIRED
        | {"against": base["name"], "test": "unpaired", "difference": value["mean"] - base["metrics"][metric]["mean"]}
        for metric, value in row["metrics"].items()
        if None not in (value["mean"], base["metrics"].get(metric, {}).get("mean"))
    }
    for group in (group for groups in row.get("splits", {}).values() for group in groups):
        group["metrics"] = {metric: {"mean": cell["mean"]} for metric, cell in group["metrics"].items()}


def _order(rows, primary):
    """Ranks of all rows; a test of the best against the second stays only where these are still the two."""
    down = any(row["metrics"][primary].get("smaller_is_better") for row in rows)
    sign = -1 if down else 1
    means = [row["metrics"][primary]["mean"] for row in rows]
    means = [-math.inf if mean is None else sign * mean for mean in means]
    for row, mean in zip(rows, means):
        row["rank"] = 1 + sum(other > mean for other in means)
    ranked = sorted(rows, key=lambda row: row["rank"])
    for row in rows:
        best = row.get("best_against_second")
        if best and (row is not ranked[0] or best["against"] != ranked[1]["name"]):
            del row["best_against_second"]
