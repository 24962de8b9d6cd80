"""Groups of users, alike in size, by a quantity that each user has: how the tables by taste or activity are split."""

import pandas as pd

from recbole_persona.board.specification import Board
from recbole_persona.errors import UserError
from recbole_persona.evaluate.quantities import user_quantities
from recbole_persona.runner.training import load_data

QUANTITIES = ("history_length", "taste_entropy", "taste_entropy_excess", "taste_drift", "diversity")


def check_splits(board: Board) -> None:
    """Refuse a split by a quantity that nobody computes, or by a file that cannot be read; before anything runs."""
    for name, split in board.splits.items():
        if "file" in split:
            _from_file(split)
        elif name not in QUANTITIES:
            raise UserError(
                f"Users are split by {', '.join(QUANTITIES)}, or by a file of yours "
                f"({name}: {{file: x.csv, column: y, groups: 4}}), not by {name!r}."
            )


def groups(board: Board, run_dir, users, trust=False) -> dict[str, list[tuple[str, pd.Index]]]:
    """The groups of every split.

    Args:
        run_dir: a finished run, whose training data the quantities are computed from.
        users: external ids of the users that were tested; others are in no group.
        trust: as for :func:`recbole_persona.load`.

    Returns:
        By quantity, ``(label, users)`` from the least to the most. Users with equal values are in one group, so there may
        be fewer groups than asked for. Users without a value are left out.
    """
    if not board.splits:
        return {}
    computed = None
    if any("file" not in split for split in board.splits.values()):
        config, _, (train, *_) = load_data(run_dir, trust=trust)
        computed = user_quantities(config, train._dataset).set_index("user")
    found = {}
    for name, split in board.splits.items():
        if "file" not in split and name not in computed:
            raise UserError(f"The split {name} needs times; load the column of TIME_FIELD.")
        values = _from_file(split) if "file" in split else computed[name]
        values = values.reindex(users).dropna()
        if values.empty:
            raise UserError(f"The split {name} has a value for none of the users that were tested.")
        found[name] = _quantiles(values, split["groups"])
    return found


def _quantiles(values: pd.Series, number) -> list[tuple[str, pd.Index]]:
    if values.nunique() == 1:
        return [(_written(values.iloc[0]), values.index)]  # between equal quantiles there is nobody
    parts = values.groupby(pd.qcut(values, number, duplicates="drop"), observed=True)
    return [(_label(part.min(), part.max()), part.index) for _, part in parts]


def _label(low, high) -> str:
    return _written(low) if low == high else f"{_written(low)} to {_written(high)}"


def _written(value) -> str:
    return f"{value:g}" if value == round(value) or abs(value) < 0.1 else f"{value:.2f}"


def _from_file(split) -> pd.Series:
    file, column = split["file"], split["column"]
    try:
        table = pd.read_csv(file, dtype={"user": str})
    except FileNotFoundError:
        raise UserError(f"There is no file {file} to split the users by.") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read as a CSV file: {' '.join(str(error).split())}.") from None
    for needed in ("user", column):
        if needed not in table:
            raise UserError(f"{file} has no column {needed!r}; it needs user and {column}.")
    if not pd.api.types.is_numeric_dtype(table[column]) or not table["user"].is_unique:
        raise UserError(f"{file} needs one line for each user, with a number in {column!r}.")
    return table.set_index("user")[column]
