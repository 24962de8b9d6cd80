"""What is claimed of several personas, on the data set of which the right answer is known (docs/claims.md).

Every model has the penalty that results/planted-personas found best for it on validation.
Run with ``pytest -m slow -s tests/test_claims.py`` to see the figures.
"""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from recbole_persona import run
from recbole_persona.evaluate.faithfulness import faithfulness
from recbole_persona.runner.training import load

pytestmark = pytest.mark.slow
VARIANTS = {
    "K=4": {},
    "K=4, another seed": {"seed": 2021},
    "K=4, fixed": {"attention": "fixed"},
    "K=4, uniform": {"attention": "uniform"},
    "K=1": {"n_personas": 1, "reg_weight": 0.2},
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """AMPCF with four dimensions on ten tastes: test results, and where the runs are."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("claims")
    common = {
        "embedding_size": 4,
        "n_personas": 4,
        "reg_weight": 0.3,
        "stopping_step": 4,
        "metrics": ["NDCG", "TDD", "ILD"],
    }
    return {
        name: run("AMPCF", "planted-personas", config_dict=common | more | {"run_dir": str(folder / str(number))})
        for number, (name, more) in enumerate(VARIANTS.items())
    }


def test_several_personas_and_a_candidate_that_chooses(outcomes):
    """K = 4 beats K = 1, and the same four vectors with weights that do not depend on the candidate."""
    for name, outcome in outcomes.items():
        print(f"{name}: {dict(outcome['test_result'])}")
    ndcg = {name: outcome["test_result"]["ndcg@10"] for name, outcome in outcomes.items()}
    for other in ("K=1", "K=4, fixed", "K=4, uniform"):
        assert ndcg["K=4"] >= 1.1 * ndcg[other]


def test_lists_cover_the_tastes_without_reranking(outcomes):
    """With K = 4 the recommended tastes are nearer to those of the history, and the lists more diverse."""
    several, one = (outcomes[name]["test_result"] for name in ("K=4", "K=1"))
    assert several["tdd@10"] < 0.8 * one["tdd@10"] and several["ild@10"] > one["ild@10"]


def test_personas_hold_their_shape(outcomes):
    """Two seeds divide a user's interactions alike: adjusted Rand index of the dominant personas, mean over users."""
    first, second = (load(outcomes[name]["run_dir"]) for name in ("K=4", "K=4, another seed"))
    rows = first.train_data._dataset.inter_feat
    users = rows["user_id"].numpy()
    with torch.no_grad():
        one, two = (run.model.explain(rows).weights.argmax(dim=1).numpy() for run in (first, second))
    order = np.random.default_rng(0).permutation(len(users))
    by_user = [np.flatnonzero(users == user) for user in np.unique(users)]
    alike = np.mean([adjusted_rand_score(one[mine], two[mine]) for mine in by_user])
    chance = np.mean([adjusted_rand_score(one[mine], two[order[mine]]) for mine in by_user])
    print(f"agreement of two seeds {alike:.3f}, of one with chance {chance:.3f}")
    assert alike > 0.5 and abs(chance) < 0.1


def test_the_persona_named_is_the_one_that_made_the_score(outcomes):
    loaded = load(outcomes["K=4"]["run_dir"])
    table = faithfulness(loaded.model, loaded.train_data._dataset.inter_feat[:2000]).set_index("removed")
    print(table)
    top, others, noise = (table.loc[name, "drop"] for name in ("top parts", "other parts", "random vectors"))
    assert top > 3 * others and top > 10 * abs(noise)
