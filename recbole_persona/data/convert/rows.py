"""Tables read in batches of rows. A clean batch is taken column by column; one with an odd row is taken row by row.

Both ways turn a cell into what is written by the same functions, so an odd row costs its batch time and changes nothing else.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain, repeat
from pathlib import Path

from recbole_persona.data.convert.atomic import Tables, number_cell, token_id
from recbole_persona.data.convert.lines import BadLine, Lines, is_gzip, number, opened, progress
from recbole_persona.errors import UserError

CHARACTERS = (
    1 << 14
)  # of a batch: one that stays in a processor's cache is read three times as fast as one of megabytes
# Numbers that number_cell would write as they stand: no exponent, no zeros to take away, digits that a double holds
_PLAIN = re.compile(r"(?:(?:0|-?[1-9][0-9]{0,14}|-?(?:0|[1-9][0-9]{0,9})\.[0-9]{0,3}[1-9])\n)*")


class Dropped(BadLine):
    """A row that the user's settings leave out; it is no fault."""


@dataclass
class Column:
    """A column that is written.

    Attributes:
        place: of its cell in a row.
        cell: what is written for a cell; BadLine when nothing can be.
        is_number: whether ``cell`` writes numbers in their shortest form, asked after the first cell.
    """

    place: int
    cell: Callable[[str], str]
    is_number: Callable[[], bool] = lambda: False


def id_column(place: int, what: str) -> Column:
    """A column of ids, as :func:`token_id` takes them."""
    return Column(place, lambda text: token_id(text, what))


def number_column(place: int, what: str) -> Column:
    """A column of numbers that has no empty cell."""
    return Column(place, lambda text: number_cell(number(text, what)), lambda: True)


@dataclass
class Batch:
    """Rows that follow one another in a file.

    Attributes:
        rows: their cells, or a BadLine for a row that could not be read.
        first: number of the line that the first row begins at.
        numbers: of the lines that rows begin at; one after the other from ``first``, cells with ends of lines aside, when None.
    """

    rows: list[list[str] | BadLine]
    first: int
    numbers: list[int] | None = None

    def numbered(self) -> Iterator[tuple[int, list[str] | BadLine]]:
        """``(number, row)`` of every row."""
        if self.numbers is not None:
            yield from zip(self.numbers, self.rows)
            return
        place = self.first
        for row in self.rows:
            yield place, row
            place += 1 + sum(cell.count("\n") for cell in row)


def interact(batches, lines: Lines, path, tables: Tables, columns: list[Column], width: int, part="inter") -> int:
    """Write the interactions of a table.

    Args:
        batches: what :func:`read` gives.
        columns: the first two are user and item.
        width: number of cells that a row has.

    Returns:
        How many rows were :class:`Dropped`.

    Raises:
        UserError: a bad line, unless they are kept out.
    """
    known = set(), set()  # ids that are written as they stand in the file
    dropped = 0
    for batch in batches:
        taken = _by_columns(batch, columns, width, known)
        if taken is None:
            taken, count = _by_rows(batch, lines, path, columns, width)
            dropped += count
        tables.interact_columns(*taken, part=part)
    return dropped


def _by_columns(batch, columns, width, known) -> list[list[str]] | None:
    """What is written, a list for each column; None when a row is odd."""
    rows = batch.rows
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {width}:
        return None
    cells = list(zip(*rows))
    try:
        for column, seen in zip(columns, known):
            if not seen.issuperset(cells[column.place]):
                new = set(cells[column.place]) - seen
                if any(column.cell(text) != text for text in new):
                    return None
                seen |= new
        return [cells[column.place] for column in columns[:2]] + [
            _column(cells[column.place], column) for column in columns[2:]
        ]
    except BadLine:
        return None


def _column(values, column):
    column.cell(values[0])
    if column.is_number() and _PLAIN.fullmatch("\n".join(values) + "\n"):
        return values
    seen = {text: column.cell(text) for text in dict.fromkeys(values)}
    return list(map(seen.get, values))


def _by_rows(batch, lines, path, columns, width) -> tuple[list[list[str]], int]:
    """What is written of the good rows, a list for each column, and how many rows were dropped."""
    taken, dropped = [[] for _ in columns], 0
    for place, row in good_rows(batch, lines, path, width):
        try:
            values = [column.cell(row[column.place]) for column in columns]
        except Dropped:
            dropped += 1
        except BadLine as fault:
            lines.reject(path, place, fault)
        else:
            for one, value in zip(taken, values):
                one.append(value)
    return taken, dropped


