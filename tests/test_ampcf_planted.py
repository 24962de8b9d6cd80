"""AMPCF on planted personas, where the right answer is known: what several personas gain over one, and the tastes they find.

Every model has the penalty that results/planted-personas found best for it on validation.

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

SETTINGS = {
    "stopping_step": 4,
    "metrics": ["NDCG", "Recall"],
    "topk": [10, 100],
    "use_gpu": False,
    "show_progress": False,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """For ten tastes: four personas of 4 dimensions, one of 4, and one of as many numbers as the four; outcomes by name."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("planted")
    settings = {
        "four": {"n_personas": 4, "embedding_size": 4, "reg_weight": 0.3},
        "one, d = 4": {"n_personas": 1, "embedding_size": 4, "reg_weight": 0.2},
        "one, d = 16": {"n_personas": 1, "embedding_size": 16, "reg_weight": 0.45},
    }
    return {
        name: run("AMPCF", "planted-personas", config_dict=SETTINGS | more | {"run_dir": str(folder / str(number))})
        for number, (name, more) in enumerate(settings.items())
    }


def test_four_personas_beat_one_of_equal_dimensions(runs):
    ndcg = {name: outcome["test_result"]["ndcg@10"] for name, outcome in runs.items()}
    print(ndcg)
    assert ndcg["four"] >= 1.1 * ndcg["one, d = 4"]


def test_four_personas_go_deeper_than_one_of_equal_parameters(runs):
    """At 10 the two are level; of the 100 best places more are right with four."""
    recall = {name: outcome["test_result"]["recall@100"] for name, outcome in runs.items()}
    print(recall)
    assert recall["four"] >= 1.1 * recall["one, d = 16"]


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
