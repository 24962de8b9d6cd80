"""AMPCF on planted personas, where the right answer is known: several personas beat one, and find the tastes.

Run with ``pytest -m slow -s tests/test_ampcf_planted.py`` to see the figures.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction
from sklearn.metrics import adjusted_rand_score

from recbole_persona import run
from recbole_persona.config import shipped
from recbole_persona.runner.training import load

pytestmark = pytest.mark.slow

DIMENSION = 4  # for ten tastes
SETTINGS = {"embedding_size": DIMENSION, "stopping_step": 4, "use_gpu": False, "show_progress": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One persona with and without the penalty, and four; test NDCG@10 by name, and the folder of the four."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("planted")
    settings = {
        "one": {"n_personas": 1},
        "one, no penalty": {"n_personas": 1, "reg_weight": 0.0},
        "four": {"n_personas": 4},
    }
    return {
        name: run("AMPCF", "planted-personas", config_dict=SETTINGS | more | {"run_dir": str(folder / str(number))})
        for number, (name, more) in enumerate(settings.items())
    }


def test_four_personas_beat_one(runs):
    ndcg = {name: outcome["test_result"]["ndcg@10"] for name, outcome in runs.items()}
    print(ndcg)
    assert ndcg["four"] >= 1.1 * max(ndcg["one"], ndcg["one, no penalty"])


def test_the_dominant_persona_is_the_taste(runs):
    """Mean adjusted Rand index over users of two tastes or more, on all their interactions."""
    loaded = load(runs["four"]["run_dir"])
    truth = pd.read_csv(shipped("dataset") / "planted-personas" / "truth_interactions.tsv", sep="\t", dtype=str)
    ids = [loaded.dataset.token2id(field, truth[field].to_numpy()) for field in ("user_id", "item_id")]
    rows = Interaction({"user_id": torch.as_tensor(ids[0]), "item_id": torch.as_tensor(ids[1])})
    with torch.no_grad():
        truth["persona"] = loaded.model.explain(rows).weights.argmax(dim=1).numpy()
    several = [user for _, user in truth.groupby("user_id") if user["taste"].nunique() >= 2]
    found = np.mean([adjusted_rand_score(user["taste"], user["persona"]) for user in several])
    print(f"adjusted Rand index {found:.3f} over {len(several)} users")
    assert found >= 0.75
