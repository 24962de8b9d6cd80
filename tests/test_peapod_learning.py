"""PeaPOD and POD on planted personas, where the right answers are known: who gains by a prompt of their own, and what is said."""

import csv

import pytest
import torch

import recbole_persona
from recbole_persona.config import shipped
from recbole_persona.data import planted
from recbole_persona.evaluate.significance import compare
from recbole_persona.runs import RunFolder

pytestmark = pytest.mark.slow
torch.set_num_threads(1)
SETTINGS = {
    "backbone": "scratch:tiny",
    "tasks": ["sequential", "topn"],
    "rows_of_a_user": {"topn": 4, "explanation": 10},
    "n_candidates": 20,
    "MAX_ITEM_LIST_LENGTH": 5,  # so little that tastes beyond the last few items must come from elsewhere
    "learning_rate": 0.003,
    "epochs": 8,
    "eval_step": 4,
    "repeatable": True,
    "metrics": ["NDCG", "Hit"],
    "topk": [5],
    "valid_metric": "NDCG@5",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni19"},
}


def trained(model, place, dataset="planted-personas", **changes):
    """Folder of a run."""
    out = str(place / f"{dataset}-{model}")
    recbole_persona.run(model, dataset, config_dict={**SETTINGS, "run_dir": out, **changes})
    return RunFolder(out)


def gain(place, **changes):
    """PeaPOD minus POD, NDCG@5 by user, with its interval."""
    tables = (trained(model, place, **changes).per_user() for model in ("PeaPOD", "POD"))
    own, shared = (table.set_index("user")["ndcg@5"] for table in tables)
    return compare(own, shared)


def test_users_with_tastes_of_their_own_gain_by_a_prompt_of_their_own(tmp_path):
    found = gain(tmp_path)
    assert found.low > 0 and found.difference > 0.02, found


def test_users_who_share_one_taste_do_not(tmp_path):
    planted.write(tmp_path / "data", "one-taste", 44_000, 800, 1_000, 1, 2020, tastes_of_a_user=(1.0,))
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    found = gain(tmp_path, dataset="one-taste", data_path=str(tmp_path / "data"), load_col=columns)
    assert abs(found.difference) < 0.03, found


def test_sentences_name_what_the_causing_taste_is_about(tmp_path):
    """The feature in the sentence for a held-out item is one of the taste that the item was drawn for."""
    changes = {
        "tasks": ["sequential", "explanation"],
        "metrics": ["rouge-l", "fmr"],
        "valid_metric": "rouge-l",
    }
    folder = trained("PeaPOD", tmp_path, **changes)
    made = recbole_persona.generate(folder.path, split="test")
    place = shipped("dataset") / "planted-personas"
    with open(place / "truth_features.tsv", encoding="utf-8") as file:
        of_feature = {row["feature"]: row["taste"] for row in csv.DictReader(file, delimiter="\t")}
    with open(place / "truth_items.tsv", encoding="utf-8") as file:
        of_item = {row["item_id"]: row["taste"] for row in csv.DictReader(file, delimiter="\t")}
    right = 0
    for item, text in zip(made["item"], made["text"]):
        named = {
            of_feature[word] for word in text.lower().replace(".", " ").replace(",", " ").split() if word in of_feature
        }
        right += named == {of_item[item]}
    assert right >= 0.8 * len(made)
