"""Names for the personas of one user: the classes that a persona's part of the history has more of than the rest.

Monroe, Colaresi and Quinn, "Fightin' Words", Political Analysis 2008, equations 15-22: the log-odds of a class in one
part of the history against the other, with a Dirichlet prior that is the whole history, over their standard deviation.
"""

from itertools import combinations

import numpy as np

MIN_Z = (
    1.96  # a class names a persona from so many standard deviations on; docs/explain.md measures what chance would name
)


def persona_names(weights, classes, titles) -> list[str]:
    """One name for each persona of a user; no two are equal.

    Args:
        weights: (H, K), weight of persona k for each of the H history items; the largest has the item.
        classes: H tuples of class names.
        titles: H texts to fall back on.

    Returns:
        K names: one or two over-represented classes (``"Drama & War"``), else ``"like <title>"`` of the persona's item
        with the largest weight, else ``"rarely used (k)"``.
    """
    weights = np.asarray(weights, dtype=np.float64)
    parts = history_parts(weights)
    known = sorted({name for row in classes for name in row})
    has = np.array([[name in row for name in known] for row in classes], dtype=np.float64)
    z = class_scores(parts, has.reshape(len(classes), len(known)))
    names = [""] * weights.shape[1]
    for k in np.argsort(-parts.sum(axis=0), kind="stable"):  # the personas that say more of the user choose first
        fitting = [known[c] for c in np.argsort(-z[k], kind="stable") if z[k, c] >= MIN_Z]
        own = [titles[row] for row in np.argsort(-weights[:, k], kind="stable") if parts[row, k]]
        names[k] = next(name for name in _candidates(k, fitting, own) if not _taken(name, names))
    return names


def history_parts(weights) -> np.ndarray:
    """(H, K), 1 where the persona has the largest weight for the history item."""
    parts = np.zeros_like(weights)
    parts[np.arange(len(weights)), weights.argmax(axis=1)] = 1
    return parts


def class_scores(parts, has) -> np.ndarray:
    """Over-representation of every class in every part of a history.

    Args:
        parts: (H, K) 1 where an item belongs to a part.
        has: (H, C) 1 where an item is of a class.

    Returns:
        (K, C) z-scores; positive where a part has more of a class than the rest of the history has.
    """
    inside = parts.T @ has  # (K, C)
    total = has.sum(axis=0)
    outside = total - inside
    prior = has.shape[1] * total / max(total.sum(), 1.0)  # one item a class on average

    def log_odds(counts):
        counts = counts + prior
        return np.log(counts) - np.log(counts.sum(axis=1, keepdims=True) - counts + 1e-9)

    variance = 1 / (inside + prior) + 1 / (outside + prior)
    return (log_odds(inside) - log_odds(outside)) / np.sqrt(variance)


def _candidates(k, classes, titles):
    """Names for persona k, best first; the last one nobody else has."""
    yield from (" & ".join(pair) for pair in combinations(classes, 2))
    yield from classes
    yield from (f"like {title}" for title in titles)
    yield f"rarely used ({k})"


def _taken(name, names) -> bool:
    return any(set(name.split(" & ")) == set(other.split(" & ")) for other in names)
