"""Files of (user, item) pairs, as people have them: CSV, tab-separated or JSON lines."""

import csv
import json
from pathlib import Path

from recbole_persona.errors import UserError, one_sentence


def read_pairs(file, user_field, item_field) -> tuple[list[str], list[str]]:
    """External ids of users and items, side by side, in the order of the file.

    A file that ends in ``.jsonl`` has one object a line; any other has a head line, and tabs or commas between cells. The
    columns are called as in the data set (``user_id`` or ``user_id:token``), or ``user`` and ``item``; others are left alone.

    Raises:
        UserError: no file, no such columns, a line without an id, no pair.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").split("\n")  # a text in JSON may hold other ends of lines
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"There is no file of pairs {file}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file in UTF-8.") from None
    rows = list((_objects if Path(file).suffix == ".jsonl" else _cells)(file, lines))
    if not rows:
        raise UserError(f"{file} names no pair; write a user and an item on each line, below a head line.")
    columns = [_column(file, rows[0][1], own, what) for own, what in ((user_field, "user"), (item_field, "item"))]
    pairs = []
    for number, row in rows:
        ids = [row.get(column) for column in columns]
        if not all(isinstance(one, (str, int)) and str(one) for one in ids):
            raise UserError(f"{file}, line {number}, lacks the id of a user or of an item.")
        pairs.append([str(one) for one in ids])
    users, items = zip(*pairs)
    return list(users), list(items)


def _cells(file, lines):
    """(number, cells by column) of every line below the head line."""
    tabs = bool(lines) and "\t" in lines[0]
    form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"skipinitialspace": True}
    reader = csv.reader(lines, strict=True, **form)
    number = 0
    try:
        head = [cell.partition(":")[0].strip() for cell in next(reader, [])]
        for row in reader:
            number = reader.line_num
            if row:
                yield number, dict(zip(head, map(str.strip, row)))
    except csv.Error as error:
        raise UserError(f"{file}: what begins below line {number or 1} is no CSV: {one_sentence(error)}") from None


def _objects(file, lines):
    """(number, object) of every line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}, is no JSON object.")
        yield number, row


def _column(file, row, own, what):
    found = next((name for name in (own, what) if name in row), None)
    if found is None:
        raise UserError(f"{file} has no column {own} or {what}; it has {', '.join(row) or 'none'}.")
    return found
