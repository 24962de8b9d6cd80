"""What a search is: its objectives, sampler and pruner by name, and the study that all its processes share."""

import inspect
import itertools
import warnings
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import optuna
from optuna import pruners, samplers
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from recbole.evaluator.register import smaller_metrics

from recbole_persona.config import Config
from recbole_persona.errors import UserError, nearest, one_sentence
from recbole_persona.runs import config_hash
from recbole_persona.search.pruning import GrowthPruner
from recbole_persona.search.space import Space
from recbole_persona.search.storage import Storage, why_failed
from recbole_persona.settings import check_valid_metric

_SAMPLERS = {
    "tpe": (samplers.TPESampler, {"multivariate": True, "constant_liar": True}),
    "random": (samplers.RandomSampler, {}),
    "gp": (samplers.GPSampler, {}),
    "cmaes": (samplers.CmaEsSampler, {"warn_independent_sampling": False}),
    "grid": (samplers.GridSampler, {}),
    "brute": (samplers.BruteForceSampler, {}),
    "qmc": (samplers.QMCSampler, {"scramble": True, "warn_independent_sampling": False}),
    "nsgaii": (samplers.NSGAIISampler, {}),
}
_EXHAUSTIVE = ("grid", "brute")
_PRUNERS = {
    "growth": (GrowthPruner, {}),
    "median": (pruners.MedianPruner, {"n_startup_trials": 5, "n_warmup_steps": 2}),
    "hyperband": (pruners.HyperbandPruner, {}),
    "halving": (pruners.SuccessiveHalvingPruner, {}),
    "percentile": (pruners.PercentilePruner, {"percentile": 25.0, "n_startup_trials": 5, "n_warmup_steps": 2}),
    "none": (pruners.NopPruner, {}),
}
_COSTS = ("parameters", "seconds_per_user")


@dataclass(frozen=True)
class Objective:
    """A value of a trial that is to grow or to shrink.

    Attributes:
        name: a metric of the validation part as RecBole prints it (``ndcg@10``), ``parameters`` or ``seconds_per_user``.
        direction: ``maximize`` or ``minimize``.
    """

    name: str
    direction: str

    @property
    def is_metric(self) -> bool:
        return self.name not in _COSTS


@dataclass(frozen=True)
class Search:
    """All that a worker needs to know.

    Attributes:
        model, dataset, files, settings: as ``run`` takes them; the settings that no trial varies.
        config: the ``Config`` of these.
        space, objectives: what varies, and what it is judged by.
        sampler, pruner: a name, or a mapping with ``name`` and the options of Optuna's class.
        trials: how many are to finish, over all workers.
        study_name: in the storage.
        study_dir: the search's folder.
    """

    model: Any
    dataset: str | None
    files: list
    settings: dict
    config: Config
    space: Space
    objectives: tuple[Objective, ...]
    sampler: Any
    pruner: Any
    trials: int
    study_name: str
    study_dir: Path

    @property
    def reports(self) -> bool:
        """Whether trials report their validation score as they train: Optuna prunes by one objective alone."""
        return len(self.objectives) == 1 and self.objectives[0].is_metric


@dataclass(frozen=True)
class Tally:
    """The trials of a study: those that count, in the order in which they finished, and those under way."""

    finished: list[FrozenTrial]
    running: list[FrozenTrial]

    @property
    def begun(self) -> int:
        return len(self.finished) + len(self.running)


def tally(study) -> Tally:
    """Read the study. A killed trial does not count; the one that tries its settings again does."""
    trials = study.get_trials(deepcopy=False)
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    finished = [trial for trial in trials if trial.state in done or why_failed(trial)]
    finished.sort(key=lambda trial: trial.datetime_complete)
    return Tally(finished, [trial for trial in trials if trial.state == TrialState.RUNNING])


