"""Personalised recommendation that can say why: a plugin for RecBole 1.2.1.

Importing this package repairs RecBole for today's stack and lets RecBole find our models, metrics and trainers.
"""

try:
    import recbole as _recbole  # noqa: F401
except ModuleNotFoundError:
    raise ImportError(
        "RecBole is not installed; on Python 3.12 or newer run `pip install --no-deps recbole==1.2.1`."
    ) from None

from recbole_persona import upstream as _upstream

_upstream.apply()

from recbole_persona import config as _config  # noqa: E402  (recbole can be imported only now)
from recbole_persona import registry as _registry  # noqa: E402

_registry.install()
_config.install()

from recbole_persona.version import __version__  # noqa: E402

_API = ("explain", "export", "generate", "leaderboard", "load", "recommend", "run", "tune")
__all__ = [*_API, "__version__"]


def __getattr__(name):
    if name == "tune":
        from recbole_persona.search.tuning import tune

        return tune
    if name == "leaderboard":
        from recbole_persona.board.leaderboard import leaderboard

        return leaderboard
    if name == "generate":
        from recbole_persona.runner.generation import generate

        return generate
    if name in _API:
        from recbole_persona import runner

        return getattr(runner, name)
    raise AttributeError(f"module 'recbole_persona' has no attribute {name!r}")
