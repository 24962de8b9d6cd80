"""How a repair is declared, applied once, and carried to every place that holds the faulty object."""

import functools
import importlib.abc
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

REPAIRS: dict[str, "Repair"] = {}
_applied: set[str] = set()


@dataclass(frozen=True)
class Repair:
    """One fault of RecBole 1.2.1 on today's stack and the function that mends it.

    Attributes:
        name: the name of the function.
        upstream: ``file:line`` inside the recbole package, where the fault stands.
        fault: what happens without the repair, in one sentence.
        function: takes nothing, mends the fault.
    """

    name: str
    upstream: str
    fault: str
    function: Callable[[], None]


def repair(upstream: str, fault: str):
    """Declare the decorated function as the repair of ``fault`` at ``upstream`` (``file:line``)."""

    def declare(function):
        if function.__name__ in REPAIRS:
            raise ValueError(f"two repairs are named {function.__name__!r}")
        REPAIRS[function.__name__] = Repair(function.__name__, upstream, fault, function)
        return function

    return declare


def apply_all() -> None:
    """Apply every declared repair that has not been applied in this process.

    The environment variable ``RECBOLE_PERSONA_SKIP_REPAIRS`` (names, comma-separated) leaves some out: the tests show
    with it that each repair is needed.
    """
    skipped = set(filter(None, os.environ.get("RECBOLE_PERSONA_SKIP_REPAIRS", "").split(",")))
    for entry in list(REPAIRS.values()):
        if entry.name not in _applied and entry.name not in skipped:
            _applied.add(entry.name)
            entry.function()


def applied() -> set[str]:
    """Names of the repairs that are in force in this process."""
    return set(_applied)


def replace_everywhere(original, replacement) -> None:
    """Bind every module attribute that is ``original`` to ``replacement``.

    RecBole imports its functions by value (``from recbole.utils import get_model``), and a user's script may have done
    so before this package was imported; the one pass over ``sys.modules`` reaches them all. Our own modules keep the
    original: they call it.
    """
    for module_name, module in list(sys.modules.items()):
        names = getattr(module, "__dict__", None)
        if not isinstance(names, dict) or module_name.partition(".")[0] == "recbole_persona":
            continue
        for name, value in list(names.items()):
            if value is original:
                setattr(module, name, replacement)


def around(owner, name: str):
    """Let the decorated function stand for ``owner.name``; it gets the upstream function first, then its arguments."""

    def declare(function):
        upstream = getattr(owner, name)

        @functools.wraps(upstream)
        def replacement(*args, **kwargs):
            return function(upstream, *args, **kwargs)

        setattr(owner, name, replacement)
        return function

    return declare


def seen_as(module: ModuleType, **changed) -> ModuleType:
    """``module`` as another module shall see it: all is its own but the attributes in ``changed``."""
    view = ModuleType(module.__name__, module.__doc__)
    view.__getattr__ = lambda name: getattr(module, name)
    vars(view).update(changed)
    return view


@contextmanager
def standing_in(**modules):
    """Inside the block, ``import name`` finds ``modules[name]``; afterwards it finds what it found before."""
    kept = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _PatchingLoader(importlib.abc.Loader):
    def __init__(self, loader, patches):
        self.loader, self.patches = loader, patches

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        for patch in self.patches:
            patch(module)


class _PatchingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that a repair waits for, and lets the repair run right after their import."""

    def __init__(self):
        self.patches: dict[str, list[Callable]] = {}

    def find_spec(self, name, path, target=None):
        if name not in self.patches:
            return None
        # The other finders are asked one by one: importlib's own search would come back here.
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in specs if found is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, self.patches[name])
        return spec


_finder = _PatchingFinder()


def when_imported(name: str, patch: Callable) -> None:
    """Call ``patch(module)`` now if the module ``name`` is imported already, else right after its import."""
    if name in sys.modules:
        patch(sys.modules[name])
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _finder.patches.setdefault(name, []).append(patch)
