"""How a repair is declared, applied once, and carried to every place that holds the faulty object."""

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

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


class _PatchingLoader(importlib.abc.Loader):
    def __init__(self, loader, patch):
        self.loader, self.patch = loader, patch

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        self.patch(module)


class _PatchingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that a repair waits for, and lets the repair run right after their import."""

    def __init__(self):
        self.patches: dict[str, list[Callable]] = {}

    def find_spec(self, name, path, target=None):
        patches = self.patches.pop(name, None)
        if patches is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, lambda module: [patch(module) for patch in patches])
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
