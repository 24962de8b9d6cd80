"""Is a difference of two means more than chance, when users and the random seeds of training both vary?

The variance of a difference is its variance over users divided by their number, plus for each system the variance over
seeds divided by the number of seeds. Student's t has Satterthwaite's degrees of freedom. ``docs/significance.md``
gives the reasons and a simulation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Component:
    """One term of the variance of a difference, and the degrees of freedom of its estimate."""

    variance: float
    df: float


def t_test(difference, components: Sequence[Component], level: float = 0.95) -> tuple:
    """Interval and two-sided p of a difference whose variance is the sum of ``components``.

    A component with few degrees of freedom counts (1 + 2 / df) times towards the degrees of freedom of the sum:
    Satterthwaite's plain formula trusts a seed variance that came out small by chance, and rejects too often with
    two seeds.

    Args:
        difference, components: numbers, or arrays of one shape that are tested element by element.

    Returns:
        ``(low, high, p, df)``. Without any variance the interval is a point, and ``p`` is 1 for no difference, else 0.
    """
    variance = sum(one.variance for one in components)
    weights = [(one.variance * (1 + 2 / one.df), one.df) for one in components]
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.divide(sum(weight for weight, _ in weights) ** 2, sum(weight**2 / each for weight, each in weights))
        df = np.where(np.isnan(df), np.inf, df)
        error = np.sqrt(variance)
        t = np.where(np.equal(difference, 0), 0.0, np.abs(np.divide(difference, error)))
    half = stats.t.ppf((1 + level) / 2, df) * error
    found = difference - half, difference + half, 2 * stats.t.sf(t, df), df
    return tuple(float(one) if np.ndim(one) == 0 else one for one in found)
