"""Is a difference between two systems more than chance? Paired tests over users, always two-sided.

Metrics that are means over users go through :func:`compare`, all others (RMSE, GAUC, ItemCoverage, …) through
:func:`paired_bootstrap`, which needs for every user the counts that the metric is computed from. ``docs/significance.md``
says what the numbers mean.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from recbole_persona.errors import UserError
from recbole_persona.evaluate.corpus_metrics import CORPUS, SHOWN, check_users, corpus_counts, statistic_of

_CELLS = 2**21  # numbers held at once: what bounds the memory
_DRAWN = 2**18  # the same for what is drawn and counted, which takes half as long in the cache
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
    return _bootstrapped([_of_means(ours, baseline, test, n_resamples, level, seed)], n_resamples, seed)[0]


@dataclass(frozen=True)
class _Part:
    """What one metric brings to a bootstrap.

    Attributes:
        counts: (n, c), of users. Metrics that share the object share its sums.
        difference: sums (..., c) -> differences (...).
        compared: resampled differences (n_resamples,) -> a :class:`Comparison`; nothing is resampled of fewer than 2 users.
    """

    counts: np.ndarray | sp.csr_array
    difference: Callable
    compared: Callable


def _of_means(ours, baseline, test, n_resamples, level, seed) -> _Part:
    """The part of :func:`compare`."""
    if test not in TESTS:
        raise UserError(f"The test is one of {', '.join(TESTS)}, not {test!r}.")
    _check_level(level)
    ours, baseline = _paired(pd.Series(ours, dtype=float), pd.Series(baseline, dtype=float))
    differences = (ours - baseline).dropna().to_numpy(copy=True)
    differences[np.abs(differences) < _ROUNDING] = 0.0  # the signed ranks would count it in full
    n = len(differences)

    def compared(resampled):
        if n < 2:
            return Comparison(n, float(differences.mean()) if n else np.nan, np.nan, np.nan, np.nan, np.nan, test)
        mean, spread = float(differences.mean()), float(differences.std(ddof=1))
        low, high = _interval(resampled, mean, level)
        p = TESTS[test](differences, n_resamples, seed) if differences.any() else 1.0
        return Comparison(n, mean, low, high, float(p), _effect(mean, spread), test, spread / np.sqrt(n))

    return _Part(differences[:, None], lambda sums: sums[..., 0] / n, compared)


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


def average_seeds(tables, metrics) -> pd.Series | pd.DataFrame:
    """The mean over seeds of a metric, user by user: a Series, NaN where a seed has no value. Of several, a DataFrame.

    Args, Raises: as :func:`values_by_user`; ``metrics``: a name, or a list of names.
    """
    seeds = _by_user(tables, metrics)
    total = seeds[0].copy()
    for values in seeds[1:]:
        total += values.reindex(total.index)
    return total / len(seeds)


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
    return pd.concat(_by_user(tables, metric), axis=1, keys=range(len(tables)))


def _by_user(tables, metrics) -> list:
    """Of each table the mean of a column by user, or of several columns."""
    seeds = []
    for table in tables:
        for metric in [metrics] if isinstance(metrics, str) else metrics:
            if metric not in table or metric in ("user", "item", "items"):
                names = ", ".join(name for name in table if name not in ("user", "item", "items"))
                raise UserError(f"The per-user table has no values of {metric}; it has {names or 'none'}.")
        seeds.append(table.groupby("user", sort=False)[metrics].mean())
        check_users(seeds[0].index, seeds[-1].index)
    return seeds


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
    part = _of_corpus(*_side_by_side(ours, baseline), statistic, n_resamples, level)
    return _bootstrapped([part], n_resamples, seed)[0]


def _side_by_side(ours, baseline) -> tuple[np.ndarray | sp.csr_array, int]:
    """The counts of both systems (n, c + c'), of the users who have all; and c, of ours."""
    if sp.issparse(ours):
        if ours.shape[0] != baseline.shape[0]:
            raise UserError(
                f"The two matrices hold {ours.shape[0]} and {baseline.shape[0]} users; compare the same users."
            )
        return sp.hstack([ours, baseline], format="csr"), ours.shape[1]
    ours, baseline = _paired(pd.DataFrame(ours), pd.DataFrame(baseline))
    whole = (ours.notna().all(axis=1) & baseline.notna().all(axis=1)).to_numpy()
    return np.hstack([frame.to_numpy(dtype=float)[whole] for frame in (ours, baseline)]), ours.shape[1]


def _of_corpus(both, width, statistic, n_resamples, level) -> _Part:
    """The part of :func:`paired_bootstrap`. ``both, width``: of :func:`_side_by_side`."""
    _check_level(level)
    n = both.shape[0]

    def difference(sums):  # (..., counts of ours and of the baseline)
        return statistic(sums[..., :width]) - statistic(sums[..., width:])

    def compared(resampled):
        if n < 2:
            return Comparison(n, *[np.nan] * 5, "bootstrap")
        observed = float(difference(np.asarray(both.sum(0)).ravel()))
        low, high = _interval(resampled, observed, level)
        centred = resampled - resampled.mean() + observed
        smaller = min((centred <= 0).sum(), (centred >= 0).sum())
        p = min(1.0, 2 * (1 + smaller) / (1 + n_resamples))
        error = float(resampled.std())
        effect = _effect(observed, error * np.sqrt(n))
        return Comparison(n, observed, low, high, float(p), effect, "bootstrap", error)

    return _Part(both, difference, compared)


def compare_metrics(
    ours, baseline, means, corpus=(), n_items=None, test="permutation", n_resamples=9999, level=0.95, seed=0
) -> dict[str, Comparison]:
    """Two systems by many metrics and one bootstrap: the users of a resample are drawn once for all of them.

    Args:
        ours, baseline: lists of per-user tables, one per seed; a metric is averaged over seeds.
        means: metrics that are means over users, compared as by :func:`compare`.
        corpus: those that are not, compared as by :func:`paired_bootstrap` of their :func:`corpus_counts`.
        n_items, test, n_resamples, level, seed: as for these functions.

    Returns:
        By metric what these functions give, up to rounding: they draw the same users.

    Raises:
        UserError: as these functions.
    """
    parts, means = {}, list(means)
    values = _paired(*(average_seeds(tables, means) for tables in (ours, baseline))) if means else ()
    for metric in means:
        parts[metric] = _of_means(*(frame[metric] for frame in values), test, n_resamples, level, seed)
    counted = {}  # ItemCoverage and the Gini index at one k count the same, for instance
    for metric in corpus:
        name, _, k = metric.partition("@")
        what = tuple(CORPUS[name][0]), SHOWN.get(name), k
        if what not in counted:
            *counts, _ = corpus_counts(ours, baseline, metric, n_items)
            counted[what] = _side_by_side(*counts)
        both, width = counted[what]
        parts[metric] = _of_corpus(both, width, statistic_of(metric, ours, width, n_items), n_resamples, level)
    return dict(zip(parts, _bootstrapped(list(parts.values()), n_resamples, seed)))


def _bootstrapped(parts, n_resamples, seed) -> list[Comparison]:
    """The comparison of every part; of those that have as many users, the same are drawn."""
    resampled = [np.empty(n_resamples) for _ in parts]
    for n in {part.counts.shape[0] for part in parts} - {0, 1}:
        of_n = [number for number, part in enumerate(parts) if part.counts.shape[0] == n]
        counts = {id(parts[number].counts): parts[number].counts for number in of_n}
        dense = {key: each for key, each in counts.items() if not sp.issparse(each)}
        ends = np.cumsum([0, *(each.shape[1] for each in dense.values())])
        together = np.hstack(list(dense.values())) if dense else None
        widest = max(each.shape[1] for each in (*counts.values(), *([together] if dense else ())))
        for rows, weights in _drawn(n, widest, n_resamples, seed):
            sums = {key: weights @ each for key, each in counts.items() if key not in dense}
            if dense:
                of_all = weights @ together
                sums |= {key: of_all[:, left:right] for key, left, right in zip(dense, ends, ends[1:])}
            for number in of_n:
                resampled[number][rows] = parts[number].difference(sums[id(parts[number].counts)])
    return [part.compared(differences) for part, differences in zip(parts, resampled)]


def _paired(ours, baseline):
    """Both sorted by user, so that the order of rows does not matter; UserError unless they hold the same users once."""
    for values in (ours, baseline):
        if not values.index.is_unique:
            raise UserError("A user stands in several rows; average them first, with average_seeds.")
    check_users(ours.index, baseline.index)
    return ours.sort_index(), baseline.sort_index()


def _check_level(level):
    if not 0 < level < 1:
        raise UserError(f"The level of the interval lies between 0 and 1, such as 0.95, and is not {level!r}.")


def _drawn(n, width, n_resamples, seed):
    """How often each of n users is drawn with replacement, again and again: batches of slices and weights (r, n).

    Args:
        width: of the counts to be summed; it bounds r, on which the draws do not depend.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWN // max(n, width))
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        drawn = rng.integers(n, size=(size, n))  # (r, n)
        drawn += n * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        yield slice(start, start + size), weights.astype(float)


def _interval(resampled, difference, level):
    """Percentiles of the resampled differences, moved to have the observed one as their mean."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]) - resampled.mean() + difference
    return float(low), float(high)


def _effect(mean, spread) -> float:
    if mean == 0:
        return 0.0
    return float(mean / spread) if spread > 0 else float(np.copysign(np.inf, mean))
