"""Which files and columns of a data set a run reads, by their headers, and the sentence for a column that it lacks."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from recbole.utils import FeatureType, ModelType

from recbole_persona.data.missing_parts import read_parts
from recbole_persona.errors import UserError, nearest
from recbole_persona.registry import METRICS, get_model

TEXT = "text"  # a type of column that RecBole does not have, as in ``name:text``
OF_TEXT_METRICS = {
    "text.reference": "explanation_field",
    "data.features": "feature_field",
    "text.rating": "RATING_FIELD",
}
_TYPES = (*(kind.value for kind in FeatureType), TEXT)


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


def read_anyway(config) -> set[str]:
    """The columns that are loaded also where ``load_col`` names others of their file.

    That is what a model says that it reads (``reads_fields``: config keys that name columns), and what metrics of texts read.
    """
    # a config that RecBole reads from a checkpoint has the name of the model alone
    model = getattr(config, "model_class", None) or get_model(config["model"])
    needs = {
        need for metric in config["metrics"] if metric.lower() in METRICS for need in METRICS[metric.lower()].needs
    }
    of_metrics = [key for need, key in OF_TEXT_METRICS.items() if need in needs]
    return {config[key] for key in (*getattr(model, "reads_fields", ()), *of_metrics)}


def is_loaded(config, suffix, field) -> bool:
    """Whether a column that a file has is loaded."""
    chosen = wanted(config, suffix)
    named = chosen is None or field in chosen or (bool(chosen) and field in read_anyway(config))
    return named and field not in unwanted(config, suffix)


def absent(config, field, *suffixes) -> str:
    """Why a run does not get a column, and what to do, as the end of a sentence.

    Args:
        suffixes: of the files that may hold the column; without any, every file may.
    """
    files = all_files(config)
    suited = [one for one in files if not suffixes or one.suffix in suffixes]
    holding = next((one for one in suited if field in one.fields), None)
    if holding or len({one.suffix for one in suited}) == 1:
        return lacking(config, holding or suited[0], field)
    if not suited:
        return f"there is no file {Path(config['data_path']) / config['dataset']}.{suffixes[0]}"
    known = list(dict.fromkeys(column for one in suited for column in one.fields))
    names = " and ".join(str(one.path) for one in suited)
    return f"no column of {names} is named {field!r}; they have {', '.join(known)}{nearest(field, known)}"


def lacking(config, file: AtomicFile, field) -> str:
    """As :func:`absent`, for one file that should hold the column."""
    path, suffix, fields = file
    if field not in fields:
        return f"{path} has no column {field!r}; it has {', '.join(fields)}{nearest(field, fields)}"
    if is_loaded(config, suffix, field):
        return f"the column {field!r} of {path}, of type {fields[field]}, cannot serve"
    return f"the column {field!r} of {path} is not loaded; set {loading(config, suffix, field)}"


def loading(config, suffix, field) -> str:
    """The option that lets a run load a column that a file has, as it is typed in a shell."""
    key = "unload_col" if field in unwanted(config, suffix) else "load_col"
    columns = dict(config[key])
    if key == "unload_col":
        columns[suffix] = [each for each in columns[suffix] if each != field]
    else:
        loaded = columns.get(suffix) or [config[each] for each in needed(config, suffix)]
        columns[suffix] = [*dict.fromkeys([*loaded, field])]
    return option(key, columns)


def option(key, value) -> str:
    """A setting as it is typed in a shell."""
    text = str(value)
    return f"--{key}={shlex.quote(text)}" if re.search(r"[$`\"\\!]", text) else f'--{key}="{text}"'


def read_files(config) -> list[tuple[Path, str]]:
    """``(path, suffix)`` of the files that are read; UserError for one that must be there and is not."""
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = config["benchmark_filename"]
    interactions = [f"{name}.{part}.inter" for part in read_parts(config)] if parts else [f"{name}.inter"]
    extra = list(config["additional_feat_suffix"] or [])
    extra += ["kg", "link"] if config["MODEL_TYPE"] == ModelType.KNOWLEDGE else []
    required = [(folder / file, "inter") for file in interactions]
    required += [(folder / f"{name}.{suffix}", suffix) for suffix in extra]
    for path, suffix in required:
        if not path.is_file():
            raise UserError(f"There is no file {path}; the data set {name!r} needs its .{suffix} file.")
    optional = [(folder / f"{name}.{suffix}", suffix) for suffix in ("user", "item")]
    return required + [one for one in optional if one[0].is_file() and wanted(config, one[1]) != set()]


def all_files(config) -> list[AtomicFile]:
    """The files that are read, and those of users and items also where they are not."""
    start = Path(config["data_path"]) / config["dataset"]
    others = [(start.with_name(f"{start.name}.{suffix}"), suffix) for suffix in ("user", "item")]
    files = dict.fromkeys([*read_files(config), *(each for each in others if each[0].is_file())])
    return [AtomicFile(path, suffix, dict(header(path, config))) for path, suffix in files]


def header(path, config) -> list[tuple[str, str]]:
    """``(field, type)`` of every column; UserError when the first line is no header or no row follows."""
    separator = config["field_separator"]
    try:
        with open(path, encoding=config["encoding"]) as file:
            head, row = file.readline().rstrip("\n"), any(line.strip() for line in file)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not {config['encoding'] or 'UTF-8'} text; set --encoding=….") from None
    if not head.strip():
        raise UserError(f"{path} is empty; its first line must be like user_id:token{separator}item_id:token.")
    columns = []
    for cell in head.removeprefix("\ufeff").split(separator):
        field, colon, kind = cell.partition(":")
        if not colon or kind not in _TYPES:
            raise UserError(
                f"{path}, line 1: the column {cell!r} must be written name:type, its type one of {', '.join(_TYPES)}, "
                f"and the columns be separated by {separator!r} (field_separator)."
            )
        if field in dict(columns):
            raise UserError(f"{path}, line 1: two columns are named {field!r}.")
        columns.append((field, kind))
    if head.startswith("\ufeff"):
        raise UserError(f"{path} begins with a byte order mark; set --encoding=utf-8-sig.")
    if not row:
        raise UserError(f"{path} has a header and no rows.")
    return columns


def check_intervals(config) -> None:
    """A column that ``val_interval`` reads must be loaded, and be of a type that it can read.

    Raises:
        UserError: the first that is not.
    """
    for field, value in config["val_interval"].items():
        _check_interval(config, field, value)


def _check_interval(config, field, value):
    places = [one for one in all_files(config) if field in one.fields]
    loaded = next((one for one in places if is_loaded(config, one.suffix, field)), None)
    if loaded is None:
        raise UserError(f"val_interval reads {field!r}, and {absent(config, field)}.")
    path, _, fields = loaded
    kind = fields[field]
    if kind not in ("float", "token"):
        raise UserError(
            f"val_interval keeps rows by single values, and the column {field!r} of {path} is of type {kind}; leave it out."
        )
    if isinstance(value, str) != (kind == "float"):
        form = "an interval such as '[3,inf)'" if kind == "float" else "a list of values"
        raise UserError(f"val_interval of {field}, a column of type {kind}, must be {form}; it is {value!r}.")
