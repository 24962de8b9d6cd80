"""Is a difference between two systems more than chance? Paired tests over users, always two-sided.

Metrics that are means over users go through :func:`compare`, all others (RMSE, GAUC, ItemCoverage, …) through
:func:`paired_bootstrap`, which needs for every user the counts that the metric is computed from. ``docs/significance.md``
says what the numbers mean.
"""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats
from scipy.special import entr

from recbole_persona.data.words import words
from recbole_persona.errors import UserError
from recbole_persona.evaluate.bleu import COUNTS, bleu, ngrams

_CELLS = 2**21  # numbers held at once: what bounds the memory
_ROUNDING = 1e-12  # differences below this are rounding, of averages over seeds for instance


@dataclass(frozen=True)
class Comparison:
    """Ours against a baseline.

    Attributes:
        n: users compared.
        difference: ours minus the baseline's.
        low, high: bounds of the confidence interval of the difference.
        p: two-sided, not corrected for other comparisons (see :func:`holm`).
        effect: Cohen's d_z: the difference in standard deviations of the users' differences.
        test: how ``p`` was found.
        se: standard error of the difference over users.
    """

    n: int
    difference: float
    low: float
    high: float
    p: float
    effect: float
    test: str
    se: float = np.nan


def compare(ours, baseline, test="permutation", n_resamples=9999, level=0.95, seed=0) -> Comparison:
    """Compare the means of a metric that has a value per user.

    Args:
        ours, baseline: values by user: Series indexed by user, or arrays in the same order. Users with a NaN in either
            are left out.
        test: ``permutation`` (signs of the differences flipped at random, all ways when ``n_resamples`` allows),
            ``wilcoxon`` (signed ranks) or ``t``.
        n_resamples: of the permutation test, and of the bootstrap behind the interval.
        level: of the interval: percentiles of the mean difference of resampled users.
        seed: of both resamplings.

    Returns:
        A :class:`Comparison`; with fewer than two users, what is not defined is NaN.

    Raises:
        UserError: not the same users, or an unknown test.
    """
    if test not in TESTS:
        raise UserError(f"The test is one of {', '.join(TESTS)}, not {test!r}.")
    _check_level(level)
    ours, baseline = _paired(pd.Series(ours, dtype=float), pd.Series(baseline, dtype=float))
    differences = (ours - baseline).dropna().to_numpy(copy=True)
    differences[np.abs(differences) < _ROUNDING] = 0.0  # the signed ranks would count it in full
    n = len(differences)
    if n < 2:
        return Comparison(n, float(differences.mean()) if n else np.nan, np.nan, np.nan, np.nan, np.nan, test)
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    resampled = np.concatenate(list(_resampled_sums(differences[:, None], n_resamples, seed)))[:, 0] / n
    low, high = _interval(resampled, mean, level)
    p = TESTS[test](differences, n_resamples, seed) if differences.any() else 1.0
    return Comparison(n, mean, low, high, float(p), _effect(mean, spread), test, spread / np.sqrt(n))


