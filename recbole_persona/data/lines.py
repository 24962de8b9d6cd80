"""Whether a line of an atomic file is a row, with the cells of the header; seen in its bytes, before pandas reads it.

pandas lets a quote at the beginning of a cell swallow lines up to the next quote, shifts a row that has more cells than
the header, and fills one that has fewer, all without a word. In a file that is well, separators and line feeds alternate
as in the header; so a piece of it is compared as a whole, and only where the pattern breaks (a blank line, a quote) are
the lines looked at one by one.
"""

import codecs
import re

from recbole_persona.errors import UserError

_PIECE = 1 << 17  # bytes; small enough to stay in the processor's cache


def rows_of(path, separator: str, encoding: str | None, loaded=None, ids=()) -> int:
    """The number of rows of an atomic file: its lines but the header and blank ones.

    Args:
        separator: what separates cells.
        encoding: of the file; None for UTF-8.
        loaded: the columns ``name:type`` that are read, all when None; a remedy for one that is not says so.
        ids: names of columns that hold ids, which can never be texts.

    Raises:
        UserError: a line has other cells than the header, opens a quote that it does not close, or holds a NUL.
    """
    pieces = _bytes(path) if _is_plain(separator, encoding) else _encoded(path, encoding)
    sign = separator.encode()
    others, pattern, header, number, rows = b"", b"", [], 0, -1
    for piece in pieces:
        if not header:
            header = (
                re.split(rb"[\r\n]", piece, maxsplit=1)[0]
                .decode("utf-8", "replace")
                .removeprefix("\ufeff")
                .split(separator)
            )
            pattern = sign * (len(header) - 1) + b"\n"
            others = bytes(set(range(256)) - set(sign + b'\r\n"\0'))
        if len(header) > 1 and len(sign) == 1 and (lines := _patterned(piece, piece.translate(None, others), pattern)):
            number, rows = number + lines, rows + lines
            continue
        piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # pandas ends a line at either
        for line in piece.removesuffix(b"\n").split(b"\n"):
            number += 1
            if line.count(sign) != len(header) - 1 or b'"' in line or b"\0" in line or len(header) == 1:
                text = line.decode("utf-8", "replace")
                if not text.strip("\t ".replace(separator, "")):
                    continue
                if fault := line_fault(text, separator, header, loaded, ids):
                    raise UserError(f"{path}, line {number}: {fault}")
            rows += 1
    return max(rows, 0)


def _patterned(piece, marks, pattern) -> int:
    """The number of lines of a piece whose marks (separators, ends of line, quotes) repeat the pattern; 0 when they do not.

    A carriage return that ends a line of its own passes here, and shows when the rows are counted.
    """
    if marks.endswith(b"\r\n"):
        pattern = pattern[:-1] + b"\r\n"
    if b'"' in marks:
        quotes, sign = marks.count(b'"'), pattern[:1]
        # a cell has one quote at its beginning at most, so as many as half of all leave no cell with others than these two
        starts = piece.startswith(b'"') + piece.count(sign + b'"') + piece.count(b'\n"')
        ends = piece.count(b'"' + sign) + piece.count(b'"' + pattern.lstrip(sign))
        if not quotes == 2 * starts == 2 * ends:
            return 0
        marks = marks.replace(b'""', b"")
    lines = len(marks) // len(pattern)
    return lines if marks == pattern * lines else 0


def line_fault(line: str, separator: str, header: list[str], loaded=None, ids=()) -> str | None:
    """What is wrong with a line, as the end of a sentence; None when it is a row with the cells of the header.

    A cell in quotes is one as in CSV, if its line closes it; quotes elsewhere are signs like others.
    """
    if "\0" in line:
        return "it holds a NUL byte, which ends a cell; remove it."
    count = place = 0
    quoted = len(separator) == 1  # beside a longer separator, quotes mean nothing
    sign = re.escape(separator)
    cell = re.compile(rf'"[^"]*(?:""[^"]*)*"(?!")[^{sign}]*|(?!")[^{sign}]*') if quoted else None
    while quoted:
        count += 1
        found = cell.match(line, place)
        if found is None:
            return _open_quote(header[count - 1] if count <= len(header) else None, loaded, ids)
        if found.end() == len(line):
            break
        place = found.end() + 1
    count = count if quoted else line.count(separator) + 1
    if count == len(header):
        return None
    if count < len(header) and line.count(separator) + 1 >= len(header):
        return (
            f"{count} cells, and the header has {len(header)}, because quotes enclose a separator; remove the quotes, "
            'or double those that belong to a value ("" inside quotes).'
        )
    return (
        f"{count} cells, and the header has {len(header)}; a line is a row, an empty cell keeps its separator, and a "
        f"cell that holds a {separator!r} is written in quotes."
    )


def _open_quote(column, loaded, ids) -> str:
    name, _, kind = (column or "").partition(":")
    remedy = "remove it, or write the cell as in CSV (in quotes, those inside doubled)"
    if kind.startswith("token") and name not in ids:
        load = "" if loaded is None or column in loaded else "load it and "
        remedy += f"; if {name} holds texts, {load}set text_fields: [{name}]"
    return f"{f'the {name}' if name else 'a cell'} begins with a quote that the line does not close; {remedy}."


def _is_plain(separator, encoding) -> bool:
    """Whether bytes below 128 are the signs of ASCII, whatever stands around them."""
    name = codecs.lookup(encoding or "utf-8").name
    return separator.isascii() and (name in ("utf-8", "utf-8-sig", "ascii") or name.startswith(("iso8859", "cp125")))


def _bytes(path):
    """The file in pieces of whole lines, each ended by a line feed."""
    with open(path, "rb") as file:
        yield from _whole_lines(iter(lambda: file.read(_PIECE), b""))


def _encoded(path, encoding):
    """A file in another encoding, in UTF-8."""
    with open(path, encoding=encoding, newline="") as file:
        yield from _whole_lines(text.encode("utf-8", "surrogatepass") for text in iter(lambda: file.read(_PIECE), ""))


def _whole_lines(pieces):
    rest = b""
    for piece in pieces:
        end = piece.rfind(b"\n") + 1
        if end:
            yield rest + piece[:end]
            rest = piece[end:]
        else:
            rest += piece
    if rest:
        yield rest + b"\n" * (not rest.endswith(b"\r"))
