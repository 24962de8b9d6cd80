"""From the folder of a finished run to recommendations for people, and to the reasons: ``load``, and one call."""

from pathlib import Path

import pandas as pd

from recbole_persona.runner.training import load


def recommend(run_dir, users=None, history=None, topk=10, *, config_dict=None, trust=False, **options) -> pd.DataFrame:
    """The best items for users of a finished run, or for a new user: :meth:`recbole_persona.runner.loaded.Loaded.recommend`.

    Args:
        run_dir: folder of the run, of any model.
        users, history, topk, options: as for the method, which says what is returned.
        config_dict: settings to change, such as ``gpu_id``.
        trust: run the code that only the run's ``config.yaml`` names.

    Raises:
        UserError: an unknown user or item, an empty history, a model that cannot do it.
    """
    return load(run_dir, config_dict, trust, "recommend").recommend(users, history, topk, **options)


def explain(run_dir, user=None, topk=10, items=None, *, config_dict=None, trust=False, **options) -> list[dict]:
    """Why a user gets what they get: :meth:`recbole_persona.runner.loaded.Loaded.explain`.

    Args:
        run_dir: folder of a run of a model with personas, of a sequential one that explains, or of PeaPOD.
        user, topk, items, options: as for the method, which says what is returned.
        config_dict, trust: as for :func:`recommend`.

    Raises:
        UserError: an unknown user or item, or a model that does not explain.
    """
    return load(run_dir, config_dict, trust, "explain").explain(user, topk, items, **options)


def export(run_dir, out, form="npz", *, config_dict=None, trust=False) -> list[Path]:
    """Write the vectors of a run into a new folder: :meth:`recbole_persona.runner.loaded.Loaded.export`.

    Args:
        run_dir: folder of a run of a model that has vectors of users and items.
        out, form: as for the method.
        config_dict, trust: as for :func:`recommend`.

    Raises:
        UserError: a model without vectors, a folder with files, pyarrow is missing.
    """
    return load(run_dir, config_dict, trust, "export").export(out, form)
