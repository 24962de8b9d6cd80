"""Every repair that RecBole 1.2.1 needs on today's stack; ``import recbole_persona`` applies them, once.

One function per fault, declared with :func:`~recbole_persona.upstream.repair.repair`, which names the upstream line.
The modules are rooms: ``environment`` (numpy, scipy, ray), ``checkpoints`` (what RecBole pickles), ``tables`` (pandas),
``graphs``, ``decision_trees`` and ``models`` (faults of single models), ``tuning`` (the search of hyper-parameters).
Repairs of modules that are imported late wait for the import (``when_imported``).
"""

# first of all: recbole can be imported only where numpy and ray are mended
from recbole_persona.upstream import environment  # noqa: F401  isort: skip
from recbole_persona.upstream.pickled import convert_checkpoint
from recbole_persona.upstream.repair import REPAIRS, applied, apply_all, replace_everywhere, when_imported

__all__ = ["REPAIRS", "applied", "apply", "convert_checkpoint", "replace_everywhere", "when_imported"]


def apply() -> None:
    """Apply all repairs; a second call does nothing."""
    apply_all()  # the environment first: without it recbole cannot be imported
    from recbole_persona.upstream import checkpoints, decision_trees, graphs, models, tables, tuning  # noqa: F401

    apply_all()
