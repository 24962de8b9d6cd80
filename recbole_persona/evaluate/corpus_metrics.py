"""Metrics that are no means over users: from the per-user tables of runs to the counts that each is computed from."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import entr

from recbole_persona.data.words import words
from recbole_persona.errors import UserError
from recbole_persona.evaluate.bleu import COUNTS, bleu, ngrams


def corpus_counts(ours, baseline, metric, n_items=None):
    """What :func:`~recbole_persona.evaluate.significance.paired_bootstrap` needs for a corpus metric of per-user tables.

    Args:
        ours, baseline: lists of per-user tables, one per seed; the metric is averaged over seeds.
        metric: ``mae``, ``rmse``, ``logloss``, ``gauc``, ``itemcoverage@k``, ``shannonentropy@k``, ``giniindex@k``, or one of
            the text metrics that are no mean: BLEU, ``hallucinated``, ``usr``, ``distinct-n``, ``fcr``, ``div``.
        n_items: items of the data set with RecBole's padding item (``dataset.item_num``), for the metrics of items.

    Returns:
        ``(counts of ours, counts of the baseline, statistic)``.

    Raises:
        UserError: an unknown metric, a table without its columns, or tables of different users.
    """
    name, _, k = metric.partition("@")
    if name not in CORPUS:
        raise UserError(f"{metric} is no corpus metric; those are {', '.join(CORPUS)}.")
    columns = CORPUS[name][0]
    for table in (*ours, *baseline):
        if lacking := [column for column in columns if column not in table]:
            raise UserError(
                f"{metric} needs the column {lacking[0]} in the per-user tables; measure {name} in the run."
            )
    if name in SHOWN:
        cut = slice(int(k)) if k else slice(None)
        shown = [[_shown(table, columns[0], SHOWN[name], cut) for table in tables] for tables in (ours, baseline)]
        users = shown[0][0].index.unique()
        items = pd.Index(pd.concat([*shown[0], *shown[1]]).dropna().unique())
        counts = [sp.hstack([_matrix(each, users, items) for each in system], format="csr") for system in shown]
    else:
        users = pd.Index(ours[0]["user"].unique())
        counts = [pd.concat([_sums(table, columns, users) for table in tables], axis=1) for tables in (ours, baseline)]
    return *counts, statistic_of(metric, ours, counts[0].shape[1], n_items)


def statistic_of(metric, tables, width, n_items) -> Callable:
    """Sums (..., width) over users, of one system with these tables -> the metric (...), averaged over its seeds."""
    name, _, _ = metric.partition("@")
    value, width = CORPUS[name][1], width // len(tables)
    n_items = tables[0]["n_features"].max() if name == "fcr" else n_items
    return lambda sums: value(sums.reshape(*sums.shape[:-1], -1, width), n_items).mean(-1)  # (..., seeds, width)


def _sums(table, columns, users) -> pd.DataFrame:
    """The columns summed by user; GAUC is no sum, but its product with its weight is."""
    check_users(users, pd.Index(table["user"].unique()))
    if "gauc" in columns:
        weight = table["gauc_weight"].where(table["gauc"].notna(), 0.0)
        table = table.assign(gauc=table["gauc"].fillna(0.0) * weight, gauc_weight=weight)
    return table.groupby("user", sort=False)[columns].sum()


def _shown(table, column, read, cut) -> pd.Series:
    """What every user is shown, such as the first recommended items, one to a row, by user; NaN for one who is shown nothing.

    Args:
        column: of JSON.
        read: its value -> list of str, of which ``cut`` takes some.
    """
    cells = table.set_index("user")[column].dropna()  # a row of texts beside rows of lists has no list
    return cells.map(lambda cell: read(json.loads(cell))[cut]).explode()


def _matrix(shown, users, items) -> sp.csr_array:
    """How often (n_users, n_items) every item is shown to every user."""
    check_users(users, shown.index.unique())
    shown = shown.dropna()
    place = users.get_indexer(shown.index), items.get_indexer(shown)
    return sp.coo_array((np.ones(len(shown)), place), shape=(len(users), len(items))).tocsr()


def _coverage(sums, n_items):
    return (sums > 0).sum(-1) / n_items


def _shannon_entropy(sums, n_items):
    return entr(sums / sums.sum(-1, keepdims=True)).sum(-1) / (sums > 0).sum(-1)  # as RecBole divides it


def _gini(sums, n_items):
    places = np.arange(n_items - sums.shape[-1] + 1, n_items + 1)  # items that nobody is shown come first, and add 0
    return ((2 * places - n_items - 1) * np.sort(sums, axis=-1)).sum(-1) / sums.sum(-1) / n_items


def _quotient(sums, n_items):
    return sums[..., 0] / sums[..., 1]


def _root(sums, n_items):
    return np.sqrt(_quotient(sums, n_items))


def _distinct(sums, n_items):
    return (sums > 0).sum(-1) / sums.sum(-1)


def _pairs_in_common(sums, n_items):
    n = sums.max(-1)  # every text counts once under the name "", and under a feature at most once
    return ((sums * (sums - 1)).sum(-1) - n * (n - 1)) / (n * (n - 1))


def _bleu(order, smoothed):
    return lambda sums, n_items: bleu(sums, order, smoothed)


# What is counted of a JSON cell: items, whole texts, n-grams of words, features.
SHOWN = {
    **dict.fromkeys(("itemcoverage", "shannonentropy", "giniindex", "fcr"), list),
    "usr": lambda text: [" ".join(text.split())],
    "distinct-1": words,
    "distinct-2": lambda text: [" ".join(pair) for pair in ngrams(words(text), 2)],
    "div": lambda names: ["", *names],
}
# Columns of the per-user table, and the metric from their sums (..., columns or items) and the number of items.
CORPUS = {
    "mae": (["sum_absolute_error", "cases"], _quotient),
    "rmse": (["sum_squared_error", "cases"], _root),
    "logloss": (["sum_log_loss", "cases"], _quotient),
    "gauc": (["gauc", "gauc_weight"], _quotient),
    **{
        f"{kind}-{n}": ([f"{kind}_{name}" for name in COUNTS], _bleu(n, kind == "bleu"))
        for kind in ("bleu", "peter-bleu")
        for n in (1, 2, 3, 4)
    },
    "hallucinated": (["features_hallucinated", "features_named"], _quotient),
    **dict.fromkeys(("usr", "distinct-1", "distinct-2"), (["generated"], _distinct)),
    "fcr": (["named", "n_features"], _coverage),
    "div": (["named"], _pairs_in_common),
    "itemcoverage": (["items"], _coverage),
    "shannonentropy": (["items"], _shannon_entropy),
    "giniindex": (["items"], _gini),
}


def check_users(ours: pd.Index, baseline: pd.Index) -> None:
    """Raise UserError unless both hold the same users, in any order."""
    if ours.equals(baseline):
        return
    absent, added = len(ours.difference(baseline)), len(baseline.difference(ours))
    if absent or added:
        raise UserError(
            f"Not the same users: {absent} of ours are missing from the baseline and {added} of the baseline's from "
            "ours; compare runs of one split."
        )
