"""Which settings a search ends with: the mean validation score of several seeds, and the one-standard-error rule.

One seed is a noisy judge: the best of many trials is in part the luckiest. The best trials of a search (its finalists) are
trained with further seeds, and of those whose mean is within one standard error of the best mean the simplest is taken
(Breiman et al., Classification and Regression Trees, 1984, section 3.4.3).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from recbole_persona.errors import UserError
from recbole_persona.search.space import Parameter, Space, is_number

_END = 0.02  # of a range: a value so near one of its ends stands at it


@dataclass(frozen=True)
class Rerun(Space):
    """The grid of finalists and further seeds, which trials go through like any other space.

    Attributes:
        settings: of the finalists, the best first.
    """

    settings: tuple[dict, ...] = ()

    def suggest(self, trial) -> dict:
        """The settings of one finalist, and one of the seeds."""
        chosen = super().suggest(trial)
        return {**self.settings[chosen["finalist"]], "seed": chosen["seed"]}

    def plain(self) -> dict:
        return {**super().plain(), "settings": list(self.settings)}


@dataclass(frozen=True)
class Finalist:
    """A trial of the search that was trained with further seeds.

    Attributes:
        number: of the trial.
        settings: that it suggested.
        parameters: number of the model's parameters.
        scores: validation score by seed; the search's own seed included.
    """

    number: int
    settings: dict
    parameters: int
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values())))


def checked(seeds, finalists: int | None, own: int, objectives) -> list[int]:
    """The further seeds as a list, empty for none; UserError when they, or the number of finalists, cannot be."""
    seeds = list(seeds or [])
    if not seeds:
        return []
    if len(objectives) > 1:
        raise UserError("select_seeds chooses by one objective; leave it out of a search with several.")
    if not all(type(seed) is int for seed in seeds) or len({own, *seeds}) <= len(seeds):
        raise UserError(f"select_seeds must be whole numbers, each once and none of them the search's own seed {own}.")
    if finalists is not None and (type(finalists) is not int or finalists < 2):
        raise UserError(f"finalists must be a whole number of at least 2, or none for all; it is {finalists!r}.")
    return seeds


def rerun_search(search, trials: list[FrozenTrial], seeds: list[int], number: int | None):
    """The search that trains the finalists with further seeds, in a study of its own.

    Args:
        search: the one whose trials have finished.
        trials: its finished trials.
        seeds: further seeds.
        number: of finalists; None for every complete trial.

    Returns:
        ``(search, finalists)``: the :class:`~recbole_persona.search.study.Search`, and the trials by rank.
    """
    complete = [
        trial for trial in trials if trial.state == TrialState.COMPLETE and not trial.user_attrs.get("given_up")
    ]
    sign = -1 if search.objectives[0].direction == "maximize" else 1
    complete.sort(key=lambda trial: (sign * trial.value, trial.number))
    finalists = complete[:number]
    axes = {"finalist": range(len(finalists)), "seed": seeds}
    space = Rerun(
        {
            name: Parameter(name, CategoricalDistribution(list(axis)), {v: v for v in axis})
            for name, axis in axes.items()
        },
        tuple(search.space.decode(trial.params) for trial in finalists),
    )
    rerun = replace(
        search,
        space=space,
        sampler="grid",
        pruner="none",
        trials=len(finalists) * len(seeds),
        study_name=f"{search.study_name}-finalists-{space.hash[:8]}",
        study_dir=search.study_dir / "finalists",
    )
    return rerun, finalists


def scored(search, finalists: list[FrozenTrial], rerun, reruns: list[FrozenTrial]) -> list[Finalist]:
    """The finalists with their scores by seed; those that failed with one of the seeds are left out.

    Args:
        search: the one that the finalists are trials of.
        finalists: its trials, by rank.
        rerun, reruns: the search of :func:`rerun_search`, and its finished trials.

    Raises:
        UserError: every finalist failed with one of the seeds.
    """
    scores = [{search.config["seed"]: trial.value} for trial in finalists]
    failed = set()
    order = list(rerun.space.parameters["seed"].choices)
    for trial in sorted(reruns, key=lambda trial: order.index(trial.params["seed"])):
        place = trial.params["finalist"]
        if trial.state == TrialState.COMPLETE:
            scores[place][trial.params["seed"]] = trial.value
        else:
            failed.add(place)
    found = [
        Finalist(trial.number, search.space.decode(trial.params), trial.user_attrs["parameters"], scores[place])
        for place, trial in enumerate(finalists)
        if place not in failed
    ]
    if not found:
        raise UserError("Every finalist failed with one of the further seeds; there is nothing to choose from.")
    return found


def standard_error(finalists: list[Finalist]) -> float:
    """Of a finalist's mean over its seeds; the variance over seeds is pooled over the finalists, since seeds are few."""
    variances = [np.var(list(each.scores.values()), ddof=1) for each in finalists]
    return math.sqrt(np.mean(variances) / len(finalists[0].scores))


def choose(finalists: list[Finalist], space: Space, direction: str) -> Finalist:
    """The simplest finalist whose mean is within one standard error of the best mean.

    Simpler is: fewer parameters; among equals, the values that the space calls ``simpler``, one parameter after
    the other; among equals, the better mean.
    """
    sign = 1 if direction == "maximize" else -1
    best = max(sign * each.mean for each in finalists)
    near = [each for each in finalists if sign * each.mean >= best - standard_error(finalists)]

    def complexity(each):
        values = [
            each.settings[name] * (1 if parameter.simpler == "smaller" else -1)
            for name, parameter in space.parameters.items()
            if parameter.simpler and name in each.settings
        ]
        return each.parameters, *values, -sign * each.mean

    # a parameter that is not active in all of them cannot order them
    same_names = len({tuple(sorted(each.settings)) for each in near}) == 1
    return min(near, key=complexity if same_names else lambda each: (each.parameters, -sign * each.mean))


def told(finalists: list[Finalist], chosen: Finalist) -> dict:
    """What ``study.json`` and a board's page say of the choice."""
    return {
        "seeds": list(chosen.scores),
        "standard_error": standard_error(finalists),
        "chosen": chosen.number,
        "finalists": [
            {"number": each.number, "params": each.settings, "parameters": each.parameters, "mean": each.mean}
            | {"scores": list(each.scores.values())}
            for each in finalists
        ],
    }


def edges(space: Space, settings: dict) -> dict[str, str]:
    """The parameters whose value stands at an end of its ordered range, and at which: ``lower`` or ``upper``.

    Choices are ordered when they are three or more numbers. A lower end of 0 is none: there is nothing below it.
    """
    found = {}
    for name, value in settings.items():
        parameter = space.parameters[name]
        known, scale, margin = parameter.distribution, float, 0.0
        if parameter.choices is not None:
            values = list(parameter.choices.values())
            if len(values) < 3 or not all(map(is_number, values)):
                continue
            low, high = min(values), max(values)
        else:
            low, high = known.low, known.high
            scale = math.log if known.log else float
            margin = 0.0 if known.step else _END * (scale(high) - scale(low))
        if scale(value) >= scale(high) - margin:
            found[name] = "upper"
        elif low != 0 and scale(value) <= scale(low) + margin:
            found[name] = "lower"
    return found
