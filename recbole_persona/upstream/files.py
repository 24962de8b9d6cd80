"""Safe files: written atomically, read without pickle.

``save_tree`` writes a tree (see :mod:`recbole_persona.upstream.tree`) as one safetensors file: the tensors as they are,
the shape of the tree as JSON in the header. Tensors under ``state_dict`` keep their own names, so that anybody's
``safetensors.torch.load_file`` shows a model's weights as the model names them.
"""

import errno
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recbole_persona.errors import StorageError, UserError
from recbole_persona.upstream.tree import decode, encode

FORMAT = "recbole_persona.tree/1"
_HEADER_LIMIT = 100_000_000  # bytes; safetensors refuses to read a longer header
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextmanager
def atomic_path(path):
    """Give the name of a temporary file near ``path``; when the block ends well, it becomes ``path``.

    The file and its directory are flushed to disk, so that after a crash ``path`` is either the old file or the new
    one, whole. When the block raises, the temporary file is removed and ``path`` is left alone.

    Raises:
        UserError: ``path`` is there and is no regular file (a device, a pipe, a folder): it would be replaced by one.
        StorageError: the disk is full, or may not be written to.
    """
    path = Path(path)
    check_regular(path)
    # A folder, not a file: some writers make a temporary file of their own beside the name that they are given.
    folder = folder_beside(path)
    try:
        temporary = folder / path.name
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask wants it
        yield str(temporary)
        temporary.chmod(mode)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise StorageError(_not_written(path, error)) from None
        raise
    finally:
        with suppress(OSError):  # no shutil.rmtree: Ctrl-C in it may come out as an error of a closed file
            for file in list(folder.iterdir()):
                file.unlink()
            folder.rmdir()


def folder_beside(path) -> Path:
    """Make an empty folder near ``path`` for what will become it; StorageError where nothing can be written (``/proc``)."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    except OSError as error:
        raise StorageError(_not_written(path, error)) from None


def check_regular(path) -> None:
    """Raise UserError where ``path`` exists and is no regular file, nor a link to one."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file and is not written over; name another file.")


def _flush(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _not_written(path, error) -> str:
    kept = "the file that stood there is whole" if os.path.lexists(path) else "nothing was left there"
    full = getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room, or name another folder," if full else "name another folder"
    reason = getattr(error, "strerror", None) or error
    return f"{path} could not be written ({reason}); {kept}: {remedy} and start again."


def remove_leftovers(path) -> None:
    """Remove what killed processes left half-written of ``path``; only where no other process writes it."""
    path = Path(path)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def write_text(path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def save_tree(tree, path) -> None:
    """Write a tree to ``path``, atomically.

    Raises:
        TypeError: the tree holds an object that has no safe form; the text names where.
        StorageError: the disk is full, or may not be written to.
    """
    tensors = {}
    structure = encode(tree, tensors)
    metadata = {"format": FORMAT, "tree": json.dumps(structure)}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise StorageError(_not_written(Path(path), error)) from None
        with open(temporary, "rb") as file:
            if int.from_bytes(file.read(8), "little") > _HEADER_LIMIT:
                raise TypeError(f"{path} would hold {len(tensors)} tensors, too many for one safetensors file")


def load_tree(path, device="cpu"):
    """Read a tree that :func:`save_tree` wrote; its tensors go to ``device``.

    Raises:
        UserError: the file is missing, truncated, a pickle, or of another format.
    """
    path = Path(path)
    check_readable(path)
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path} is a safetensors file of another format; it was not written by recbole_persona."
                )
            # Copies: what is read is a window into the file, at addresses that fast arithmetic may round differently for.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        if is_pickle(path):
            raise UserError(
                f"{path} is a pickled checkpoint of RecBole, which could run code when read; "
                f"convert it with `recbole-persona convert checkpoint {path} OUT.safetensors`."
            ) from None
        raise UserError(f"{path} cannot be read ({error}); it is truncated or was written by something else.") from None
    try:
        return decode(json.loads(metadata["tree"]), tensors)
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError):
        raise UserError(f"{path} cannot be read (its header does not fit its tensors); it was damaged.") from None


def check_readable(path) -> None:
    """Raise UserError for a file that is not there, or that may not be read; safetensors tells both as a missing one."""
    try:
        with open(path, "rb"):
            return
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied.") from None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UserError(f"There is no file {path}.") from None


def is_pickle(path) -> bool:
    """Whether the file begins like a pickle or like the zip archive that ``torch.save`` writes."""
    try:
        with open(path, "rb") as file:
            head = file.read(2)
    except OSError:
        return False
    return head in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
