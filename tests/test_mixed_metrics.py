"""Metrics of several types in one run: a pass for each, one result."""

import logging

import numpy as np
import pytest
import torch
from evaluate_data import PassesTrainer, Personas, SequentialPersonas, prepared
from recbole.quick_start import run_recbole
from recbole.utils import EvaluatorType
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

from recbole_persona.errors import UserError
from recbole_persona.evaluate.negatives import SameNegatives
from recbole_persona.evaluate.passes import in_order, kinds_of, value_data
from recbole_persona.evaluate.per_user import evaluate_with_table

MIXED = {"metrics": ["AUC", "NDCG", "LogLoss", "Recall"], "valid_metric": "AUC"}
KEYS = ["auc", "ndcg@3", "ndcg@7", "logloss", "recall@3", "recall@7"]


pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("model", [Personas, SequentialPersonas])
@pytest.mark.parametrize("mode", ["full", "uni20"])
def test_every_type_is_as_in_a_run_of_its_own(folder, model, mode):
    sequential = {"split": {"LS": "valid_and_test"}, "order": "TO"} if model is SequentialPersonas else {}
    eval_args = {**sequential, "mode": mode}
    *_, test, made, trainer = prepared(model, folder, **MIXED, eval_args=eval_args)
    np.random.seed(1)
    result = trainer.evaluate(test, load_best_model=False)
    assert list(result) == KEYS and [one.config["eval_type"] for one in trainer.passes] == list(EvaluatorType)
    # ranking: the same loader in a config of ranking metrics alone
    *_, test_alone, _, alone = prepared(
        model, folder, metrics=["NDCG", "Recall"], valid_metric="NDCG@3", eval_args=eval_args
    )
    alone.model.load_state_dict(made.state_dict())
    np.random.seed(1)
    ranking = alone.evaluate(test_alone, load_best_model=False)
    assert {key: result[key] for key in ranking} == dict(ranking)
    # value: by hand, over the rows of the pass
    batches = [batch for batch, *_ in trainer.passes[1].loader]
    scores = torch.cat([made.predict(batch) for batch in batches]).detach().double().numpy()
    labels = torch.cat([batch["label"] for batch in batches]).numpy()
    times = 101 if mode == "full" else 21
    assert len(scores) == len(test._dataset) * times and labels.sum() == len(test._dataset)
    assert result["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=0.51e-4)
    assert result["logloss"] == pytest.approx(log_loss(labels, np.clip(scores, 1e-15, 1 - 1e-15)), abs=1e-3)


def test_ratings_next_to_ranking(folder):
    """NDCG with RMSE: the data have the label field, so the value pass takes the labelled rows."""
    *_, test, made, trainer = prepared(
        Personas, folder, metrics=["NDCG", "RMSE"], valid_metric="NDCG@3", LABEL_FIELD="rating"
    )
    result, table = evaluate_with_table(trainer, test, load_best_model=False)
    rows = test._dataset.inter_feat
    predicted = made.predict(rows).detach().numpy()
    assert result["rmse"] == pytest.approx(mean_squared_error(rows["rating"], predicted) ** 0.5, abs=0.51e-4)
    assert table["cases"].sum() == len(rows)
    assert result["rmse"] == pytest.approx((table["sum_squared_error"].sum() / len(rows)) ** 0.5, abs=0.51e-4)


def test_several_rows_of_a_user_share_one_sum(folder):
    """Sequential models have one row per case; a user's sums stand in the first."""
    eval_args = {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO", "mode": "full"}
    *_, test, _, trainer = prepared(SequentialPersonas, folder, **MIXED, eval_args=eval_args)
    result, table = evaluate_with_table(trainer, test, load_best_model=False)
    assert len(table) == len(test._dataset) > table["user"].nunique()
    assert table["cases"].sum() == 101 * len(table) and table["cases"].notna().sum() == table["user"].nunique()
    assert table["sum_log_loss"].sum() / table["cases"].sum() == pytest.approx(result["logloss"], abs=0.51e-4)
    for item, user, row in zip(table["item"], table["user"], range(len(table))):
        assert item == test._dataset.id2token("item_id", int(test._dataset.inter_feat["item_id"][row]))
        assert user == test._dataset.id2token("user_id", int(test._dataset.inter_feat["user_id"][row]))


def negatives(config, loader):
    """{user: items} of the value pass."""
    _, made = value_data(config, loader)
    found = {}
    for batch, *_ in made:
        for user, item, label in zip(*(batch[name].tolist() for name in ("user_id", "item_id", "label"))):
            found.setdefault(user, []).append((item, label))
    return found


def test_negatives_are_drawn_once(folder):
    """Whatever the batch size, the model's seed, and what was drawn before; another split_seed draws others."""
    config, _, valid, test, *_ = prepared(Personas, folder, **MIXED, split_seed=7)
    np.random.seed(5)
    first = negatives(config, test)
    state = np.random.get_state()[1].copy()
    assert (state == np.random.RandomState(5).get_state()[1]).all()  # nothing was taken from the process
    config["eval_batch_size"], config["seed"] = 500, 99
    assert negatives(config, test) == first
    config["split_seed"] = 8
    assert negatives(config, test) != first
    config["split_seed"] = 7
    assert negatives(config, valid) != first
    used = test._sampler.used_ids
    assert all(item not in used[user] for user, rows in first.items() for item, label in rows if not label)


def test_the_lists_own_rows_are_left_alone(folder):
    """The value pass sorts its rows and declares a label; the ranking loader's data must not notice."""
    eval_args = {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO", "group_by": "none", "mode": "full"}
    config, train, _, test, *_, trainer = prepared(SequentialPersonas, folder, **MIXED, eval_args=eval_args)
    order = test._dataset.inter_feat["item_id"].clone()
    assert (test._dataset.inter_feat["user_id"].diff() < 0).any()  # by time, not by user
    sampler, fields = test._sampler.distribution, set(train._dataset.field2type)
    config["value_mode"] = "pop30"
    trainer.evaluate(test, load_best_model=False)
    assert torch.equal(test._dataset.inter_feat["item_id"], order)
    assert test._sampler.distribution == sampler and set(train._dataset.field2type) == fields
    assert isinstance(trainer.passes[1].loader, SameNegatives)
    assert trainer.config is config and trainer.eval_collector.config is config


def test_training_stops_on_a_metric_of_the_second_pass(folder):
    *_, trainer = made = prepared(
        Personas, folder, **{**MIXED, "valid_metric": "LogLoss"}, epochs=4, stopping_step=1, learning_rate=0.05
    )
    scores = []
    best, result = trainer.fit(made[1], made[2], callback_fn=lambda epoch, score: scores.append(score))
    assert best == min(scores) == result["logloss"] and list(result) == KEYS


@pytest.mark.parametrize("metrics", [["AUC", "NDCG"], ["NDCG", "PersonaUsage"]], ids=["two passes", "one pass"])
def test_an_evaluation_that_breaks_off_leaves_nothing_behind(folder, monkeypatch, metrics):
    *_, test, made, trainer = prepared(Personas, folder, metrics=metrics, valid_metric="NDCG@3", eval_batch_size=300)
    wanted = trainer.evaluate(test, load_best_model=False)
    predict, calls = made.full_sort_predict, []

    def breaks(interaction):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(interaction)

    monkeypatch.setattr(made, "full_sort_predict", breaks)
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate(test, load_best_model=False)
    assert trainer.evaluate(test, load_best_model=False) == wanted


def test_run_recbole():
    """RecBole's own entry point, its BPR and ml-100k, early stopping on the value metric."""
    result = run_recbole(
        "BPR",
        "ml-100k",
        config_dict={
            "metrics": ["NDCG", "AUC"], "valid_metric": "AUC", "epochs": 1, "show_progress": False, "state": "ERROR",
            "value_mode": "uni20",
        },
    )  # fmt: skip
    assert list(result["test_result"]) == ["ndcg@10", "auc"] and result["valid_score_bigger"] is True
    assert result["best_valid_score"] == result["best_valid_result"]["auc"] > 0.4


@pytest.mark.parametrize(
    "change",
    [
        {"value_mode": "full"},
        {"value_mode": "uni"},
        {"value_mode": 100},
        {"eval_args": {"mode": "labeled"}},
        {"metrics": ["AUC"], "eval_args": {"mode": "full"}},
        {"metrics": ["LogLoss", "AUC"]},
    ],
    ids=str,
)
def test_modes_that_cannot_work_are_refused(folder, change):
    with pytest.raises(UserError) as error:
        prepared(Personas, folder, **{**MIXED, **change})
    assert "\n" not in str(error.value)


def test_labels_that_are_not_there(folder):
    *_, test, _, trainer = prepared(Personas, folder, **{**MIXED, "value_mode": "labeled"})
    with pytest.raises(UserError, match="has no column 'label'"):
        trainer.evaluate(test, load_best_model=False)


def test_trees_have_no_ranking(folder):
    pytest.importorskip("lightgbm")
    with pytest.raises(UserError, match="leave out the ranking metrics"):
        prepared("LightGBM", folder, **MIXED, threshold={"rating": 3})


def test_types_and_order():
    kinds = kinds_of(["RMSE", "NDCG", "auc", "TDD"])
    assert kinds == {EvaluatorType.RANKING: ["NDCG", "TDD"], EvaluatorType.VALUE: ["RMSE", "auc"]}
    assert list(kinds) == [EvaluatorType.RANKING, EvaluatorType.VALUE]
    result = {"ndcg@5": 1, "ndcg@10": 2, "tdd@5": 3, "rmse": 4}
    assert list(in_order(result, ["RMSE", "TDD", "NDCG"])) == ["rmse", "tdd@5", "ndcg@5", "ndcg@10"]


def test_one_type_is_one_pass(folder, caplog):
    *_, test, _, trainer = prepared(Personas, folder)
    with caplog.at_level(logging.INFO):
        trainer.evaluate(test, load_best_model=False)
    assert isinstance(trainer, PassesTrainer) and len(trainer.passes) == 1
    assert trainer.passes[0].loader is test and trainer.passes[0].collector is trainer.eval_collector
