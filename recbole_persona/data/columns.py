"""Which columns of the atomic files a run loads, and what to append where one that it reads is not among them."""

from pathlib import Path
from typing import NamedTuple

from recbole.utils import ModelType

from recbole_persona.errors import UserError, nearest


class AtomicFile(NamedTuple):
    """An atomic file by its header.

    Attributes:
        fields: type by column.
    """

    path: Path
    suffix: str
    fields: dict[str, str]


def wanted(config, suffix) -> set[str] | None:
    """The columns to load from a file, None for all."""
    columns = config["load_col"]
    if columns is None or columns.get(suffix) == "*":
        return None
    return set(columns.get(suffix) or ())


def unwanted(config, suffix) -> set[str]:
    """The columns of a file that are left out."""
    return set((config["unload_col"] or {}).get(suffix) or ())


def needed(config, suffix) -> list[str]:
    """The keys of the fields that a file must have."""
    if suffix == "inter":
        by_time = config["eval_args"]["order"] == "TO" or config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        time = ["TIME_FIELD"] if by_time and not config["benchmark_filename"] else []
        return ["USER_ID_FIELD", "ITEM_ID_FIELD", *time]
    return {
        "user": ["USER_ID_FIELD"],
        "item": ["ITEM_ID_FIELD"],
        "kg": ["HEAD_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD"],
        "link": ["ITEM_ID_FIELD", "ENTITY_ID_FIELD"],
    }.get(suffix, [])


def is_loaded(config, suffix, field) -> bool:
    """Whether a column that a file has is loaded."""
    chosen = wanted(config, suffix)
    return (chosen is None or field in chosen) and field not in unwanted(config, suffix)


def loading(config, suffix, field) -> str:
    """How a column that a file has comes to be loaded, as the end of a sentence."""
    if field in unwanted(config, suffix):
        return f"take it out of unload_col of {suffix!r}"
    columns = dict(config["load_col"])
    loaded = columns.get(suffix) or [config[key] for key in needed(config, suffix)]
    columns[suffix] = [*dict.fromkeys([*loaded, field])]
    return f'append --load_col="{columns}"'


def check_intervals(config, files: list[AtomicFile]) -> None:
    """A column that ``val_interval`` reads must be loaded, and be of a type that it can read.

    Args:
        files: those that are read, and those of users and items also where they are not.

    Raises:
        UserError: the first that is not.
    """
    for field, value in config["val_interval"].items():
        _check_interval(config, field, value, files)


def _check_interval(config, field, value, files):
    places = [one for one in files if field in one.fields]
    if not places:
        known = list(dict.fromkeys(column for one in files for column in one.fields))
        raise UserError(f"val_interval reads {field!r}; the columns are {', '.join(known)}{nearest(field, known)}.")
    path, suffix, fields = next((one for one in places if is_loaded(config, one.suffix, field)), places[0])
    kind = fields[field]
    if not is_loaded(config, suffix, field):
        remedy = loading(config, suffix, field)
        raise UserError(f"val_interval reads the column {field!r} of {path}, which is not loaded; {remedy}.")
    if kind not in ("float", "token"):
        raise UserError(
            f"val_interval keeps rows by single values, and the column {field!r} of {path} is of type {kind}; leave it out."
        )
    if isinstance(value, str) != (kind == "float"):
        form = "an interval such as '[3,inf)'" if kind == "float" else "a list of values"
        raise UserError(f"val_interval of {field}, a column of type {kind}, must be {form}; it is {value!r}.")
