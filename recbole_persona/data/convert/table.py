"""Any table of interactions: text with separators, plain or gz, Parquet, or a DataFrame; its columns are named by the user."""

import csv
import re
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from recbole_persona.data.convert import rows
from recbole_persona.data.convert.atomic import RESERVED, number_cell, sequence_cell, text_cell, token_id
from recbole_persona.data.convert.lines import BadLine, Lines, number
from recbole_persona.errors import UserError

MISSING = ("refuse", "drop", "empty")
TYPES = ("token", "float", "token_seq")
SEPARATORS = (",", "\t", ";", "|")
SETTINGS = ("user", "item", "rating", "time", "keep", "missing_rating", "separator", "encoding")
_NAMELESS = "one without a name"
_FRAME_ROWS = 1 << 16  # taken from a DataFrame at a time


def inputs(source, items=None, users=None) -> list[Path]:
    return [path for path in (source, items, users) if isinstance(path, Path)]


def convert(
    source,
    lines: Lines,
    tables,
    user=None,
    item=None,
    rating=None,
    time=None,
    keep=(),
    missing_rating="refuse",
    separator=None,
    encoding="utf-8",
    items=None,
    users=None,
) -> dict:
    """Write ``.inter``, and with tables of items and users ``.item`` and ``.user``.

    Args:
        source: a path, or a DataFrame, as are ``items`` and ``users``.
        user, item, rating, time: names of columns; the first two are needed.
        keep: further columns that are written, ``NAME`` or ``NAME:TYPE``.
        missing_rating: what a row without a rating does: ``refuse``, ``drop`` or ``empty`` (an empty cell).
        separator: between cells; found from the first line when None.
        items, users: tables with the same column of ids.

    Returns:
        Which columns were left out, and how many rows were dropped.
    """
    user, item, rating, time = (None if name is None else str(name) for name in (user, item, rating, time))
    if not user or not item:
        raise UserError("Name the columns of users and items, as --user=user_id --item=item_id.")
    if user == item:
        raise UserError(f"The column {user!r} cannot hold both users and items; name two.")
    if missing_rating not in MISSING:
        raise UserError(f"--missing-rating is one of {', '.join(MISSING)}, not {missing_rating!r}.")
    types = _kept(keep)
    table = _Table(source, "the table", [user, item], separator, encoding)
    clock = _Clock()
    columns = [_ids(table.place(user), "user"), _ids(table.place(item), "item")]
    kinds = {"user_id": "token", "item_id": "token"}
    if rating:
        columns.append(rows.Column(table.place(rating), lambda text: _rating(text, missing_rating), lambda: True))
        kinds["rating"] = "float"
    if time:
        columns.append(rows.Column(table.place(time), clock.seconds, lambda: clock.kind == "number"))
        kinds["timestamp"] = "float"
    for name, kind in table.typed(types).items():
        columns.append(rows.Column(table.place(name), _CELLS[kind]))
        if _plain(name) in kinds:
            raise UserError(f"Two columns would be named {_plain(name)}; rename {name} in {table.name}.")
        kinds[_plain(name)] = kind
    tables.open("inter", kinds)
    dropped = rows.interact(table.batches(), lines, table.name, tables, columns, table.width)
    named = {user, item, rating, time, *types}
    notes = {"columns left out": ", ".join(name or _NAMELESS for name in table.names if name not in named)}
    if dropped:
        notes["without a rating, dropped"] = dropped
    if clock.kind:
        notes["times"] = clock.told()
    for suffix, described, key in (("item", items, item), ("user", users, user)):
        if described is not None:
            of_ids = _Table(described, f"the table of {suffix}s", [key], None, encoding)
            _describe(suffix, of_ids, key, lines, tables, set(kinds))
            if "" in of_ids.names:  # as pandas writes its index
                notes[f"columns of {of_ids.name} left out"] = _NAMELESS
            if count := tables.without_row[suffix]:
                known = len(tables.items if suffix == "item" else tables.users)
                notes[f"{suffix}s that {of_ids.name} lacks"] = f"{count:,} of {known:,}"
    return {key: value for key, value in notes.items() if value}


def _ids(place, what) -> rows.Column:
    return rows.Column(place, lambda text: _id(text, what))


