"""Sequences, a user a line: ``user item item …``, oldest first; or ``user item``, a pair a line, as SASRec has them.

A user who comes again goes on where he stopped, so both forms are read alike.
"""

import json
from itertools import zip_longest
from pathlib import Path

from recbole_persona.data.convert.atomic import token_id
from recbole_persona.data.convert.lines import BadLine, Lines, first_line, number, raw_lines
from recbole_persona.errors import UserError

INTER = {"user_id": "token", "item_id": "token", "timestamp": "float"}


def inputs(source: Path, times=None, attributes=None, attribute_names=None, titles=None) -> list[Path]:
    if attribute_names is not None and attributes is None:
        raise UserError("--attribute-names needs --attributes, the file that gives items their attributes.")
    return [path for path in (source, times, attributes, attribute_names, titles) if path is not None]


def convert(source: Path, lines: Lines, tables, times=None, attributes=None, attribute_names=None, titles=None) -> None:
    """Write ``.inter``, and ``.item`` where there are attributes or titles.

    Args:
        times: file of the same form as ``source``, seconds since the item before; without it the time is the position.
        attributes: JSON file of attribute ids by item.
        attribute_names: table with a header: id, name.
        titles: table with a header: item, title.
    """
    tables.open("inter", INTER)
    clock: dict[str, float] = {}
    rows = _with_times(source, times) if times is not None else _without_times(source)
    for number_, user, items, deltas, fault in rows:
        try:
            if fault:
                raise BadLine(fault)
            user = token_id(user, "user")
            items = [token_id(item, "item") for item in items]
            moment = clock.get(user, 0 if times else -1)
            for item, delta in zip(items, deltas):
                moment += delta
                tables.interact(user, item, moment)
            clock[user] = moment
        except BadLine as bad:
            lines.reject(source, number_, bad)
    if attributes is not None or titles is not None:
        _write_items(lines, tables, attributes, attribute_names, titles)


def _without_times(source):
    for line_number, line in raw_lines(source):
        if line.strip():
            user, items, fault = _split(line)
            yield line_number, user, items, [1] * len(items), fault


def _with_times(source, times):
    """The lines of both files side by side, which must be of the same users and lengths."""
    for pair in zip_longest(raw_lines(source), raw_lines(times)):
        if None in pair:
            more, fewer = (source, times) if pair[1] is None else (times, source)
            raise UserError(f"{more} has more lines than {fewer}; each user needs a line in both.")
        (line_number, line), (_, other) = pair
        if not line.strip() and not other.strip():
            continue
        user, items, fault = _split(line)
        same, deltas, other_fault = _split(other)
        if not fault and not other_fault:
            if same != user:
                fault = f"the line of {Path(times).name} is of user {same!r}, not {user!r}"
            elif len(deltas) != len(items):
                fault = f"{len(items)} items, and {len(deltas)} times in {Path(times).name}"
        try:
            deltas = [number(delta, "time") for delta in deltas]
        except BadLine as bad:
            fault = fault or f"{Path(times).name}: {bad}"
        yield line_number, user, items, deltas, fault or (other_fault and f"{Path(times).name}: {other_fault}")


def _split(line):
    """``(user, items, fault)`` of a line."""
    try:
        user, *items = line.decode("utf-8").removeprefix("\ufeff").split()
    except UnicodeDecodeError:
        return None, [], "is no UTF-8 text"
    except ValueError:
        return None, [], "is empty"
    return user, items, None if items else "has a user and no item"


def _write_items(lines, tables, attributes, attribute_names, titles):
    columns = ({"title": "token"} if titles else {}) | ({"attribute": "token_seq"} if attributes else {})
    title_of = _pairs(lines, titles) if titles else {}
    ids = _attributes(attributes) if attributes else {}
    name_of = _pairs(lines, attribute_names) if attribute_names else {}

    with tables.describing("item", columns) as write:
        for item in tables.items:
            title = [title_of.get(item)] if titles else []
            names = [[name_of.get(str(one), str(one)) for one in ids.get(item, ())]] if attributes else []
            try:
                write((item, *title, *names))
            except BadLine as fault:
                raise UserError(f"The item {item} has too much to tell in {attributes or titles}: {fault}.") from None


def _pairs(lines, path) -> dict[str, str]:
    """The first two columns of a tab-separated file with a header."""
    if "\t" not in first_line(path):
        raise UserError(f"{path} must begin with a header of at least two columns, separated by a tab.")

    values = {}

    def take(text):
        cells = text.split("\t")
        if len(cells) < 2:
            raise BadLine("has no tab")
        values[cells[0].strip()] = cells[1]

    lines.each(path, take, skip=1)
    return values


def _attributes(path) -> dict[str, list]:
    content = b"".join(line for _, line in raw_lines(path))
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(ids, list) for ids in found.values()):
        raise UserError(f'{path} is no JSON object of lists, such as {{"1": [4, 7]}}.')
    return found
