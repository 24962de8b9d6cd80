"""Checkpoints that bare RecBole pickled, read without running what they hold.

``torch.load(weights_only=True)`` cannot read them: RecBole writes pickle protocol 4, of which torch's restricted reader
knows too little. Here nothing that a file names is imported or called while it is read: every name becomes an inert
record of its arguments. Afterwards the records of tensors, arrays, RecBole's enums, its ``Config`` and the like are
turned into values; any other is refused by its name.
"""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import scipy.sparse
import torch

from recbole_persona.errors import UserError
from recbole_persona.upstream.files import save_tree
from recbole_persona.upstream.tree import ModuleState, config_of

# Whatever else a file calls, it is refused at once. Modules hold their loggers, which are passed over.
_FAMILIES = set("torch numpy scipy recbole collections _codecs builtins __builtin__ copyreg logging".split())
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip

_DAMAGE = (
    pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError,
    StopIteration, MemoryError, OverflowError, RecursionError, NotImplementedError,
)  # fmt: skip


class _Record:
    """What a file asked for: a name, the arguments of its call, and the state and items that were given to it."""

    name = ""

    def __new__(cls, *args):
        if cls.name.partition(".")[0] not in _FAMILIES:
            raise _Refused(cls.name)
        record = super().__new__(cls)
        record.args, record.state, record.items = args, None, []
        return record

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.items.append((key, value))


class _Refused(Exception):
    """The file names something that is no plain value."""


class _Reader(pickle.Unpickler):
    def find_class(self, module, name):
        return type(name, (_Record,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid):
        return _Storage(*pid[1:3])


class _Storage:
    def __init__(self, kind, key):
        self.kind, self.key = kind, key


def convert_checkpoint(source, target) -> None:
    """Write a RecBole ``.pth`` checkpoint as a safe file that RecBole's readers and ours accept.

    Args:
        source: a file that RecBole's trainer wrote (its ``saved/Model-date.pth``).
        target: the safetensors file to write.

    Raises:
        UserError: the file is missing or truncated, is no checkpoint of RecBole, or names something that is not a
            tensor, an array, a sparse matrix, a module's weights, a plain value, an enum or the ``Config`` of RecBole.
    """
    source = Path(source)
    try:
        with zipfile.ZipFile(source) as archive:
            checkpoint = _Values(archive).read()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"There is no file {source}.") from None
    except zipfile.BadZipFile:
        raise UserError(
            f"{source} cannot be read: it is truncated, or was not written by the torch.save of torch 1.6 or newer."
        ) from None
    except _Refused as refused:
        raise UserError(f"{source} was not converted: it holds {refused}, which is no plain value.") from None
    except _DAMAGE as error:
        raise UserError(f"{source} was not converted: it is damaged or no checkpoint ({error}).") from None
    if not isinstance(checkpoint, dict) or not {"config", "state_dict"} <= checkpoint.keys():
        raise UserError(f"{source} was not converted: it is no checkpoint of RecBole (config and state_dict).")
    if isinstance(checkpoint["state_dict"], str):
        raise UserError(f"{source} was not converted: its trees are in another file ({checkpoint['state_dict']}).")
    save_tree({"state_dict": checkpoint.pop("state_dict"), **checkpoint}, target)


