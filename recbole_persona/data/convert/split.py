"""Interactions that come split into training, validation and test: tables with a header, comma or tab between the cells.

Either one table with a column ``split`` (train, valid or val, test), or a table for each part. Other columns than user, item
and split are left out and named. RecBole reads the parts as they are (``benchmark_filename: [train, valid, test]``).
"""

import csv
from pathlib import Path

from recbole_persona.data.convert.atomic import token_id
from recbole_persona.data.convert.lines import BadLine, Lines, first_line
from recbole_persona.errors import UserError

INTER = {"user_id": "token", "item_id": "token"}
PARTS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
_NAMES = {"user": ("user", "user_id", "userid"), "item": ("item", "item_id", "itemid"), "split": ("split",)}


def inputs(source: Path, valid=None, test=None) -> list[Path]:
    return [path for path in (source, valid, test) if path is not None]


def convert(source: Path, lines: Lines, tables, valid=None, test=None) -> dict:
    """Write ``.train.inter``, ``.valid.inter`` and ``.test.inter``.

    Args:
        valid, test: tables of these parts, where ``source`` is that of training; none where it has a column ``split``.

    Returns:
        Which columns were left out.
    """
    if (valid is None) != (test is None):
        raise UserError("--valid and --test go together; name both tables.")
    for part in ("train", "valid", "test"):
        tables.open(f"{part}.inter", INTER)
    whole = [(None, source)]
    parts = whole if valid is None else [("train", source), ("valid", valid), ("test", test)]
    left_out = dict.fromkeys(name for part, path in parts for name in _read(path, lines, tables, part))
    return {"columns left out": ", ".join(left_out)} if left_out else {}


def _read(path, lines, tables, part) -> list[str]:
    """The rows of one table; ``part`` that they belong to, None where a column says it. Names the columns left out."""
    header = first_line(path)
    separator = "\t" if "\t" in header else ","
    written = [cell.strip() for cell in _cells(header, separator)]
    names = [name.lower() for name in written]
    places = {what: next((names.index(n) for n in known if n in names), None) for what, known in _NAMES.items()}
    for what in ("user", "item", *(() if part else ("split",))):
        if places[what] is None:
            hint = ", or name the tables of the other parts with --valid and --test" if what == "split" else ""
            raise UserError(f"{path} has no column {what}; its first line must name the columns{hint}.")

    def take(text):
        cells = _cells(text, separator)
        if len(cells) != len(names):
            raise BadLine(f"has {len(cells)} cells, not {len(names)}")
        where = part or PARTS.get(cells[places["split"]].strip().lower())
        if where is None:
            raise BadLine(f"the split is {cells[places['split']]!r}, not train, valid or test")
        user, item = (token_id(cells[places[what]], what) for what in ("user", "item"))
        tables.interact(user, item, part=f"{where}.inter")

    lines.each(path, take, skip=1)
    return [name for place, name in enumerate(written) if place not in places.values()]


def _cells(text, separator):
    if separator == "\t":
        return text.split("\t")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise BadLine(f"is not CSV ({error})") from None