def good_rows(batch: Batch, lines: Lines, path, width: int) -> Iterator[tuple[int, list[str]]]:
    """``(number, row)`` of the rows that have ``width`` cells; blank lines are passed over, others rejected."""
    for place, row in batch.numbered():
        if isinstance(row, BadLine):
            lines.reject(path, place, row)
        elif len(row) == width:
            yield place, row
        elif len(row) > 1 or (row and row[0].strip()):
            lines.reject(path, place, f"has {len(row)} cells, not {width}")


def read(path, separator: str, encoding="utf-8", quotes=True) -> Iterator[Batch]:
    """The rows of a text file, plain or gz, its first line included.

    Args:
        separator: between cells; of one character where there are ``quotes``.
        quotes: as CSV has them. Else every separator separates, and a line is a row.

    Raises:
        UserError: the file is missing, may not be read, is damaged, or of another encoding as a whole.
    """
    place, chunks = 1, _chunks(path, encoding)
    for chunk in chunks:
        if place == 1 and chunk[0].startswith("\ufeff"):
            chunk[0] = chunk[0][1:]
        count = len(chunk)
        batch = _clean(chunk, place, separator, encoding, quotes)
        if batch is None:
            batch = _odd(chunk, place, separator, encoding, quotes, chain.from_iterable(chunks))
            count = len(chunk)  # with what a cell took from the next
        yield batch
        place += count


def _clean(chunk, first, separator, encoding, quotes) -> Batch | None:
    try:
        "".join(chunk).encode(encoding)
        if quotes:
            rows = list(csv.reader(chunk, delimiter=separator, strict=True))
            return Batch(rows, first)
    except (UnicodeEncodeError, csv.Error):
        return None
    return Batch([line.rstrip("\r\n").split(separator) for line in chunk], first)


def _odd(chunk, first, separator, encoding, quotes, more) -> Batch:
    """A chunk of which some line cannot be read; a cell that is open at its end goes on in ``more``."""
    rows, numbers, place = [], [], 0
    while place < len(chunk):
        numbers.append(first + place)
        row, count = _row(chunk, place, separator, encoding, quotes, more)
        rows.append(row)
        place += count
    return Batch(rows, first, numbers)


def _row(chunk, place, separator, encoding, quotes, more) -> tuple[list[str] | BadLine, int]:
    """The row that begins at a line, and how many lines it has."""
    taken = 0

    def lines():
        nonlocal taken
        while True:
            if place + taken == len(chunk):
                following = next(more, None)
                if following is None:
                    return
                chunk.append(following)
            taken += 1
            yield chunk[place + taken - 1]

    plain = chunk[place].rstrip("\r\n").split(separator)
    try:
        row = next(csv.reader(lines(), delimiter=separator, strict=True)) if quotes else plain
        "".join(row).encode(encoding)
        return row, taken or 1
    except UnicodeEncodeError:
        return _no_text(chunk[place : place + (taken or 1)], encoding), taken or 1
    except csv.Error as error:
        # quotes that are no CSV are signs like others where none of them opens a cell that it does not close
        if all(cell.count('"') % 2 == 0 for cell in plain) and len(plain) > 1:
            return plain, 1
        return BadLine(f"is not CSV ({error})"), 1


def _no_text(lines, encoding):
    text = "".join(lines)
    try:
        text.encode(encoding)
    except UnicodeEncodeError as error:
        return BadLine(f"is no {encoding.upper()} text at byte {len(text[: error.start].encode(encoding)) + 1}")


def _chunks(path, encoding) -> Iterator[list[str]]:
    """Lines with their ends, some million characters at a time; a byte that is no character is half a surrogate pair."""
    path, count = Path(path), 0
    with opened(path) as raw, progress(path) as bar:
        plain = gzip.GzipFile(fileobj=raw) if is_gzip(path) else raw
        try:
            text = TextIOWrapper(plain, encoding, "surrogateescape", newline="\n")
        except LookupError:
            raise UserError(f"There is no encoding of texts {encoding!r}; name one such as utf-8 or latin-1.") from None
        try:
            while chunk := text.readlines(CHARACTERS):
                count += len(chunk)
                bar.update(raw.tell() - bar.n)
                yield chunk
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise UserError(
                f"{path} is damaged or truncated after line {count}; fetch it again. Nothing was written."
            ) from None
        except UnicodeError:
            raise UserError(f"{path} is no {encoding.upper()} text; name its encoding with --encoding.") from None


def skipped(batches, count: int) -> Iterator[Batch]:
    """All rows but the first ``count``, which are in the first batch."""
    for batch, skip in zip(batches, chain([count], repeat(0))):
        if not skip:
            yield batch
            continue
        numbered = list(batch.numbered())[: skip + 1]
        rest = batch.rows[skip:]
        if rest:
            yield Batch(rest, numbered[-1][0], batch.numbers and batch.numbers[skip:])