def with_objectives(model, dataset, files, settings, names) -> tuple[dict, Config, tuple[Objective, ...]]:
    """The settings under which every objective is computed, their ``Config``, and the objectives.

    A metric among them is added to ``metrics`` and ``topk``; one that stands alone becomes ``valid_metric``, by which
    training stops early.

    Args:
        names: list of objectives, or None for ``valid_metric``.

    Raises:
        UserError: an objective that is none, or settings that ``Config`` refuses.
    """
    config = Config(model, dataset, files, settings)
    if not names:
        check_valid_metric(config)
    names = [str(name).lower() for name in names or [config["valid_metric"]]]
    if len(set(names)) < len(names):
        raise UserError(f"An objective is named twice in {', '.join(names)}.")
    metrics = [name for name in names if name not in _COSTS]
    needed = {"metrics": _listed(config["metrics"]), "topk": _listed(config["topk"])}
    for name in metrics:
        metric, _, cutoff = name.partition("@")
        if metric not in [str(known).lower() for known in needed["metrics"]]:
            needed["metrics"] = [*needed["metrics"], metric]
        if cutoff.isdigit() and int(cutoff) not in needed["topk"]:
            needed["topk"] = [*needed["topk"], int(cutoff)]
    for name in metrics:
        try:
            check_valid_metric({**needed, "valid_metric": name})
        except UserError:
            raise UserError(
                f"The objective {name!r} is not computed; write a metric as RecBole prints it, such as ndcg@10, "
                f"or {' or '.join(_COSTS)}."
            ) from None
    if needed != {"metrics": _listed(config["metrics"]), "topk": _listed(config["topk"])}:
        settings = {**settings, **needed}
    if names == metrics and len(names) == 1:
        settings = {**settings, "valid_metric": names[0]}
    config = Config(model, dataset, files, settings)
    return settings, config, tuple(Objective(name, _direction(name)) for name in names)