def _id(text, what) -> str:
    token = token_id(text, what)
    if token != text:  # two ids must not become one
        raise BadLine(f"the {what} {text[:40]!r} holds a tab, an end of a line or a sign that is no character")
    return token


def _kept(keep) -> dict[str, str | None]:
    types = {}
    for entry in keep.split(",") if isinstance(keep, str) else map(str, keep or ()):
        name, _, kind = entry.rpartition(":") if entry.rpartition(":")[2] in TYPES else (entry, "", None)
        types[name.strip()] = kind
    types.pop("", None)
    return types


def _describe(suffix, table, key, lines, tables, taken) -> None:
    typed = table.typed(dict.fromkeys(name for name in table.names if name not in ("", key)))
    names = {name: f"{suffix}_{_plain(name)}" if _plain(name) in taken else _plain(name) for name in typed}
    if len(set(names.values())) < len(names):
        raise UserError(f"Two columns of {table.name} have one name; rename one.")
    places = [(table.place(name), _VALUES[kind]) for name, kind in typed.items()]
    with tables.describing(suffix, {names[name]: kind for name, kind in typed.items()}) as write:
        for batch in table.batches():
            for place, row in rows.good_rows(batch, lines, table.name, table.width):
                try:
                    identifier = _id(row[table.place(key)], suffix)
                    write((identifier, *(value(row[where]) for where, value in places)))
                except BadLine as fault:
                    lines.reject(table.name, place, fault)


class _Table:
    """A table of which the names of the columns are known; its rows are read as often as one likes."""

    def __init__(self, source, name, needed, separator, encoding):
        self._frame, self._path, self._encoding = None, source, encoding
        if isinstance(source, pd.DataFrame):
            self._frame, self.name = source, name  # a file has its own
        elif source.suffix == ".parquet":
            self._frame, self.name = _parquet(source), source.name
        else:
            self.name = source.name
        if self._frame is not None:
            self.names = [str(name) for name in self._frame.columns]
        else:
            self._separator, self.names = _header(source, needed, separator, encoding)
        self.width = len(self.names)
        for name in needed:
            self.place(name)

    def place(self, name) -> int:
        if self.names.count(name) != 1:
            problem = "has no column" if name not in self.names else "has more than one column"
            raise UserError(f"{self.name} {problem} {name!r}; its columns are {', '.join(self.names)}.")
        return self.names.index(name)

    def batches(self):
        if self._frame is None:
            return rows.skipped(rows.read(self._path, self._separator, self._encoding), 1)
        return self._frame_batches()

    def _frame_batches(self):
        for start in range(0, len(self._frame), _FRAME_ROWS):
            part = self._frame.iloc[start : start + _FRAME_ROWS]
            cells = [_texts(part.iloc[:, place]) for place in range(self.width)]
            yield rows.Batch(list(map(list, zip(*cells))), start + 1, list(range(start + 1, start + 1 + len(part))))

    def typed(self, types) -> dict[str, str]:
        """Types of columns; where None is given the content tells: numbers, names with ``|`` between, or else tokens."""
        unknown = {name: self.place(name) for name, kind in types.items() if kind is None}
        floats, lists, filled = set(unknown), set(), set()
        for batch in self.batches() if unknown else ():
            good = [row for row in batch.rows if not isinstance(row, BadLine) and len(row) == self.width]
            for name, place in unknown.items():
                for text in filter(None, {row[place] for row in good}):
                    filled.add(name)
                    if not _NUMBER.fullmatch(text):
                        floats.discard(name)
                    if "|" in text:
                        lists.add(name)
        floats &= filled  # a column without a value has no mean
        found = {name: "float" if name in floats else "token_seq" if name in lists else "token" for name in unknown}
        for name in types:
            self.place(name)
        return {name: kind or found[name] for name, kind in types.items()}


_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")  # 007 is a code


