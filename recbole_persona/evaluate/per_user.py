"""Metrics user by user, unrounded, from the same pass as the result."""

import json

import numpy as np
import pandas as pd
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator.register import metrics_dict
from recbole.utils import EvaluatorType

from recbole_persona.evaluate.passes import Pass
from recbole_persona.registry import TEXT

_CORPUS = {"itemcoverage", "shannonentropy", "giniindex"}
_EPSILON = 1e-15  # RecBole's LogLoss keeps probabilities this far from 0 and 1


def evaluate_with_table(trainer, eval_data, **arguments):
    """Evaluate once; give the result and what it is the mean of.

    Args:
        trainer: a trainer of RecBole's or ours.
        eval_data: its validation or test loader.
        arguments: those of ``trainer.evaluate``.

    Returns:
        ``(result, table)``: RecBole's result, and one row per case as in :func:`per_user_table`; None and an empty
        table where there are no data.
    """
    result = trainer.evaluate(eval_data, **arguments)
    if result is None:
        return None, pd.DataFrame({"user": []})
    whole = Pass(trainer.config, trainer.eval_collector, trainer.evaluator, eval_data)
    done = getattr(trainer, "passes", None) or [whole]
    table, *others = [case_table(one) for one in done]
    for other, one in zip(others, done[1:]):
        if one.config["eval_type"] == TEXT:
            table = _beside(table, other)
            continue
        table = table.merge(other, on="user", how="left")
        # where a user has several rows, the sums stand in the first: the sum of the column stays right
        table.loc[table["user"].duplicated(), other.columns[1:]] = np.nan
    return result, table


def per_user_table(trainer, eval_data) -> pd.DataFrame:
    """The metrics of the trainer's model as it stands, user by user.

    Returns:
        One row per test user, or per test row for sequential models (then with the target ``item``): ``user`` (external
        id) and a column per metric key, whose mean, NaN left out, is the unrounded result. ``gauc`` is the user's AUC,
        to be weighted by ``gauc_weight``. ItemCoverage, ShannonEntropy and GiniIndex are no means: ``items`` lists what
        they are computed from, the external ids of the recommended items, as JSON. Value metrics are sums over labelled
        rows: ``cases``, ``sum_absolute_error`` (mae), ``sum_squared_error`` (rmse), ``sum_log_loss`` (logloss); AUC is
        no sum, and has no column. Text metrics have one row per held-out row with a text; a user who has more of these than
        rows of lists gets rows of texts alone. A text metric that is no mean has the counts, the text or the features that it
        is computed from (docs/text_metrics.md).
    """
    return evaluate_with_table(trainer, eval_data, load_best_model=False)[1]


def case_table(one) -> pd.DataFrame:
    """The rows of one finished :class:`~recbole_persona.evaluate.passes.Pass`; columns as in :func:`per_user_table`."""
    if one.config["eval_type"] == EvaluatorType.VALUE:
        return _sums(one)
    if one.config["eval_type"] == TEXT:
        return _text_rows(one)
    struct, dataset = one.collector.last, one.loader._dataset
    columns = {"user": dataset.id2token(dataset.uid_field, struct.get("rec.users").numpy())}
    if isinstance(one.loader, FullSortEvalDataLoader) and one.loader.is_sequential:
        columns["item"] = dataset.id2token(dataset.iid_field, dataset.inter_feat[dataset.iid_field].numpy())
    metrics = [metric.lower() for metric in one.config["metrics"]]
    for metric in metrics:
        columns.update(_values(metrics_dict[metric](one.config), metric, struct))
    if _CORPUS & set(metrics):
        tokens = dataset.id2token(dataset.iid_field, struct.get("rec.items").numpy())
        columns["items"] = [json.dumps(row, ensure_ascii=False) for row in tokens.tolist()]
    return pd.DataFrame(columns)


def _values(metric, name, struct) -> dict[str, np.ndarray]:
    """The unrounded values of every case under a ranking metric; empty for a metric that is no mean over cases."""
    if hasattr(metric, "per_user"):
        return metric.per_user(struct)
    if hasattr(metric, "topk_result"):
        # The values of all cases and cut-offs go through this method, which takes the mean and rounds.
        metric.topk_result = lambda key, value: {f"{key}@{k}": value[:, k - 1] for k in metric.topk}
        return metric.calculate_metric(struct)
    if name == "gauc":
        ranks, candidates, positives = struct.get("rec.meanrank").double().numpy().T
        negatives = candidates - positives
        better = positives * (candidates + 1) - positives * (positives + 1) / 2 - ranks  # pairs in the right order
        pairs = positives * negatives
        auc = np.divide(better, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
        return {"gauc": auc, "gauc_weight": positives}
    return {}


def _text_rows(one) -> pd.DataFrame:
    """A row for every text, with what its metrics are computed from."""
    struct, dataset = one.collector.last, one.loader._dataset
    columns = {
        "user": dataset.id2token(dataset.uid_field, struct.get("text.users")),
        "item": dataset.id2token(dataset.iid_field, struct.get("text.items")),
    }
    for metric in one.config["metrics"]:
        columns |= one.evaluator.metric_class[metric.lower()].columns(struct)
    return pd.DataFrame(columns)


def _beside(table, texts) -> pd.DataFrame:
    """The rows of texts beside other rows of the same user (and item, where those rows are of one), each once."""
    keys = ["user", "item"] if "item" in table else ["user"]
    texts = texts if "item" in table else texts.drop(columns="item")
    number = "row of the user"
    table = table.assign(**{number: table.groupby(keys).cumcount()})
    texts = texts.assign(**{number: texts.groupby(keys).cumcount()})
    both = table.merge(texts, on=[*keys, number], how="left")
    known = pd.MultiIndex.from_frame(table[[*keys, number]])
    added = texts[~pd.MultiIndex.from_frame(texts[[*keys, number]]).isin(known)]
    return (pd.concat([both, added], ignore_index=True) if len(added) else both).drop(columns=number)


def _sums(one) -> pd.DataFrame:
    """Sums over the labelled rows of every user, enough to compute MAE, RMSE and LogLoss of any set of users."""
    struct, dataset = one.collector.last, one.loader._dataset
    metrics = {metric.lower() for metric in one.config["metrics"]}
    users = struct.get("rec.users") if "rec.users" in struct else dataset.inter_feat[dataset.uid_field]
    scores, labels = (struct.get(name).double().numpy().reshape(-1) for name in ("rec.score", "data.label"))
    rows = pd.DataFrame({"user": users.numpy(), "cases": 1})
    if "mae" in metrics:
        rows["sum_absolute_error"] = np.abs(scores - labels)
    if "rmse" in metrics:
        rows["sum_squared_error"] = (scores - labels) ** 2
    if "logloss" in metrics:
        chance = np.clip(scores, _EPSILON, 1 - _EPSILON)
        rows["sum_log_loss"] = -(labels * np.log(chance) + (1 - labels) * np.log(1 - chance))
    table = rows.groupby("user", as_index=False).sum()
    table["user"] = dataset.id2token(dataset.uid_field, table["user"].to_numpy())
    return table
