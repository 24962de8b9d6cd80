"""Reading other people's files line by line: plain or gz, with a progress bar, bad lines named by file and number."""

import gzip
import os
import zlib
from contextlib import contextmanager
from pathlib import Path

from recbole_persona import progress as lines
from recbole_persona.errors import UserError

SHOWN = 5  # bad lines that are named


class BadLine(ValueError):
    """A line that cannot be used; the text says why, as the end of "FILE, line N: …"."""


class Lines:
    """Reads files, and keeps account of the lines that are left out.

    Args:
        keep: leave bad lines out and go on; otherwise the first one is refused.

    Attributes:
        n_left_out: the number of bad lines so far.
        left_out: the first few of them, as sentences without an end.
    """

    def __init__(self, keep: bool):
        self.keep = keep
        self.n_left_out = 0
        self.left_out = []

    def each(self, path, take, encoding="utf-8", skip=0) -> None:
        """Call ``take(text)`` with every line that is not blank, without its end.

        Args:
            take: raises :class:`BadLine`, before it has written anything of the line.
            skip: lines at the beginning that are passed over (a header).

        Raises:
            UserError: a bad line (unless they are kept out), a missing or damaged file.
        """
        for number, line in raw_lines(path):
            if number <= skip or not line.strip():
                continue
            try:
                take(_text(line, encoding))
            except BadLine as fault:
                self.reject(path, number, fault)

    def reject(self, path, number, why) -> None:
        """Take note of a bad line; UserError where they are refused."""
        fault = f"{Path(path).name}, line {number}: {why}"
        if not self.keep:
            raise UserError(
                f"{fault}; nothing was written. Repair the line, or leave out all such lines with --on-error=keep."
            )
        self.n_left_out += 1
        if self.n_left_out <= SHOWN:
            self.left_out.append(fault)


def raw_lines(path):
    """``(number, bytes)`` of every line of a plain or gz file, the number from 1; progress is shown.

    Raises:
        UserError: the file is missing, may not be read, or is a damaged gz file.
    """
    path, number = Path(path), 0
    with opened(path) as raw, progress(path) as bar:
        lines = gzip.GzipFile(fileobj=raw) if is_gzip(path) else raw
        try:
            for number, line in enumerate(lines, 1):
                if number % 1000 == 0:
                    bar.update(raw.tell() - bar.n)
                yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise UserError(
                f"{path} is damaged or truncated after line {number}; fetch it again. Nothing was written."
            ) from None
        bar.update(raw.tell() - bar.n)


def first_line(path, encoding="utf-8") -> str:
    """The first line that is not blank, its end cut off; UserError when there is none."""
    for _, line in raw_lines(path):
        if line.strip():
            return line.decode(encoding, "replace").removeprefix("\ufeff").rstrip("\r\n")
    raise UserError(f"{path} is empty.")


def is_gzip(path) -> bool:
    with opened(Path(path)) as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def opened(path):
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name the file in it.") from None
    except PermissionError:
        raise UserError(f"{path} may not be read by you; change its permissions.") from None
    with file:
        yield file


def progress(path):
    return lines.progress(total=os.path.getsize(path), desc=path.name, unit="B", unit_scale=True, leave=False)


def _text(line, encoding):
    try:
        return line.decode(encoding).removeprefix("\ufeff").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadLine(f"is no {encoding.upper()} text at byte {error.start + 1}") from None


def number(text, what) -> float:
    """A finite number; BadLine names ``what`` it should have been."""
    try:
        value = float("" if "_" in str(text) else text)  # Python reads 1_000
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if isinstance(text, bool) or not abs(value) < float("inf"):
        raise BadLine(f"the {what} is no number but {str(text)[:40]!r}")
    return value
