"""Distances between two distributions over tastes, a row at a time: (m, C) and (m, C) -> (m,), in float64."""

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog
from scipy.special import rel_entr

SMOOTHING = 0.01  # Steck 2018, "Calibrated recommendations": the list is mixed with 1 % of the history
_NOTHING = 1e-12  # mass below this is rounding
_SCALE = 1e7  # HiGHS takes what is below 1e-7 for nothing, so masses are counted in units of this size
_SLACK = 1e-3  # of these units: so much more may leave a taste than it has, since sums differ in their last digits
_BLOCK = 4000  # variables of one linear programme; the time per user is lowest around here


def jensen_shannon(history, shown):
    """Jensen-Shannon distance, base 2: the root of the divergence; a metric in [0, 1]."""
    middle = (history + shown) / 2
    divergence = (rel_entr(history, middle) + rel_entr(shown, middle)).sum(1) / (2 * np.log(2))
    return np.sqrt(np.clip(divergence, 0.0, 1.0))


def hellinger(history, shown):
    """Hellinger distance: ``sqrt(1/2 sum (sqrt p - sqrt q)^2)``; a metric in [0, 1]."""
    return np.sqrt(np.minimum(((np.sqrt(history) - np.sqrt(shown)) ** 2).sum(1) / 2, 1.0))


def total_variation(history, shown):
    """Total variation: half the sum of absolute differences; a metric in [0, 1]."""
    return np.abs(history - shown).sum(1) / 2


def steck_kl(history, shown):
    """Steck's calibration: ``KL(p || .99 q + .01 p)``, natural logarithm; in [0, ln 100], not symmetric."""
    return rel_entr(history, (1 - SMOOTHING) * shown + SMOOTHING * history).sum(1)


def wasserstein(history, shown, centroids):
    """Wasserstein-1 distance; to move mass between two tastes costs the Euclidean distance of their centroids.

    Exact. Since the cost is a metric, mass that both distributions have at a taste stays there; the rest is a small
    transport problem per row, and many of them are solved as one sparse linear programme.

    Args:
        history: (m, C).
        shown: (m, C), with rows of the same sums.
        centroids: (C, d).
    """
    costs = np.linalg.norm(centroids[:, None] - centroids[None], axis=-1)
    common = np.minimum(history, shown)
    surplus, lack = (np.where(rest > _NOTHING, rest, 0.0) for rest in (history - common, shown - common))
    variables = (surplus > 0).sum(1) * (lack > 0).sum(1)
    apart = np.flatnonzero(variables)
    distances = np.zeros(len(history))
    edges = np.flatnonzero(np.diff(np.cumsum(variables[apart]) // _BLOCK)) + 1
    for rows in np.split(apart, edges):
        distances[rows] = _transport(surplus[rows], lack[rows], costs)
    return distances


def _transport(surplus, lack, costs):
    """Cheapest transport of every row of ``surplus`` (m, C) to the row of ``lack`` (m, C): (m,)."""
    row, source, target = np.nonzero((surplus > 0)[:, :, None] & (lack > 0)[:, None, :])
    if not len(row):
        return np.zeros(len(surplus))
    each, ones, cells = np.arange(len(row)), np.ones(len(row)), surplus.size
    leaves = sp.coo_array((ones, (row * len(costs) + source, each)), shape=(cells, len(row))).tocsr()
    arrives = sp.coo_array((ones, (row * len(costs) + target, each)), shape=(cells, len(row))).tocsr()
    gives, takes = np.diff(leaves.indptr) > 0, np.diff(arrives.indptr) > 0
    price = costs[source, target]
    solved = linprog(
        price,
        A_ub=leaves[gives],
        b_ub=surplus.ravel()[gives] * _SCALE + _SLACK,
        A_eq=arrives[takes],
        b_eq=lack.ravel()[takes] * _SCALE,
        method="highs",
    )
    if solved.x is None:
        raise ArithmeticError(f"the transport problem has no solution: {solved.message}")
    return np.bincount(row, weights=solved.x * price / _SCALE, minlength=len(surplus))


DISTANCES = {
    "js": jensen_shannon,
    "hellinger": hellinger,
    "l1": total_variation,
    "kl": steck_kl,
    "wasserstein": wasserstein,
}
