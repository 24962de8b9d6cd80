"""Safe files: written atomically, read without pickle.

A *tree* is what a checkpoint is made of: dicts, lists, tuples, sets, strings, numbers, tensors, numpy arrays, scipy
sparse matrices, devices, dtypes and RecBole's enums. ``save_tree`` writes it as one safetensors file: the tensors as
they are, the shape of the tree as JSON in the header.
"""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recbole_persona.errors import UserError

FORMAT = "recbole_persona.tree/1"


@contextmanager
def atomic_path(path):
    """Give the name of a temporary file beside ``path``; when the block ends well, it becomes ``path``.

    The file and its directory are flushed to disk, so that after a crash ``path`` is either the old file or the new
    one, whole. When the block raises, the temporary file is removed and ``path`` is left alone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_text(path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def save_tree(tree, path) -> None:
    """Write a tree (see the module's text) to ``path``, atomically.

    Raises:
        TypeError: the tree holds an object that has no safe form; the text names where.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = _encode(tree, tensors, "")
    metadata = {"format": FORMAT, "tree": json.dumps(structure)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_tree(path, device="cpu"):
    """Read a tree that :func:`save_tree` wrote; its tensors go to ``device``.

    Raises:
        UserError: the file is missing, truncated, a pickle, or of another format.
    """
    path = Path(path)
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path} is a safetensors file of another format; it was not written by recbole_persona.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except (SafetensorError, OSError) as error:
        if is_pickle(path):
            raise UserError(
                f"{path} is a pickled checkpoint of RecBole, which could run code when read; "
                f"convert it with `recbole-persona convert checkpoint {path} OUT.safetensors`."
            ) from None
        raise UserError(f"{path} cannot be read ({error}); it is truncated or was written by something else.") from None
    return _decode(json.loads(metadata["tree"]), tensors)


def is_pickle(path) -> bool:
    """Whether the file begins like a pickle or like the zip archive that ``torch.save`` writes."""
    with open(path, "rb") as file:
        head = file.read(2)
    return head in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _store(tensor, tensors, where) -> str:
    """Put a copy of ``tensor`` into ``tensors`` under its place in the tree (``optimizer.state.0.exp_avg``)."""
    name, number = where.lstrip(".") or "tree", 1
    while name in tensors:
        number += 1
        name = f"{where.lstrip('.') or 'tree'}#{number}"
    # A copy of its own for every tensor: safetensors refuses two names for one memory.
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


def _encode(value, tensors, where):
    """JSON form of ``value``; tensors are put into ``tensors`` and named in the JSON."""
    from recbole.config import Config
    from recbole.utils import enum_type

    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if isinstance(value, np.generic):
        return _encode(value.item(), tensors, where)
    if isinstance(value, torch.Tensor):
        if value.layout == torch.sparse_coo:
            value = value.coalesce()
            parts = [_store(value.indices(), tensors, where), _store(value.values(), tensors, where)]
            return {"coo": parts, "shape": list(value.shape)}
        if value.layout == torch.sparse_csr:
            parts = [_store(part, tensors, where) for part in (value.crow_indices(), value.col_indices(), value.values())]
            return {"csr": parts, "shape": list(value.shape)}
        return {"parameter" if isinstance(value, torch.nn.Parameter) else "tensor": _store(value, tensors, where)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OSU":
            return {"objects": _encode(value.tolist(), tensors, where)}
        # ascontiguousarray would make a vector of a scalar
        return {"array": _store(torch.from_numpy(np.require(value, requirements=["C", "W"])), tensors, where)}
    if hasattr(value, "tocoo") and hasattr(value, "getformat"):  # a scipy sparse matrix or array
        coo = value.tocoo()
        parts = [_encode(part, tensors, where) for part in (coo.row, coo.col, coo.data)]
        return {"scipy": type(value).__name__, "parts": parts, "shape": list(value.shape)}
    if isinstance(value, torch.nn.Module):
        return {"module": _encode(dict(value.state_dict()), tensors, where)}
    if isinstance(value, Config):
        return {"config": _encode(value.final_config_dict, tensors, f"{where}.config")}
    if isinstance(value, dict):
        pairs = [
            [_encode(key, tensors, where), _encode(item, tensors, f"{where}.{key}")] for key, item in value.items()
        ]
        return {"dict": pairs}
    for kind in (list, tuple, set):
        if isinstance(value, kind):
            return {kind.__name__: [_encode(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, enum_type.Enum):
        return {"enum": [type(value).__name__, value.name]}
    if isinstance(value, (torch.device, torch.dtype)):
        return {"torch": str(value)}
    raise TypeError(f"{where.lstrip('.') or 'the tree'} is a {type(value).__name__}, which has no safe form on disk")


def _decode(node, tensors):
    if not isinstance(node, dict):
        return node
    (kind, value), *rest = node.items()
    shape = dict(rest).get("shape")
    if kind == "tensor":
        return tensors[value]
    if kind == "parameter":
        return torch.nn.Parameter(tensors[value])
    if kind == "coo":
        return torch.sparse_coo_tensor(tensors[value[0]], tensors[value[1]], shape, is_coalesced=True)
    if kind == "csr":
        return torch.sparse_csr_tensor(*(tensors[part] for part in value), size=shape)
    if kind == "array":
        return tensors[value].cpu().numpy()
    if kind == "objects":
        return np.array(_decode(value, tensors), dtype=object)
    if kind == "scipy":
        import scipy.sparse

        row, col, data = (_decode(part, tensors) for part in node["parts"])
        coo_class = scipy.sparse.coo_matrix if value.endswith("_matrix") else scipy.sparse.coo_array
        return coo_class((data, (row, col)), shape=tuple(shape)).asformat(value.split("_")[0])
    if kind == "module":
        return ModuleState(_decode(value, tensors))
    if kind == "config":
        return _config(_decode(value, tensors))
    if kind == "dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in value}
    if kind in ("list", "tuple", "set"):
        return {"list": list, "tuple": tuple, "set": set}[kind](_decode(item, tensors) for item in value)
    if kind == "enum":
        from recbole.utils import enum_type

        return getattr(enum_type, value[0])[value[1]]
    if kind == "torch":
        return getattr(torch, value.removeprefix("torch.")) if value.startswith("torch.") else torch.device(value)
    raise UserError(f"The file holds a {kind!r}, which this version of recbole_persona does not know.")


class ModuleState(dict):
    """The ``state_dict`` of a module that stood in a tree; whoever loads the tree gives it to the living module."""


def _config(values):
    """A RecBole ``Config`` with the given final values; nothing is looked up, computed or checked again."""
    from recbole.config import Config
    from recbole.utils import get_model

    config = Config.__new__(Config)
    config._init_parameters_category()
    config.final_config_dict = values
    config.model, config.dataset = values["model"], values["dataset"]
    config.model_class = get_model(config.model)
    return config
