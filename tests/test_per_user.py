"""Values per user: their mean is the result, on all metrics, for general and sequential models."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from evaluate_data import PassesTrainer, Personas, SequentialPersonas, prepared
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.evaluator import metrics_dict
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed

from recbole_persona.evaluate import per_user
from recbole_persona.evaluate.per_user import evaluate_with_table, per_user_table

MEANS = ["Hit", "MRR", "NDCG", "Recall", "Precision", "MAP", "AveragePopularity", "TailPercentage", "TDD", "ILD"]
CORPUS = ["ItemCoverage", "ShannonEntropy", "GiniIndex"]


pytestmark = pytest.mark.usefixtures("elsewhere")


def check_means(result, table, metrics=MEANS, topk=(3, 7)):
    for name in metrics:
        for k in topk:
            key = f"{name.lower()}@{k}"
            assert abs(table[key].mean() - result[key]) <= 0.5e-4 + 1e-9, key
            assert table[key].dtype.kind in "fi"
    if "gauc" in result:
        kept = table["gauc"].notna()
        mean = np.average(table["gauc"][kept], weights=table["gauc_weight"][kept])
        assert abs(mean - result["gauc"]) <= 0.5e-4 + 1e-6


@pytest.mark.parametrize("mode", ["full", "uni20"])
@pytest.mark.parametrize("model", [Personas, SequentialPersonas])
def test_means_are_the_result(folder, model, mode):
    names = [*MEANS, *CORPUS, "GAUC", "PersonaEntropy", "PersonaUsage"]
    sequential = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": mode}}
    general = {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "mode": mode}}  # several test items per user
    extra = sequential if model is SequentialPersonas else general
    *_, test, _, trainer = prepared(model, folder, metrics=names, valid_metric="NDCG@3", **extra)
    result, table = evaluate_with_table(trainer, test, load_best_model=False)
    check_means(result, table, [*MEANS, "PersonaEntropy", "PersonaUsage"])
    assert table["user"].is_unique and set(table["user"]) <= {f"u{i}" for i in range(60)}
    assert ("item" in table) == (model is SequentialPersonas and mode == "full")
    assert not [column for column in table if column.partition("@")[0] in ("itemcoverage", "giniindex")]


def test_corpus_metrics_come_from_the_items(folder):
    """Sufficient: the three are computed again from the column, on the users that one likes."""
    *_, test, _, trainer = prepared(Personas, folder, metrics=CORPUS, valid_metric="GiniIndex@3")
    result, table = evaluate_with_table(trainer, test, load_best_model=False)
    dataset = test._dataset
    ids = np.array([[dataset.token2id("item_id", item) for item in json.loads(row)] for row in table["items"]])
    for k in (3, 7):
        shown = ids[:, :k]
        assert result[f"itemcoverage@{k}"] == round(len(np.unique(shown)) / dataset.item_num, 4)
        share = np.unique(shown, return_counts=True)[1] / shown.size
        assert result[f"shannonentropy@{k}"] == round(-(share * np.log(share)).sum() / len(share), 4)


def test_rows_belong_to_their_users(folder):
    """Hits and tastes of one user, computed alone."""
    *_, test, model, trainer = prepared(Personas, folder, metrics=["Hit", "TDD"], valid_metric="Hit@3")
    table = per_user_table(trainer, test).set_index("user")
    dataset = test._dataset
    for user in dataset.token2id("user_id", np.array(["u3", "u17", "u59"])):
        scores = model.full_sort_predict({"user_id": torch.tensor([user])})[0]
        mine = dataset.inter_feat["user_id"] == user
        relevant = set(dataset.inter_feat["item_id"][mine].tolist())
        scores[[0, *(test._sampler.used_ids[user] - relevant)]] = -torch.inf
        best = scores.topk(3).indices.tolist()
        token = dataset.id2token("user_id", int(user))
        assert table.loc[token, "hit@3"] == bool(relevant & set(best))
        tastes = trainer.eval_collector.last["data.tastes"]
        history, shown = tastes.users.toarray()[user], tastes.items.toarray()[best].mean(0)
        middle = (history + shown) / 2
        halves = [sum(a * math.log2(a / m) for a, m in zip(p, middle) if a) for p in (history, shown)]
        assert table.loc[token, "tdd@3"] == pytest.approx(math.sqrt(sum(halves) / 2))


def test_users_without_a_history_have_no_tastes(folder):
    *_, test, _, trainer = prepared(Personas, folder, metrics=["NDCG", "TDD"], valid_metric="NDCG@3")
    tastes = trainer.eval_collector.data_struct["data.tastes"]
    tastes.users.data[tastes.users.indptr[5] : tastes.users.indptr[6]] = 0
    result, table = evaluate_with_table(trainer, test, load_best_model=False)
    nothing = table.set_index("user")["tdd@3"].isna()
    assert nothing[test._dataset.id2token("user_id", 5)] and nothing.sum() == 1
    check_means(result, table, ["NDCG", "TDD"])


def test_sums_of_value_metrics_are_sufficient(folder):
    names = ["AUC", "MAE", "RMSE", "LogLoss"]
    *_, test, _, trainer = prepared(
        Personas, folder, metrics=names, valid_metric="AUC", threshold={"rating": 3}, eval_args={"mode": "labeled"}
    )
    result, table = evaluate_with_table(trainer, test, load_best_model=False)
    cases = table["cases"].sum()
    assert cases == len(test._dataset) and table["user"].is_unique
    assert result["mae"] == pytest.approx(table["sum_absolute_error"].sum() / cases, abs=0.51e-4)
    assert result["rmse"] == pytest.approx(math.sqrt(table["sum_squared_error"].sum() / cases), abs=0.51e-4)
    assert result["logloss"] == pytest.approx(table["sum_log_loss"].sum() / cases, abs=0.51e-4)
    assert "auc" not in table


def test_one_evaluation_gives_both(folder, monkeypatch):
    *_, test, model, trainer = prepared(Personas, folder)
    calls = []
    predict = model.full_sort_predict
    monkeypatch.setattr(model, "full_sort_predict", lambda interaction: (calls.append(1), predict(interaction))[1])
    evaluate_with_table(trainer, test, load_best_model=False)
    assert len(calls) == len(test)


def test_a_plain_trainer_and_no_data(folder):
    config, _, _, test, model, _ = prepared(Personas, folder)
    trainer = Trainer(config, model)
    result, table = evaluate_with_table(trainer, test, load_best_model=False)
    check_means(result, table, ["NDCG", "Recall"])
    assert isinstance(per_user_table(trainer, test), pd.DataFrame)
    for each in (trainer, PassesTrainer(config, model)):
        result, table = evaluate_with_table(each, None, load_best_model=False)
        assert result is None and len(table) == 0


def test_somebody_elses_metric_has_values_per_user_too(folder):
    """A metric that somebody derives from RecBole's base class, and one that offers nothing."""

    class FirstHit(metrics_dict["hit"]):
        pass

    *_, test, _, trainer = prepared(Personas, folder, metrics=["Hit"], valid_metric="Hit@3")
    table = per_user_table(trainer, test)
    struct = trainer.eval_collector.last
    values = per_user._values(FirstHit(trainer.config), "firsthit", struct)
    np.testing.assert_array_equal(values["hit@3"], table["hit@3"])
    assert per_user._values(object(), "unknown", struct) == {}


@pytest.mark.parametrize("name", ["BPR", "ItemKNN"])
def test_ml100k(name):
    names = [*MEANS, *CORPUS, "GAUC"]
    settings = {"metrics": names, "topk": [5, 10], "valid_metric": "NDCG@10", "epochs": 1, "show_progress": False}
    torch.set_num_threads(1)
    config = Config(name, "ml-100k", config_dict={**settings, "state": "ERROR"})
    init_seed(2020, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    model = get_model(name)(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    trainer.fit(train, valid)
    result, table = evaluate_with_table(trainer, test)
    assert len(table) == len(test.uid_list) == table["user"].nunique()
    check_means(result, table, topk=(5, 10))
