"""The statistics of a board from what its JSON holds, so that old pages and new ones are tested alike.

Of every comparison this needs the difference, its standard error over users and the number of users; of every row the
standard deviation over seeds. Intervals, p and Holm's correction are computed from these and replace those that stand there.
"""

import math

import numpy as np
from scipy import stats

from recbole_persona.evaluate.significance import holm
from recbole_persona.evaluate.variance_components import Component, t_test

# Models of RecBole without a random number: one seed shows all seeds. Its other models without gradients (NCEPLRec,
# SLIMElastic, ADMMSLIM) start from random numbers.
CLOSED_FORM = ("EASE", "ItemKNN", "Pop")
_ZERO = 1e-12


def add_statistics(rows: list[dict]) -> None:
    """Set interval, ``p``, ``p_holm``, ``df`` and ``test`` of all comparisons in ``rows`` (of ``<page>.json``), in place."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = {row["name"]: row for row in rows if row["dataset"] == dataset}
        metrics = dict.fromkeys(metric for row in here.values() for metric in row.get("comparisons", {}))
        for metric in metrics:
            found = [(row, row["comparisons"][metric]) for row in here.values() if metric in row.get("comparisons", {})]
            for row, comparison in found:
                _test(comparison, _seed_components(row, here[comparison["against"]], metric))
            adjusted = holm([math.nan if one["p"] is None else one["p"] for _, one in found])
            for (_, comparison), p_holm in zip(found, adjusted):
                comparison["p_holm"] = None if math.isnan(p_holm) else float(p_holm)
        for row in here.values():
            if best := row.get("best_against_second"):
                _test(best, _seed_components(row, here[best["against"]], best["metric"]))
            _add_intervals(row, here)


def _seed_components(row, base, metric) -> list[Component] | None:
    """The terms of a difference that come from seeds; None where one of the two is a trained model with one seed.

    Every row has its own variance. Pooled over rows it would have more degrees of freedom, but rows of one model with
    other settings differ too much in it: see the simulation in ``docs/significance.md``.
    """
    if paired := _by_seed(row, base, metric):
        return [paired]
    terms = []
    for one in (row, base):
        if deterministic(one):
            continue
        value = one["metrics"].get(metric, {})
        if value.get("std") is None:
            return None
        terms.append(Component(value["std"] ** 2 / value["n"], value["n"] - 1))
    return terms


def deterministic(row) -> bool:
    """Whether another seed gives the same: no metric varied over several seeds, or one seed of a model in closed form."""
    deviations = [value["std"] for value in row["metrics"].values() if value.get("std") is not None]
    if deviations:
        return max(deviations) <= _ZERO
    known = str(row["model"]).removeprefix("recbole:") in CLOSED_FORM
    return known and "by" not in (row.get("rerank") or {})


def _by_seed(row, base, metric) -> Component | None:
    """A re-ranked row beside the row that it re-ranks has the same runs: what varies is the difference seed by seed."""
    if (row.get("rerank") or {}).get("of") != base["name"] or row["seeds"] != base["seeds"]:
        return None
    ours, theirs = (one["metrics"].get(metric, {}).get("values") for one in (row, base))
    if not ours or not theirs or len(ours) != len(theirs) or len(ours) < 2 or None in (*ours, *theirs):
        return None
    differences = np.subtract(ours, theirs)
    return Component(float(differences.var(ddof=1)) / len(differences), len(differences) - 1)


def _test(found, seeds):
    if found["test"] == "unpaired":
        return  # the values of the users are no longer known
    error = users_error(found)
    if found["difference"] is None or error is None or found["n"] < 2:
        found |= {"se": error, "df": None, "p": None, "test": "none"}
        return
    users = Component(error**2, found["n"] - 1)
    low, high, p, df = t_test(found["difference"], [users, *(seeds or [])])
    df = df if math.isfinite(df) else None
    known = (
        {"p": p, "df": df, "test": "users and seeds"} if seeds is not None else {"p": None, "df": df, "test": "none"}
    )
    found |= {"se": error, "low": low, "high": high, **known}


def users_error(found) -> float | None:
    """The standard error of a difference over users, as it is kept; of pages that do not, from d or the bootstrap interval."""
    if found.get("se") is not None:
        return found["se"]
    if found["difference"] and found["effect"]:
        return abs(found["difference"] / found["effect"]) / math.sqrt(found["n"])
    if found["low"] is None or found["high"] is None:
        return None
    return (found["high"] - found["low"]) / 2 / stats.norm.ppf(0.975)


def _add_intervals(row, rows):
    """Intervals of the differences in groups of users; a group varies with the seed as the whole does."""
    for group in (group for groups in row.get("splits", {}).values() for group in groups):
        for metric, cell in group["metrics"].items():
            against = row.get("comparisons", {}).get(metric, {}).get("against")
            if against is None or cell.get("low") is None:
                continue
            df = group["n"] - 1
            if "se" not in cell:
                cell["se"] = (cell["high"] - cell["low"]) / 2 / stats.t.ppf(0.975, df)
            seeds = _seed_components(row, rows[against], metric) or []
            cell["low"], cell["high"], *_ = t_test(cell["difference"], [Component(cell["se"] ** 2, df), *seeds])
