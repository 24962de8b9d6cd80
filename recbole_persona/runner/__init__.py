"""From a config to a finished run, and from a finished run to recommendations."""

from recbole_persona.runner.inference import explain, export, recommend
from recbole_persona.runner.training import evaluate_run, load, run

__all__ = ["evaluate_run", "explain", "export", "load", "recommend", "run"]
