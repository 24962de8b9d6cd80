"""Single rows of a finished board that were run again: which rows run, and how they take their places in its JSON."""

import math
from dataclasses import replace

from recbole_persona.board.per_user import Values, row_key
from recbole_persona.board.protocol import compare_protocols
from recbole_persona.board.specification import Board
from recbole_persona.board.tables import plain_comparison
from recbole_persona.errors import UserError
from recbole_persona.evaluate.significance import compare

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


def put_in(board: Board, old: list[dict], new: list[dict], values: Values) -> list[dict]:
    """``old`` with every row of ``new`` in the place of the row of its name and data set.

    Comparing a new row with one that stays needs the values of single users of both. Of the primary metric a board keeps
    them beside its page. Of the other metrics, and of pages without that file, only the difference of the means is kept,
    with ``test`` ``unpaired``, no interval and no p.

    Args:
        values: by data set and row, the primary metric of the rows whose values of users are known.

    Raises:
        UserError: the rows that stay have another protocol or split than the new ones.
    """
    fresh = {row_key(row): row for row in new}
    rows = [fresh.get(row_key(row), row) for row in old]
    rows += [row for row in new if row_key(row) not in set(map(row_key, old))]
    known = {row_key(row): row for row in rows}
    for dataset in dict.fromkeys(row["dataset"] for row in new):
        _check_protocols(dataset, [row for row in rows if row["dataset"] == dataset and row["status"] == "run"])
    against = {(part.dataset, row.name): row.against or board.baseline for part in board.parts for row in part.rows}
    for row in rows:
        here = against.get(row_key(row))
        base = known.get((row["dataset"], here))
        if base is not None and base is not row and (row_key(row) in fresh) != (row_key(base) in fresh):
            _compare(row, base, values, board.primary)
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset and row["status"] == "run"]
        _order(here, board.primary)
        _compare_best(here, fresh, values, board.primary)
    order = {dataset: place for place, dataset in enumerate(part.dataset for part in board.parts)}
    return sorted(rows, key=lambda row: (order.get(row["dataset"], len(order)), row.get("rank") or len(rows) + 1))


def _check_protocols(dataset, rows):
    """Rows that were judged on other data or by other rules cannot stand on one page."""
    shared = [key for key in ("split_hash",) if all(key in row for row in rows)]  # older pages have none
    protocols = {row["name"]: row["protocol"] | {key: row[key] for key in shared} for row in rows}
    try:
        if protocols:
            compare_protocols(dataset, protocols)
    except UserError as error:
        raise UserError(f"{error} Or run the whole board: rows that did not run again are as they were.") from None


def _compare(row, base, values, primary):
    """A new row beside one that stays: paired where the values of users are known, else a difference of means."""
    if row["status"] != "run" or base["status"] != "run":
        row.pop("comparisons", None)
        return
    row["comparisons"] = {
        metric: _UNPAIRED
        | {"against": base["name"], "test": "unpaired", "difference": value["mean"] - base["metrics"][metric]["mean"]}
        for metric, value in row["metrics"].items()
        if None not in (value["mean"], base["metrics"].get(metric, {}).get("mean"))
    }
    if found := _paired(row, base, values):
        row["comparisons"][primary] = found
    for group in (group for groups in row.get("splits", {}).values() for group in groups):
        group["metrics"] = {metric: {"mean": cell["mean"]} for metric, cell in group["metrics"].items()}


def _paired(row, base, values) -> dict | None:
    """The comparison of two rows over their users, by what is kept of these; None where it is not kept."""
    ours, theirs = (values.get(row_key(one)) for one in (row, base))
    split = row.get("split_hash")
    if ours is None or theirs is None or split is None or split != base.get("split_hash") or len(ours) != len(theirs):
        return None
    found = compare(*(frame.mean(axis=1, skipna=False) for frame in (ours, theirs)), "t")
    return plain_comparison(found) | {"against": base["name"]}


def _order(rows, primary):
    """Ranks 1, 2, … by the primary metric; equal means share a rank."""
    down = any(row["metrics"][primary].get("smaller_is_better") for row in rows)
    sign = -1 if down else 1
    means = [row["metrics"][primary]["mean"] for row in rows]
    means = [-math.inf if mean is None else sign * mean for mean in means]
    for row, mean in zip(rows, means):
        row["rank"] = 1 + sum(other > mean for other in means)


def _compare_best(rows, fresh, values, primary):
    """The best against the second: what was known of the same two rows stays, else it is tested where users are known."""
    kept = {row_key(row): row.pop("best_against_second") for row in rows if "best_against_second" in row}
    if len(rows) < 2:
        return
    best, second = sorted(rows, key=lambda row: row["rank"])[:2]
    found = kept.get(row_key(best))
    same = found and found["against"] == second["name"] and (row_key(best) in fresh) == (row_key(second) in fresh)
    if not same:
        paired = _paired(best, second, values)
        found = {"metric": primary, **paired} if paired else None
    if found:
        best["best_against_second"] = found