def _parquet(path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise UserError('Parquet needs pyarrow; install it with pip install "recbole_persona[parquet]".') from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no Parquet file, or a damaged one ({type(error).__name__}).") from None
    return frame.reset_index() if any(frame.index.names) else frame  # pandas writes a named index as a column


def _texts(column) -> list[str]:
    """The cells of a column as a CSV file would have them; a list is its names with ``|`` between."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return ["" if pd.isna(value) else value.isoformat() for value in column]
    return ["" if not _is_list(value) and pd.isna(value) else _as_text(value) for value in column]


def _is_list(value) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes))


def _as_text(value) -> str:
    if isinstance(value, bytes):  # Parquet has columns of bytes; those that are no text are refused as ids
        return value.decode("utf-8", "surrogateescape")
    if _is_list(value):
        return "|".join(map(str, value))
    return number_cell(value) if isinstance(value, float) and abs(value) < float("inf") else str(value)


def _header(path, needed, separator, encoding) -> tuple[str, list[str]]:
    """The separator and the names of the columns: that separator of which the line gives the columns that are needed."""
    named = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
    if named is not None and (len(named) != 1 or named in '"\r\n'):
        raise UserError(f"--separator is one sign or tab, not {separator!r}.")
    batch = next(rows.read(path, "\t", encoding, quotes=False), None)
    if batch and isinstance(batch.rows[0], BadLine):
        raise UserError(f"{path}, line 1: {batch.rows[0]}; name its encoding, such as --encoding=utf-16.")
    line = "\t".join(batch.rows[0]) if batch else ""
    if not line.strip():
        raise UserError(f"{path} must begin with a line that names its columns.")
    found = {}
    for sign in [named] if named else SEPARATORS:
        try:
            found[sign] = [cell.strip() for cell in next(csv.reader([line], delimiter=sign, strict=True))]
        except csv.Error:
            continue
        if set(needed) <= set(found[sign]):
            return sign, found[sign]
    if not found:
        raise UserError(f"{path}: the first line, which names the columns, is no CSV.")
    best = max(found, key=lambda sign: len(found[sign]))
    return best, found[best]


def _plain(name) -> str:
    """A name that RecBole's header can hold."""
    return re.sub(r"[^\w.-]+", "_", name)


def _rating(text, missing) -> str:
    if text.strip() in RESERVED or not text.strip():
        if missing == "drop":
            raise rows.Dropped("no rating")
        if missing == "empty":
            return ""
        raise BadLine("there is no rating; --missing-rating=drop leaves such rows out, empty keeps them without one")
    return number_cell(number(text, "rating"))


class _Clock:
    """Times as seconds since 1970: all are numbers, which stay as they are, or all are ISO dates, with a zone or without.

    Attributes:
        first: the first time, as it stands in the table.
        kind: ``number`` or ``date``, as the first time is.
        zoned: whether dates name a zone; else they are UTC.
    """

    def __init__(self):
        self.first, self.kind, self.zoned = None, None, None

    def seconds(self, text) -> str:
        date = _date(text)
        if date is None:
            try:
                value = number(text, "time")
            except BadLine:
                raise BadLine(f"the time is no number and no ISO date but {text[:40]!r}") from None
        kind = "number" if date is None else "date"
        zoned = date is not None and date.tzinfo is not None
        if self.kind is None:
            self.first, self.kind, self.zoned = text.strip(), kind, zoned
        if kind != self.kind:
            raise BadLine(f"the time {text[:40]!r} is a {kind}, and the first one a {self.kind}")
        if zoned != self.zoned:
            raise BadLine(f"the time {text[:40]!r} and the first one do not both name a zone")
        if date is None:
            return number_cell(value)
        return number_cell((date if zoned else date.replace(tzinfo=timezone.utc)).timestamp())

    def told(self) -> str:
        """How the times were read, in words."""
        if self.kind == "number":
            return f"numbers such as {self.first}, kept as seconds"
        return "dates" if self.zoned else "dates without a zone, read as UTC"


def _date(text) -> datetime | None:
    if "-" not in text[4:5]:
        return None
    try:
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
    except ValueError:
        return None


def _float(text) -> float | None:
    return number(text, "number") if text.strip() and text not in RESERVED else None


def _names(text) -> list[str]:
    return text.split("|") if "|" in text else text.split()


_VALUES = {"token": lambda text: text or None, "float": _float, "token_seq": _names}
_CELLS = {
    "token": text_cell,
    "float": lambda text: number_cell(_float(text)),
    "token_seq": lambda text: sequence_cell(_names(text)),
}