class _Values:
    """Turns the records of one archive into values."""

    def __init__(self, archive):
        self.archive = archive
        self.folder = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
        self.storages = {}

    def read(self):
        with self.archive.open(f"{self.folder}data.pkl") as file:
            return self.value(_Reader(file).load())

    def value(self, node):
        if isinstance(node, dict):
            return {self.value(key): self.value(item) for key, item in node.items()}
        if isinstance(node, (list, tuple, set, frozenset)):
            return type(node)(self.value(item) for item in node)
        if isinstance(node, type) and issubclass(node, _Record):
            return self.named(node.name)
        return self.record(node) if isinstance(node, _Record) else node

    def named(self, name):
        """A name that stands for itself: a dtype."""
        found = getattr(torch, name.removeprefix("torch."), None) if name.startswith("torch.") else None
        if isinstance(found, torch.dtype):
            return found
        raise _Refused(name)

    def record(self, node):
        module, _, name = node.name.rpartition(".")
        if module == "torch._utils" and name in _TORCH:
            return _TORCH[name](self, *node.args)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in _NUMPY:
            return _NUMPY[name](self, node)
        if node.name == "numpy.dtype":
            return self.dtype(node)
        if module.startswith("scipy.sparse") and isinstance(node.state, dict):
            return self.sparse(name, node)
        if module == "recbole.utils.enum_type":
            return self.enum(name, node)
        if node.name == "recbole.config.configurator.Config":
            return config_of(self.value(node.state["final_config_dict"]))
        if node.name in _PLAIN:
            return _PLAIN[node.name](self, node)
        if isinstance(node.state, dict) and {"_parameters", "_buffers", "_modules"} <= node.state.keys():
            return ModuleState(self.weights(node, ""))
        raise _Refused(node.name)

    def tensor(self, storage, offset, size, stride, *_):
        """A strided view of a storage; torch checks that it lies inside."""
        kind = storage.kind.name
        if (storage.key, kind) not in self.storages:
            dtype = _STORAGES.get(kind.removeprefix("torch."))
            if dtype is None:
                raise _Refused(kind)
            content = bytearray(self.archive.read(f"{self.folder}data/{storage.key}"))
            flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            self.storages[storage.key, kind] = flat
        return torch.as_strided(self.storages[storage.key, kind], size, stride, offset)

    def dtype(self, node):
        """``numpy.dtype("f8")``, whose state begins with a version and the byte order."""
        order = node.state[1] if node.state and node.state[1] in ("<", ">") else "="
        dtype = np.dtype(node.args[0]).newbyteorder(order)
        if dtype.kind not in "biufcUO":
            raise _Refused(f"numpy.dtype {dtype}")
        return dtype

    def array(self, node):
        _, shape, dtype, fortran, content = node.state
        dtype, order = self.dtype(dtype), "F" if fortran else "C"
        if dtype.hasobject:
            flat = np.empty(len(content), dtype=object)
            flat[:] = [self.value(item) for item in content]
            return flat.reshape(shape, order=order)
        return np.frombuffer(self.value(content), dtype=dtype).reshape(shape, order=order).copy()

    def scalar(self, node):
        dtype = self.dtype(node.args[0])
        if dtype.hasobject:
            raise _Refused(f"numpy.dtype {dtype}")
        return np.frombuffer(self.value(node.args[1]), dtype=dtype)[0]

    def sparse(self, name, node):
        form = name.split("_")[0]
        if name not in (f"{form}_matrix", f"{form}_array") or form not in ("csr", "csc", "coo", "lil"):
            raise _Refused(node.name)
        state = {key: self.value(item) for key, item in node.state.items()}
        if form in ("csr", "csc"):
            parts = (state["data"], state["indices"], state["indptr"])
            matrix = getattr(scipy.sparse, name)(parts, shape=state["_shape"])
            matrix.check_format()
            return matrix
        if form == "coo":
            parts = (state["data"], state.get("coords") or (state["row"], state["col"]))
        else:
            row = np.repeat(np.arange(len(state["rows"])), [len(columns) for columns in state["rows"]])
            data, col = (np.array([item for line in state[key] for item in line]) for key in ("data", "rows"))
            parts = (data.astype(state["dtype"]), (row, col.astype(np.int64)))
        coo = getattr(scipy.sparse, f"coo_{name.split('_')[1]}")(parts, shape=state["_shape"])
        return coo.asformat(form)

    def enum(self, name, node):
        from recbole.utils import enum_type

        kind = getattr(enum_type, name, None)
        if not (isinstance(kind, type) and issubclass(kind, enum_type.Enum)):
            raise _Refused(node.name)
        return kind(*node.args)

    def weights(self, module, prefix) -> dict:
        """The ``state_dict`` of a pickled module, which is not built."""
        found = {}
        for part in ("_parameters", "_buffers"):
            for name, tensor in self.pairs(module.state[part]):
                if tensor is not None:
                    found[prefix + name] = self.value(tensor)
        for name, child in self.pairs(module.state["_modules"]):
            if child is not None:
                found |= self.weights(child, f"{prefix}{name}.")
        return found

    def pairs(self, node):
        return node.items() if isinstance(node, dict) else node.items

    def coo(self, layout, parts):
        if layout.args != ("torch.sparse_coo",):
            raise _Refused(f"{layout.name}{layout.args}")
        indices, values, size, *more = self.value(parts)  # older files do not say whether it is coalesced
        return torch.sparse_coo_tensor(indices, values, size, is_coalesced=more == [True], check_invariants=True)


_TORCH = {
    "_rebuild_tensor_v2": _Values.tensor,
    "_rebuild_parameter": lambda values, data, trained, hooks: torch.nn.Parameter(values.value(data), trained),
    "_rebuild_sparse_tensor": _Values.coo,
}
_NUMPY = {"_reconstruct": _Values.array, "scalar": _Values.scalar}
_PLAIN = {
    "collections.OrderedDict": lambda values, node: {values.value(k): values.value(v) for k, v in node.items},
    "torch.device": lambda values, node: torch.device(*node.args),
    "torch.Size": lambda values, node: tuple(node.args[0]),
    "_codecs.encode": lambda values, node: node.args[0].encode("latin1"),
    "builtins.set": lambda values, node: set(values.value(node.args[0])),
    "__builtin__.set": lambda values, node: set(values.value(node.args[0])),
}
