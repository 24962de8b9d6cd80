"""Writing RecBole's atomic files: ``.inter``, ``.user`` and ``.item``, that load as they were meant.

All files of a data set, and a manifest of what they were made from, are written into a temporary folder beside it and
appear when the last one is whole.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pandas._libs.parsers import STR_NA_VALUES  # pandas has no public name for the words that it reads as empty cells

from recbole_persona.data.convert.lines import BadLine
from recbole_persona.data.texts import escaped
from recbole_persona.errors import UserError
from recbole_persona.upstream.files import remove_leftovers

MANIFEST = "convert.json"
SUFFIXES = ("inter", "user", "item", "train.inter", "valid.inter", "test.inter")
RESERVED = frozenset(STR_NA_VALUES) - {""} | {"[PAD]"}  # the last is RecBole's name for an empty cell
LONGEST = 131_072  # characters in a cell that Python's csv module reads, and so RecBole
_SEPARATORS = re.compile("[\t\n\r\0]")
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of characters, which JSON can spell and UTF-8 cannot
_NOT_WRITTEN = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def text_cell(text) -> str:
    """A text as RecBole reads it back unchanged.

    Tabs and ends of lines become spaces, halves of surrogate pairs U+FFFD. A text that begins with a quote is quoted as
    in CSV. A word that is taken for an empty cell ("NA", "null", "None") gets a space at its end: nothing else
    keeps it. None is an empty cell.

    Raises:
        BadLine: longer than RecBole can read.
    """
    if text is None:
        return ""
    text = _separated(str(text))
    if len(text) > LONGEST:
        raise BadLine(f"a text has {len(text):,} characters, and RecBole reads up to {LONGEST:,}")
    if text in RESERVED:
        return text + " "
    return '"' + text.replace('"', '""') + '"' if text.startswith('"') else text


def _separated(text):
    if text.isprintable():  # most are, and the expressions are slow
        return text
    return _SURROGATES.sub("\ufffd", _SEPARATORS.sub(" ", text))


def token_id(value, what) -> str:
    """An id of a user or an item; BadLine when it is empty, or would be read as an empty cell."""
    token = "" if value is None else _separated(str(value))
    if not token.strip():
        raise BadLine(f"the {what} is empty")
    if token in RESERVED:
        raise BadLine(f"the {what} is {token!r}, which RecBole reads as an empty cell")
    if len(token) > LONGEST:
        raise BadLine(f"the {what} has {len(token):,} characters")
    return token


def sequence_cell(names) -> str:
    """Names as a ``token_seq``: separated by a space, spaces inside a name become ``_``, each name once."""
    joined = dict.fromkeys("_".join(str(name).split()) for name in names)
    return text_cell(" ".join(filter(None, joined)))


def number_cell(value) -> str:
    """A number in its shortest form; None is an empty cell."""
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else repr(float(value))


def whole_cell(text) -> str:
    """A text for a column of type ``text``, which keeps all but halves of surrogate pairs; None is an empty cell."""
    return "" if text is None else escaped(_SURROGATES.sub("\ufffd", str(text)))


_CELLS = {"token": text_cell, "token_seq": sequence_cell, "float": number_cell, "text": whole_cell}


class Table:
    """One atomic file that is being written.

    Args:
        columns: types by column name, in the order of the cells.
    """

    def __init__(self, path: Path, columns: dict[str, str]):
        self.columns = columns
        self._file = open(path, "w", encoding="utf-8", newline="\n")
        self._file.write("\t".join(f"{name}:{kind}" for name, kind in columns.items()) + "\n")
        self._cells = [_CELLS[kind] for kind in columns.values()]

    def write(self, row) -> None:
        """One row, a value per column; BadLine when one of them cannot be written."""
        self._file.write("\t".join([cell(value) for cell, value in zip(self._cells, row)]) + "\n")

    def write_columns(self, *columns: list[str]) -> None:
        """Rows whose cells are written as they are."""
        if columns[0]:
            self._file.write("\n".join(map("\t".join, zip(*columns))) + "\n")

    def close(self):
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class Tables:
    """The atomic files of one data set, and the users and items that occur in its interactions."""

    def __init__(self, folder: Path, name: str):
        self.folder, self._name = folder, name
        self.files: dict[str, Table] = {}
        self.users: Counter[str] = Counter()  # interactions by id, in the order of their first
        self.items: Counter[str] = Counter()
        self.interactions = 0
        self.repeated: Counter[str] = Counter()  # rows of .user and .item whose id had one, by suffix
        self.without_row: Counter[str] = Counter()  # users and items of .inter that got an empty one, by suffix

    def open(self, suffix: str, columns: dict[str, str]) -> Table:
        self.files[suffix] = Table(self.folder / f"{self._name}.{suffix}", columns)
        return self.files[suffix]

    def interact(self, user: str, item: str, *values, part: str = "inter") -> None:
        """One row of ``.inter``, or of the file of a part (``train.inter``)."""
        self.files[part].write((user, item, *values))
        self.users[user] += 1
        self.items[item] += 1
        self.interactions += 1

    def interact_columns(self, users: list[str], items: list[str], *cells: list[str], part: str = "inter") -> None:
        """Rows of ``.inter`` or of the file of a part; ids as :func:`token_id` gives them, other cells as they are written."""
        self.users.update(users)
        self.items.update(items)
        self.interactions += len(users)
        self.files[part].write_columns(_quoted(users), _quoted(items), *cells)

    @contextmanager
    def describing(self, suffix: str, columns: dict[str, str]):
        """Give a function that writes one row of ``.user`` or ``.item``: the id and the columns; each id once.

        RecBole drops interactions whose user or item has no row, so at the end those get an empty one.
        """
        table = self.open(suffix, {f"{suffix}_id": "token", **columns})
        missing = dict.fromkeys(self.users if suffix == "user" else self.items)
        written = set()

        def write(row):
            if row[0] in written:
                self.repeated[suffix] += 1
                return
            table.write(row)
            written.add(row[0])
            missing.pop(row[0], None)

        yield write
        self.without_row[suffix] = len(missing)
        for identifier in missing:
            table.write((identifier, *((() if kind == "token_seq" else None) for kind in columns.values())))


def _quoted(ids):
    return list(map(text_cell, ids)) if '"' in "".join(ids) else ids


@contextmanager
def replaced_together(folder: Path, name: str, manifest: dict):
    """Give :class:`Tables` to fill; when the block ends well they, and the manifest, become the files of ``folder``.

    A new folder appears at once. In an old one each file is replaced whole, the manifest last; files of the last
    conversion that are not written again go, other files stay.

    Raises:
        UserError: the disk is full, another process converts into this folder, or it holds a data set made by others.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder; choose another --name or --out.")
    made = not folder.parent.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
        with lock:
            remove_leftovers(folder)
            old = read_manifest(folder, name)
            written = (old or {"outputs": ()})["outputs"]
            foreign = any((folder / f"{name}.{suffix}").exists() for suffix in SUFFIXES) if old is None else False
            if foreign or (f"{name}.yaml" not in written and (folder / f"{name}.yaml").exists()):
                raise UserError(f"{folder} holds files that convert did not write; choose another --name or --out.")
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
            try:
                tables = Tables(temporary, name)
                yield tables
                _finish(tables, temporary, folder, name, manifest, old or {})
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except Timeout:
        made = False  # folder and lock are the other process's
        raise UserError(f"Another process is converting into {folder}; wait for it.") from None
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder.parent} is a file, not a folder; choose another --out.") from None
    except OSError as error:
        if error.errno in _NOT_WRITTEN:
            raise UserError(
                f"{folder} could not be written ({error.strerror}); what stood there is whole. Make room, or name "
                "another folder with --out, and start again."
            ) from None
        raise
    finally:
        if made and not folder.exists():  # refused: the folder of data sets goes, unless another process uses it by now
            with suppress(OSError):
                (folder.parent / f".{folder.name}.lock").unlink(missing_ok=True)
                folder.parent.rmdir()


