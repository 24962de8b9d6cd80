"""Trees: what a checkpoint is made of, as JSON and named tensors.

A tree holds dicts, lists, tuples, sets, strings, numbers, tensors, numpy arrays, scipy sparse matrices, modules (as
their ``state_dict``), devices, dtypes, RecBole's enums and its ``Config``. Nothing else has a safe form.
"""

from enum import Enum

import numpy as np
import scipy.sparse
import torch

from recbole_persona.errors import UserError

_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_CONTAINERS = {"dict": dict, **_SEQUENCES}
_NUMBERS = (bool, int, float, complex, np.number, np.bool_, torch.Tensor)
_REALS = {
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz,
}  # fmt: skip


class ModuleState(dict):
    """The ``state_dict`` of a module that stood in a tree; whoever loads the tree gives it to the living module."""


def encode(tree, tensors: dict):
    """The tree as JSON values; its tensors are put into ``tensors``, named by their place in the tree.

    Raises:
        TypeError: the tree holds an object that has no safe form; the text names where.
    """
    return _Encoder(tensors).encode(tree, "")


class _Encoder:
    def __init__(self, tensors):
        self.tensors = tensors
        self.memories = set()  # of the tensors stored so far
        self.stored = {}  # (memory, layout): (name, tensor); the tensor is kept so that its address is not given away

    def encode(self, value, where):
        if value is None or type(value) in (bool, int, float) or isinstance(value, str):
            return value
        if isinstance(value, np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            return value.item()
        if isinstance(value, torch.Tensor):
            return self.tensor(value, where)
        if isinstance(value, np.ndarray):
            return self.array(value, where)
        if scipy.sparse.issparse(value):
            return self.sparse(value, where)
        if isinstance(value, (torch.nn.Module, ModuleState)):
            weights = value if isinstance(value, ModuleState) else value.state_dict()
            return {"module": self.encode(dict(weights), where)}
        if isinstance(value, dict):
            return {"dict": [[self.encode(k, where), self.encode(v, f"{where}.{k}")] for k, v in value.items()]}
        for name, kind in _SEQUENCES.items():
            if isinstance(value, kind):
                return {name: [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
        if isinstance(value, (torch.device, torch.dtype)):
            return {"torch": str(value)}
        if isinstance(value, Enum) and type(value) is _enums().get(type(value).__name__):
            return {"enum": [type(value).__name__, value.name]}
        if isinstance(value, _config_class()):
            return {"config": self.encode(value.final_config_dict, f"{where}.config")}
        raise TypeError(
            f"{where.lstrip('.') or 'the tree'} is a {type(value).__name__}, which has no safe form on disk"
        )

    def tensor(self, value, where):
        if value.layout == torch.sparse_coo:
            value = value.detach()
            # As they stand: sorting the entries would change the order in which a product adds them up.
            parts = [self.store(value._indices(), where), self.store(value._values(), where)]
            return {"coo": parts, "shape": list(value.shape), "coalesced": value.is_coalesced()}
        if value.layout == torch.sparse_csr:
            parts = [self.store(part, where) for part in (value.crow_indices(), value.col_indices(), value.values())]
            return {"csr": parts, "shape": list(value.shape)}
        if value.is_complex():
            return {"complex": self.store(torch.view_as_real(value.detach().resolve_conj().resolve_neg()), where)}
        if isinstance(value, torch.nn.Parameter):
            return {"parameter": self.store(value, where), "trained": value.requires_grad}
        return {"tensor": self.store(value, where)}

    def array(self, value, where):
        if value.dtype.kind in "OU":
            flat = [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value.ravel().tolist())]
            return {"objects": flat, "shape": list(value.shape), "dtype": value.dtype.str}
        if value.dtype.kind not in "biufc" or value.dtype.itemsize > (16 if value.dtype.kind == "c" else 8):
            raise TypeError(
                f"{where.lstrip('.') or 'the tree'} is an array of {value.dtype}, which has no safe form on disk"
            )
        native = value.astype(value.dtype.newbyteorder("="), copy=False)
        # not ascontiguousarray, which makes a vector of a scalar
        return {"array": self.tensor(torch.from_numpy(np.require(native, requirements=["C", "W"])), where)}

    def sparse(self, value, where):
        described = {"scipy": type(value).__name__, "shape": list(value.shape)}
        if value.format in ("csr", "csc"):
            parts = (value.data, value.indices, value.indptr)
        else:
            coo = value.tocoo()
            parts = (coo.data, coo.row, coo.col)
        return described | {"parts": [self.array(np.asarray(part), where) for part in parts]}

    def store(self, tensor, where) -> str:
        """Enter the tensor under its place in the tree (``optimizer.state.0.exp_avg``); returns that name.

        A tensor that is another one's memory, as tied weights are, is stored once, under the first name.
        """
        tensor = tensor.detach().resolve_conj().resolve_neg()
        same = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if same in self.stored:
            return self.stored[same][0]
        base = where.lstrip(".").removeprefix("state_dict.") or "tree"
        name, number = base, 1
        while name in self.tensors:
            number += 1
            name = f"{base}#{number}"
        if tensor.dtype not in _REALS:
            raise TypeError(f"{base} is a tensor of {tensor.dtype}, which has no safe form on disk")
        self.stored[same] = name, tensor
        tensor = tensor.cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in self.memories:  # safetensors refuses two names for one memory
            tensor = tensor.clone()
        self.memories.add(tensor.untyped_storage().data_ptr())
        self.tensors[name] = tensor
        return name


def decode(node, tensors: dict):
    """The tree that :func:`encode` described.

    Raises:
        UserError: the description names a kind that this version does not know.
        KeyError, IndexError, TypeError, ValueError, AttributeError: it is damaged.
    """
    if isinstance(node, list):
        raise TypeError("a bare list")
    if not isinstance(node, dict):
        return node
    kind, value = next(iter(node.items()))
    if kind not in _DECODERS:
        raise UserError(f"The file holds a {kind!r}, which this version of recbole_persona does not know.")
    return _DECODERS[kind](value, node, tensors)


def _coo(names, node, tensors):
    indices, values = (tensors[name] for name in names)
    return torch.sparse_coo_tensor(
        indices, values, node["shape"], is_coalesced=node["coalesced"], check_invariants=True
    )


def _csr(names, node, tensors):
    return torch.sparse_csr_tensor(*(tensors[name] for name in names), size=node["shape"], check_invariants=True)


def _objects(flat, node, tensors):
    array = np.empty(len(flat), dtype=object)
    for i, item in enumerate(flat):
        array[i] = decode(item, tensors)
    return array.astype(np.dtype(node["dtype"])).reshape(node["shape"])


def _sparse(name, node, tensors):
    kind, shape = name.split("_")[0], tuple(node["shape"])
    parts = [decode(part, tensors) for part in node["parts"]]
    if kind in ("csr", "csc"):
        matrix = getattr(scipy.sparse, f"{kind}_{name.split('_')[1]}")(tuple(parts), shape=shape)
        matrix.check_format()
        return matrix
    data, row, col = parts
    coo_class = scipy.sparse.coo_matrix if name.endswith("_matrix") else scipy.sparse.coo_array
    return coo_class((data, (row, col)), shape=shape).asformat(kind)


def _torch(text, node, tensors):
    if not text.startswith("torch."):
        return torch.device(text)
    found = getattr(torch, text.removeprefix("torch."))
    if not isinstance(found, torch.dtype):
        raise TypeError(text)
    return found


_DECODERS = {
    "tensor": lambda name, node, tensors: tensors[name],
    "parameter": lambda name, node, tensors: torch.nn.Parameter(tensors[name], requires_grad=node["trained"]),
    "complex": lambda name, node, tensors: torch.view_as_complex(tensors[name]),
    "coo": _coo,
    "csr": _csr,
    "array": lambda inner, node, tensors: decode(inner, tensors).cpu().numpy(),
    "objects": _objects,
    "scipy": _sparse,
    "module": lambda inner, node, tensors: ModuleState(decode(inner, tensors)),
    "dict": lambda pairs, node, tensors: {decode(key, tensors): decode(item, tensors) for key, item in pairs},
    "torch": _torch,
    "enum": lambda names, node, tensors: _enums()[names[0]][names[1]],
    "config": lambda inner, node, tensors: config_of(decode(inner, tensors)),
}
for _name, _kind in _SEQUENCES.items():
    _DECODERS[_name] = lambda items, node, tensors, kind=_kind: kind(decode(item, tensors) for item in items)


def _enums() -> dict:
    """RecBole's enums by name."""
    from recbole.utils import enum_type

    return {n: e for n, e in vars(enum_type).items() if isinstance(e, type) and issubclass(e, Enum) and e is not Enum}


def _config_class():
    from recbole.config import Config

    return Config


def same_kind(declared, value) -> bool:
    """Whether a value that was read may take the place of one that was built: data of the same kind.

    Numbers, tensors, arrays and sparse matrices are one kind: counters become tensors of counts. Whatever was data may have
    become None, and None (a cache that is still empty) numbers or containers of numbers. An object of any other class - a
    function, a module, a ``Config`` - is never exchanged.
    """
    if declared is None:
        return value is None or is_numeric(value)
    kind = _kind(declared)
    return kind is not None and (value is None or (_kind(value) == kind and _all(value, lambda part: _kind(part))))


def is_numeric(value) -> bool:
    """Whether a value is numbers, tensors, arrays and sparse matrices, or containers of these; the keys of dicts may be text."""
    return _kind(value) is not None and _all(value, lambda part: _kind(part) in ("numbers", *_CONTAINERS))


def _kind(value) -> str | None:
    """What data a value is; None of an object that is no data."""
    if isinstance(value, (torch.nn.Parameter, torch.nn.Module, ModuleState)):
        return None  # torch would register it
    if isinstance(value, _NUMBERS) or scipy.sparse.issparse(value):
        return "numbers"
    if isinstance(value, np.ndarray):
        return "numbers" if value.dtype.kind in "biufc" else "array of objects"
    for kind, container in _CONTAINERS.items():
        if isinstance(value, container):
            return kind
    plain = (str, torch.dtype, torch.device, Enum)
    return next((kind.__name__ for kind in plain if isinstance(value, kind)), None)


def _all(value, condition) -> bool:
    """Whether a value is None or meets a condition, and all that it holds, too."""
    parts = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, tuple(_SEQUENCES.values())):
        parts = value
    elif _kind(value) == "array of objects":
        parts = value.ravel().tolist()
    return value is None or (bool(condition(value)) and all(_all(part, condition) for part in parts))


def config_of(values: dict):
    """A RecBole ``Config`` with the given final values; nothing is looked up, imported, computed or checked again."""
    config_class = _config_class()
    config = config_class.__new__(config_class)
    config._init_parameters_category()
    config.final_config_dict = values
    config.model, config.dataset = values["model"], values["dataset"]
    return config
