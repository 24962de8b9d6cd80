"""What a model keeps outside its ``state_dict``: counters, annealing, tables of plain tensors, centroids.

Nothing here knows a model. How every attribute of every submodule stood when training began is noted
(:func:`remember`); what differs later is state (:func:`changed_since`), and can be put back into a model that was built
again (:func:`put_back`). Attributes that have not changed are built again by the model itself.

A state may come from anybody. What is put back is data, and stands where the built model has an attribute of that kind
(:func:`recbole_persona.upstream.tree.same_kind`). An attribute that appears only in training - a table that is computed when it
is first needed - may be numbers, tensors, arrays, or containers of these, under a name that neither begins with an underscore
nor is taken: by a method or another attribute of the class, by a weight, a buffer or a part of the model.
"""

import zlib
from logging import getLogger

import numpy as np
import scipy.sparse
import torch

from recbole_persona.upstream.tree import encode, is_numeric, same_kind

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_NOTES = "_attributes_as_built"
_OF_EVERY_MODULE = {*vars(torch.nn.Module()), _NOTES, "other_parameter_name"}  # the last says what a state may set


class _Notes(dict):
    """``{path: (value, mark)}``. The values are kept: a mark's identities hold only while their objects live."""

    def __init__(self, notes):
        super().__init__(notes)
        self.said = set()  # paths that a warning has named

    def __deepcopy__(self, memo):
        return None  # a copied model holds other objects


def remember(model) -> None:
    """Note how the model's attributes stand now; later calls for the same model change nothing."""
    if getattr(model, _NOTES, None) is None:
        own = _in_state_dict(model)
        setattr(model, _NOTES, _Notes({path: (value, _mark(value, own)) for path, value in _attributes(model)}))


def changed_since(model) -> dict:
    """What differs from :func:`remember`.

    Returns:
        ``{"in_place": {path: tensor}, "replaced": {path: value}}``: tensors whose memory was written to, and attributes
        that are another object now. Of what ``other_parameter()`` returns nothing is repeated.
    """
    remember(model)
    notes, kept_anyway, own = getattr(model, _NOTES), _other_parameters(model), _in_state_dict(model)
    in_place, replaced, modules = {}, {}, dict(model.named_modules())
    for path, value in _attributes(model):
        old, mark = notes.get(path, (None, None))
        if path in kept_anyway or mark == _mark(value, own):
            continue
        if isinstance(value, torch.Tensor) and value is old:
            in_place[path] = value
        elif _may_be(path, value, _built(model), modules) and _has_form(value, own):
            replaced[path] = value
        elif path not in notes.said:
            notes.said.add(path)
            getLogger().warning(f"{path} is a {type(value).__name__} and changed in training, but cannot be saved.")
    return {"in_place": in_place, "replaced": replaced}


def put_back(model, changed: dict) -> None:
    """Give a model that was built again what :func:`changed_since` found; tensors go to the model's device.

    Attributes that were as built when ``changed`` was taken, and are other objects now, get the built ones back.

    Raises:
        ValueError: something else than what the model may hold there; then nothing has been changed.
        KeyError, TypeError, AttributeError: ``changed`` has another form.
    """
    own, built, modules = _in_state_dict(model), _built(model), dict(model.named_modules())
    for path, tensor in changed["in_place"].items():
        if not _is_like(tensor, built.get(path)):
            raise ValueError(f"{path!r} is no tensor of this shape and dtype in the model")
    for path, value in changed["replaced"].items():
        if not _may_be(path, value, built, modules):
            raise ValueError(f"{path!r} of the model cannot be a {type(value).__name__}")
    known = {*changed["in_place"], *changed["replaced"], *_other_parameters(model)}
    for path, (value, mark) in (getattr(model, _NOTES, None) or {}).items():
        if path not in known and mark == _mark(value, own):  # else its first content is lost: it was written to
            setattr(*_owner(model, path), value)
    for path, tensor in changed["in_place"].items():
        setattr(*_owner(model, path), built[path])
        with torch.no_grad():
            built[path].copy_(tensor)
    for path, value in changed["replaced"].items():
        setattr(*_owner(model, path), to_device(value, device_of(model)))


def device_of(model) -> torch.device:
    """The device of a model's parameters; the CPU's for a model that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def to_device(value, device):
    """A tree with its tensors on ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return type(value)((key, to_device(item, device)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def _attributes(model):
    """(path, value) of every attribute of every submodule that its ``state_dict`` does not hold."""
    for place, module in model.named_modules():
        prefix = f"{place}." if place else ""
        for name, value in vars(module).items():
            if name not in _OF_EVERY_MODULE:
                yield prefix + name, value
        for name in sorted(module._non_persistent_buffers_set):
            yield prefix + name, module._buffers[name]


def _built(model) -> dict:
    """The attributes by path, as they stood when they were noted; as they stand now in a model of which nothing was noted."""
    notes = getattr(model, _NOTES, None)
    return dict(_attributes(model)) if notes is None else {path: value for path, (value, _) in notes.items()}


def _may_be(path, value, built, modules) -> bool:
    """Whether an attribute may hold a value after training; what else it holds is no state, and is nobody's to set."""
    if path in built:
        return same_kind(built[path], value)
    place, _, name = path.rpartition(".")
    owner = modules.get(place)
    if owner is None or not name.isidentifier() or name.startswith("_") or name in _OF_EVERY_MODULE:
        return False
    taken = {*owner._parameters, *owner._buffers, *owner._modules}
    return not hasattr(type(owner), name) and name not in taken and (value is None or is_numeric(value))


def _is_like(tensor, other) -> bool:
    both = isinstance(tensor, torch.Tensor) and isinstance(other, torch.Tensor)
    return both and (tensor.shape, tensor.dtype, tensor.layout) == (other.shape, other.dtype, other.layout)


def _owner(model, path):
    place, _, name = path.rpartition(".")
    return model.get_submodule(place), name


def _other_parameters(model) -> set:
    return set(model.other_parameter()) if hasattr(model, "other_parameter") else set()


def _in_state_dict(model) -> set:
    """Identities of the tensors that the ``state_dict`` holds; modules list them again (``GRU._flat_weights``).

    Parameters that it leaves out, because a pretrained model's files hold them, count as held.
    """
    return {id(tensor) for tensor in (*model.state_dict(keep_vars=True).values(), *model.parameters())}


def _mark(value, own):
    """Something that differs when the value does: for tensors their identity and the count of writes to them."""
    if isinstance(value, torch.Tensor):
        written = None if id(value) in own or value.is_inference() else value._version
        return "tensor", id(value), written
    if isinstance(value, np.ndarray):
        content = None if value.dtype.hasobject else zlib.crc32(np.ascontiguousarray(value))
        return "array", id(value), value.shape, content
    if scipy.sparse.issparse(value):
        return "sparse", id(value), _mark(getattr(value, "data", None), own)
    if isinstance(value, dict):
        return type(value), tuple((_mark(key, own), _mark(item, own)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_mark(item, own) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(_mark(item, own) for item in value)
    if isinstance(value, _PLAIN):
        return type(value), repr(value)
    return "object", id(value)


def _has_form(value, own) -> bool:
    """Whether a value can be saved and be the same again: a copy of a weight would no longer be that weight."""
    if _holds(value, own):
        return False
    try:
        encode(value, {})
    except TypeError:
        return False
    return True


def _holds(value, own) -> bool:
    if isinstance(value, dict):
        return any(_holds(item, own) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds(item, own) for item in value)
    return id(value) in own
