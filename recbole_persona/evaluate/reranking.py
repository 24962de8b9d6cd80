"""Candidates in another order: diverse (MMR), calibrated to the user's tastes (Steck), with places for every persona in
proportion, or as another model sees them. Plain arrays, no model.

All but the last walk down the list and take at every place the candidate that adds most, for all users at once. Their candidates
come in the model's order; of equally good ones the model's better one is taken. A score of -inf is no candidate: it is
taken only when nothing else is left.
"""

import numpy as np

_BEHIND = -1e9  # added to what is no candidate
_TINY = 1e-300  # keeps the logarithm finite where the user has no taste, so that it counts 0 times


def mmr(scores, vectors, weight, k) -> np.ndarray:
    """Maximal marginal relevance: ``(1 - weight) relevance - weight (largest cosine to what is chosen)``.

    Carbonell and Goldstein, SIGIR 1998. Relevance is the score, scaled per user such that the candidates lie in [0, 1].

    Args:
        scores: (B, N), falling.
        vectors: (B, N, d), of length one, or zero for items of which nothing is known.
        weight: 0 is the model's order, 1 looks at diversity alone.
        k: places to fill.

    Returns:
        (B, k), which candidate stands at which place.
    """
    users = np.arange(len(scores))
    gain, order = (1 - weight) * _relevance(scores), np.empty((len(scores), k), dtype=np.int64)
    barred = _barred(scores)
    closest = np.zeros(scores.shape)
    for place in range(k):
        order[:, place] = best = (gain - weight * closest + barred).argmax(1)
        barred[users, best] = -np.inf
        alike = (vectors @ vectors[users, best][:, :, None])[:, :, 0]  # (B, N)
        closest = np.maximum(closest, alike) if place else alike
    return order


def calibrated(scores, tastes, target, weight, k, alpha=0.01) -> np.ndarray:
    """Calibrated recommendations: ``(1 - weight) (sum of relevance) - weight KL(p || (1 - alpha) q + alpha p)``.

    p are the user's tastes, q those of the list so far. Steck, "Calibrated recommendations", RecSys 2018, with the greedy
    search that the paper uses. Relevance is scaled as for :func:`mmr`.

    Args:
        scores: (B, N), falling.
        tastes: (B, N, C), rows sum to one.
        target: (B, C), p; a row of zeros (nothing is known of the user) leaves the model's order.
        weight: 0 is the model's order, 1 looks at calibration alone.
        k: places to fill.
        alpha: share of p in the list's distribution, which keeps the divergence finite.

    Returns:
        (B, k), which candidate stands at which place.
    """
    users = np.arange(len(scores))
    gain, order = (1 - weight) * _relevance(scores), np.empty((len(scores), k), dtype=np.int64)
    barred = _barred(scores)
    goal = target[:, None]  # (B, 1, C)
    chosen = np.zeros(goal.shape)  # (B, 1, C), sum of the tastes so far
    for place in range(k):
        shown = (1 - alpha) * (chosen + tastes) / (place + 1) + alpha * goal  # (B, N, C)
        # What is the same for all candidates changes nothing: the relevance of those chosen, and sum p log p.
        fit = (np.log(np.maximum(shown, _TINY)) @ target[:, :, None])[:, :, 0]  # (B, N)
        order[:, place] = best = (gain + weight * fit + barred).argmax(1)
        barred[users, best] = -np.inf
        chosen += tastes[users, best][:, None]
    return order


def proportional(scores, weights, shares, weight, k) -> np.ndarray:
    """Every persona gets places in proportion to its share of the user.

    At place n the candidate is taken with the largest ``(1 - weight) y + weight sum_k a_k log((n s_k + 1/2) / (m_k + 1/2))``:
    y is its score, a log-probability but for a constant of the user's, and is not scaled; s_k is the share of persona k,
    n s_k its claim, m_k what it has of the places so far. Ours; a soft form of Sainte-Laguë's method of largest averages.

    Args:
        scores: (B, N), falling.
        weights: (B, N, K), a: the personas' weights in each candidate, rows sum to one.
        shares: (B, K), s; a row of zeros leaves the model's order.
        weight: 0 is the model's order, 1 looks at the claims alone.
        k: places to fill.

    Returns:
        (B, k), which candidate stands at which place.
    """
    users = np.arange(len(scores))
    known = shares.any(1, keepdims=True)  # (B, 1)
    gain, order = (1 - weight) * np.where(np.isfinite(scores), scores, 0.0), np.empty((len(scores), k), dtype=np.int64)
    barred = _barred(scores)
    held = np.zeros(shares.shape)  # (B, K)
    for place in range(1, k + 1):
        claim = known * np.log((place * shares + 0.5) / (held + 0.5))  # (B, K)
        order[:, place - 1] = best = (gain + weight * (weights @ claim[:, :, None])[:, :, 0] + barred).argmax(1)
        barred[users, best] = -np.inf
        held += weights[users, best]
    return order


def blended(scores, others, weight, k) -> np.ndarray:
    """As another model sees them: the ``k`` candidates with the largest ``(1 - weight) relevance + weight (its relevance)``.

    Both are scaled as for :func:`mmr`.

    Args:
        scores: (B, N), falling.
        others: (B, N), the other model's scores; -inf counts as its lowest.
        weight: 0 is the first model's order, 1 the other's.
        k: places to fill.

    Returns:
        (B, k), which candidate stands at which place.
    """
    gain = (1 - weight) * _relevance(scores) + weight * _relevance(others) + _barred(scores)
    return (-gain).argsort(axis=1, kind="stable")[:, :k]


def _relevance(scores) -> np.ndarray:
    """Scores scaled such that the candidates of every user lie in [0, 1]; 0 where all are alike, or no candidates."""
    scores = scores.astype(float)
    known = np.isfinite(scores)
    low = np.min(scores, axis=1, keepdims=True, where=known, initial=np.inf)
    high = np.max(scores, axis=1, keepdims=True, where=known, initial=-np.inf)
    spread = np.where(high > low, high - low, 1.0)
    return np.divide(scores - low, spread, out=np.zeros_like(scores), where=known)


def _barred(scores) -> np.ndarray:
    return np.where(np.isfinite(scores), 0.0, _BEHIND)