def _finish(tables, temporary, folder, name, manifest, old):
    for table in tables.files.values():
        table.close()
    files = sorted(path.name for path in temporary.iterdir())
    manifest["outputs"] = {file: fingerprint(temporary / file) for file in files}
    with open(temporary / f"{name}.{MANIFEST}", "w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    if not folder.exists():
        temporary.chmod(0o777 & ~_umask())  # a temporary folder is closed to others
        os.rename(temporary, folder)
    else:
        for file in files:
            os.replace(temporary / file, folder / file)
        for file in set(old.get("outputs", ())) - set(files):
            (folder / file).unlink(missing_ok=True)
        os.replace(temporary / f"{name}.{MANIFEST}", folder / f"{name}.{MANIFEST}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_manifest(folder: Path, name: str) -> dict | None:
    """What the last conversion wrote of itself; None when there is none that can be read."""
    try:
        manifest = json.loads((folder / f"{name}.{MANIFEST}").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("outputs"), dict) else None


def is_whole(folder: Path, manifest: dict) -> bool:
    """Whether every file that the manifest names is there, byte by byte."""
    outputs = manifest["outputs"]
    return all((folder / file).is_file() and fingerprint(folder / file) == outputs[file] for file in outputs)


def fingerprint(path: Path) -> dict:
    """Size in bytes and SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": os.path.getsize(path), "sha256": digest.hexdigest()}