def _permutation(differences, n_resamples, seed):
    """p-value of random signs, as ``scipy.stats.permutation_test(permutation_type="samples")`` finds it; that takes
    some 300 times as long for 100,000 users, where the sums of many flips at once are a matrix product.
    """
    n = len(differences)
    observed = abs(differences.sum()) * (1 - _ROUNDING)  # sums that are equal but for rounding are as extreme
    exact = 2**n <= n_resamples
    total = 2**n if exact else n_resamples
    rng = np.random.default_rng(seed)
    step, extreme = max(8, _CELLS // n), 0
    for start in range(0, total, step):
        size = min(step, total - start)
        if exact:
            kept = np.arange(start, start + size)[:, None] >> np.arange(n) & 1  # (r, n), which keep their sign
        else:
            bits = rng.integers(256, size=(size, -(-n // 8)), dtype=np.uint8)
            kept = np.unpackbits(bits, axis=1, count=n)  # (r, n)
        sums = 2 * (kept @ differences) - differences.sum()
        extreme += int((np.abs(sums) >= observed).sum())
    return extreme / total if exact else (extreme + 1) / (total + 1)


def _wilcoxon(differences, n_resamples, seed):
    return stats.wilcoxon(differences).pvalue


def _t(differences, n_resamples, seed):
    n = len(differences)
    t = np.sqrt(n) * _effect(differences.mean(), differences.std(ddof=1))
    return 2 * stats.t.sf(abs(t), n - 1)


TESTS = {"permutation": _permutation, "wilcoxon": _wilcoxon, "t": _t}


def average_seeds(tables, metric) -> pd.Series:
    """The mean over seeds of a metric, user by user: a Series, NaN where a seed has no value.

    Args, Raises: as :func:`values_by_user`.
    """
    return values_by_user(tables, metric).mean(axis=1, skipna=False).rename(metric)


def values_by_user(tables, metric) -> pd.DataFrame:
    """The values of a metric, user by user and seed by seed.

    Args:
        tables: per-user tables of runs that differ in their seed; rows of one user (sequential tests) are averaged.
        metric: a column, such as ``ndcg@10``.

    Returns:
        DataFrame (users, tables) indexed by user, NaN where a value is not defined.

    Raises:
        UserError: the metric is no column of a table, or the tables hold different users.
    """
    seeds = []
    for table in tables:
        if metric not in table or metric in ("user", "item", "items"):
            names = ", ".join(name for name in table if name not in ("user", "item", "items"))
            raise UserError(f"The per-user table has no values of {metric}; it has {names or 'none'}.")
        seeds.append(table.groupby("user", sort=False)[metric].mean())
        check_users(seeds[0].index, seeds[-1].index)
    return pd.concat(seeds, axis=1, keys=range(len(seeds)))


def holm(p_values) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down method, in the order given; NaN stays and is not counted.

    Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    given = np.flatnonzero(~np.isnan(p_values))
    order = given[np.argsort(p_values[given], kind="stable")]
    factors = np.arange(len(order), 0, -1)  # the smallest is multiplied by their number, the next by one less, …
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted


def paired_bootstrap(ours, baseline, statistic, n_resamples=9999, level=0.95, seed=0) -> Comparison:
    """Compare two systems by a metric that is a function of sums over users.

    Both systems are measured on the same resampled users. A resample repeats users, so that it shows fewer distinct
    items, for instance; that is taken out: the resampled differences are moved to have the observed one as their mean.

    Args:
        ours, baseline: counts (n_users, n_counts): DataFrames indexed by user, or arrays or scipy sparse matrices with
            the users in the same order. Users with a NaN in either are left out (not looked for in sparse matrices).
        statistic: sums (..., n_counts) -> values (...).
        n_resamples, level, seed: of the bootstrap.

    Returns:
        A :class:`Comparison`. ``p`` is twice the share of resampled differences on the other side of 0; ``effect`` is the
        difference over its standard error and the root of the number of users, which is d_z for a mean.

    Raises:
        UserError: not the same users.
    """
    _check_level(level)
    sparse = sp.issparse(ours)
    if not sparse:
        ours, baseline = _paired(pd.DataFrame(ours), pd.DataFrame(baseline))
        whole = (ours.notna().all(axis=1) & baseline.notna().all(axis=1)).to_numpy()
        ours, baseline = (frame.to_numpy(dtype=float)[whole] for frame in (ours, baseline))
    elif ours.shape[0] != baseline.shape[0]:
        raise UserError(f"The two matrices hold {ours.shape[0]} and {baseline.shape[0]} users; compare the same users.")
    n, width = ours.shape
    if n < 2:
        return Comparison(n, *[np.nan] * 5, "bootstrap")

    def difference(sums):  # (..., counts of ours and of the baseline)
        return statistic(sums[..., :width]) - statistic(sums[..., width:])

    both = sp.hstack([ours, baseline], format="csr") if sparse else np.hstack([ours, baseline])
    observed = float(difference(np.asarray(both.sum(0)).ravel()))
    resampled = np.concatenate([difference(sums) for sums in _resampled_sums(both, n_resamples, seed)])
    low, high = _interval(resampled, observed, level)
    centred = resampled - resampled.mean() + observed
    smaller = min((centred <= 0).sum(), (centred >= 0).sum())
    p = min(1.0, 2 * (1 + smaller) / (1 + n_resamples))
    error = float(resampled.std())
    effect = _effect(observed, error * np.sqrt(n))
    return Comparison(n, observed, low, high, float(p), effect, "bootstrap", error)


def corpus_counts(ours, baseline, metric, n_items=None):
    """What :func:`paired_bootstrap` needs for a corpus metric of per-user tables.

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
    columns, value = CORPUS[name]
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
        n_items = ours[0]["n_features"].max() if name == "fcr" else n_items
        width = len(items)
        counts = [sp.hstack([_matrix(each, users, items) for each in system], format="csr") for system in shown]
    else:
        width = len(columns)
        users = pd.Index(ours[0]["user"].unique())
        counts = [pd.concat([_sums(table, columns, users) for table in tables], axis=1) for tables in (ours, baseline)]

    def statistic(sums):
        return value(sums.reshape(*sums.shape[:-1], -1, width), n_items).mean(-1)  # (..., seeds, width)

    return *counts, statistic


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


def _paired(ours, baseline):
    """Both sorted by user, so that the order of rows does not matter; UserError unless they hold the same users once."""
    for values in (ours, baseline):
        if not values.index.is_unique:
            raise UserError("A user stands in several rows; average them first, with average_seeds.")
    check_users(ours.index, baseline.index)
    return ours.sort_index(), baseline.sort_index()


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


def _check_level(level):
    if not 0 < level < 1:
        raise UserError(f"The level of the interval lies between 0 and 1, such as 0.95, and is not {level!r}.")


def _resampled_sums(counts, n_resamples, seed):
    """Sums of ``counts`` (n, c) over n users drawn with replacement, again and again: batches (r, c)."""
    n, width = counts.shape
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // max(n, width))
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]  # (r, n)
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)  # (r, n), how often each is drawn
        yield weights @ counts


def _interval(resampled, difference, level):
    """Percentiles of the resampled differences, moved to have the observed one as their mean."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]) - resampled.mean() + difference
    return float(low), float(high)


def _effect(mean, spread) -> float:
    if mean == 0:
        return 0.0
    return float(mean / spread) if spread > 0 else float(np.copysign(np.inf, mean))