def _listed(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _direction(name) -> str:
    smaller = name in _COSTS or name.partition("@")[0] in smaller_metrics
    return "minimize" if smaller else "maximize"


def make_sampler(given, space, seed: int, begun: int):
    """A sampler for the next trial.

    It is made anew for every trial, seeded by the number of those before it: no two workers repeat each other, and a
    search that was interrupted goes on as it would have.

    Args:
        given: name, or mapping with ``name`` and options.
        space: of the search.
        seed: of the search.
        begun: number of trials that have finished or are running.
    """
    name, options = _named("sampler", given, _SAMPLERS)
    own = seed + begun
    if name == "grid":
        if any(parameter.when for parameter in space.parameters.values()):
            raise UserError("A grid knows no conditions (when); use --sampler=brute, which does.")
        values = {name: _values(parameter) for name, parameter in space.parameters.items()}
        return _made("sampler", name, {"search_space": values, "seed": seed, **options})  # one order for all workers
    if name == "qmc":  # one sequence for all workers
        independent = samplers.RandomSampler(own)
        return _made("sampler", name, {"seed": seed, "independent_sampler": independent, **options})
    return _made("sampler", name, {"seed": own, **options})


def make_pruner(given, search_reports: bool, epochs: int):
    """The pruner by name, or as a mapping with ``name`` and options; none where trials report nothing."""
    name, options = _named("pruner", given, _PRUNERS)
    if not search_reports:
        return pruners.NopPruner()
    if name == "hyperband":
        options = {"max_resource": max(1, epochs), **options}
    return _made("pruner", name, options)


def reachable(sampler, space, trials: int) -> int:
    """How many trials there can be: those that are asked for, or the points of a space that is gone through whole."""
    name, _ = _named("sampler", sampler, _SAMPLERS)
    if name not in _EXHAUSTIVE:
        return trials
    return sum(1 for _ in itertools.islice(_points(list(space.parameters.values()), {}), trials))


def goes_through_all(sampler) -> bool:
    return _named("sampler", sampler, _SAMPLERS)[0] in _EXHAUSTIVE


def _points(parameters, settings):
    if not parameters:
        yield settings
        return
    first, *rest = parameters
    if not first.active(settings):
        yield from _points(rest, settings)
        return
    for value in _values(first):
        yield from _points(rest, {**settings, first.name: first.decode(value)})


def _values(parameter) -> list:
    """Every value of a parameter as Optuna has them; UserError when there is no end to them."""
    known = parameter.distribution
    if isinstance(known, CategoricalDistribution):
        return list(known.choices)
    if known.step is None or known.log:
        raise UserError(
            f"The range of {parameter.name} has no steps, and cannot be gone through whole; give it a step or choices, "
            "or use another --sampler."
        )
    low, step = Decimal(str(known.low)), Decimal(str(known.step))
    number = int((Decimal(str(known.high)) - low) // step) + 1
    return [type(known.low)(low + i * step) for i in range(number)]


def _named(kind, given, table) -> tuple[str, dict]:
    options = dict(given) if isinstance(given, dict) else {"name": given}
    name = str(options.pop("name", None)).lower()
    if name not in table:
        raise UserError(f"There is no {kind} named {name!r}; known are {', '.join(table)}{nearest(name, table)}.")
    return name, options


def _made(kind, name, options):
    """The object; UserError when Optuna does not know or take the options."""
    made, defaults = (_SAMPLERS if kind == "sampler" else _PRUNERS)[name]
    known = [option for option in inspect.signature(made).parameters if option != "self"]
    for option in options:
        if option not in known:
            raise UserError(f"The {kind} {name} has no option {option!r}; it has {', '.join(known)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return made(**{**defaults, **options})
    except ImportError as error:
        raise UserError(f"The {kind} {name} needs another package: {one_sentence(error)}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"The {kind} {name} does not take these options: {one_sentence(error)}") from None


def open_study(search: Search, storage: Storage, resume: bool):
    """The study by its name in the storage, made where there is none; the defaults wait in it as the first trial.

    Raises:
        UserError: there is one and ``resume`` is false; or it is of another space, of other settings or objectives, of
            another major version of Optuna, or of somebody else.
    """
    study = optuna.create_study(
        storage=storage.optuna,
        study_name=search.study_name,
        directions=[objective.direction for objective in search.objectives],
        pruner=make_pruner(search.pruner, search.reports, search.config["epochs"]),
        load_if_exists=True,
    )
    storage.prepare(study)
    with storage.claim(study):
        if "settings" in study.user_attrs:
            _check_identity(study.user_attrs, search, storage)
            if not resume:
                found = len(tally(study).finished)
                raise UserError(
                    f"The study {search.study_name!r} in {storage.shown} is not complete ({found} of {search.trials} "
                    "trials); go on with --resume, or name another --study_name and --study_dir."
                )
        elif study.get_trials(deepcopy=False):
            raise UserError(
                f"The study {search.study_name!r} in {storage.shown} was not made by recbole_persona; "
                "name another --study_name."
            )
        else:
            for key, value in _identity(search).items():
                study.set_user_attr(key, value)
        if not study.get_trials(deepcopy=False) and not goes_through_all(search.sampler):
            params, outside = search.space.defaults(search.config)
            study.set_user_attr("defaults_outside", outside)
            study.enqueue_trial(params)
    return study


def _identity(search) -> dict:
    given = {key: str(value) for key, value in search.config.external_config_dict.items()}
    return {
        "optuna": optuna.__version__,
        "space": search.space.hash,
        "objectives": [objective.name for objective in search.objectives],
        "given": given,
        "settings": config_hash(search.config),  # last: a study that has it has the others
    }


def _check_identity(found, search, storage) -> None:
    mine = _identity(search)
    advice = "name another --study_name and --study_dir for a search of its own"
    of = f"The study {search.study_name!r} in {storage.shown}"
    if found["optuna"].partition(".")[0] != mine["optuna"].partition(".")[0]:
        raise UserError(
            f"{of} was made with Optuna {found['optuna']}, whose samplers are others than those of {mine['optuna']}; "
            f"install that version to go on, or {advice}."
        )
    if found["objectives"] != mine["objectives"]:
        raise UserError(f"{of} has the objectives {', '.join(found['objectives'])}; {advice}.")
    if found["space"] != mine["space"]:
        raise UserError(f"{of} was made with another search space; put the space back as it was, or {advice}.")
    if found["settings"] != mine["settings"]:
        keys = sorted({*found["given"], *mine["given"]})
        other = [key for key in keys if found["given"].get(key) != mine["given"].get(key)]
        which = "".join(
            f" ({key} was {found['given'].get(key, 'not given')} and is {mine['given'].get(key, 'not given')})"
            for key in other[:1]
        )
        raise UserError(f"{of} was made with other settings{which}; put them back, or {advice}.")
