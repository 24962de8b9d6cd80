"""One trial is one run that never sees the test part. A trial that was killed goes on from where its run stood."""

import math
import time
from pathlib import Path

import optuna
from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from recbole_persona.errors import StorageError, UserError, one_sentence
from recbole_persona.runner import run
from recbole_persona.runs import RunFolder
from recbole_persona.search.pruning import GrowthPruner
from recbole_persona.upstream.files import load_tree

_STOP = (StorageError, OptunaError, SQLAlchemyError, OSError)  # the storage or the disk, not the trial


class TrialFailed(Exception):
    """A trial that failed for a reason of its own: it counts, and the search goes on."""


def trial_folder(study_dir, trial) -> Path:
    """The folder of a trial's run: that of its first attempt."""
    return Path(study_dir) / "trials" / str(trial.user_attrs.get("first_attempt", trial.number))


def begun_before(folder: RunFolder, mine: bool = True) -> dict[str, bool]:
    """How a run begins in a folder that may hold one: ``resume`` and ``rerun`` of :func:`recbole_persona.run`.

    It goes on where the folder is whole; where files of it were deleted or cut short, it begins anew.

    Args:
        mine: whether a run that the folder holds is this one; any other is written over.
    """
    if not folder.started:
        folder.result_file.unlink(missing_ok=True)  # without config.yaml, a result of who knows what
    goes_on = mine and folder.started and _is_whole(folder)
    return {"resume": goes_on, "rerun": folder.started and not goes_on}


def _is_whole(folder) -> bool:
    try:
        folder.settings_hash()
        if folder.complete:
            folder.result()
            folder.per_user()
        elif folder.state_file.is_file() and load_tree(folder.state_file)["progress"]["best_valid_result"] is not None:
            load_tree(folder.model_file)  # the best weights so far, which the end of the run needs
    except (UserError, KeyError, TypeError):
        return False
    return True


def run_trial(trial, search, begun, patience: float):
    """Train with the settings that the trial suggests.

    Args:
        trial: Optuna's, just begun; what is worth knowing of it goes into its ``user_attrs``.
        search: :class:`recbole_persona.search.study.Search`.
        begun: called with the trial when it has all its settings.
        patience: seconds to wait for a process that still holds the run's folder; then the trial takes another one.

    Returns:
        The value of every objective; a number where there is one.

    Raises:
        optuna.TrialPruned: the pruner had enough of it; one that :class:`GrowthPruner` gives up is complete with what it
            has reached.
        TrialFailed: no number, out of memory, a combination that the model refuses; ``user_attrs["reason"]`` says it.
    """
    settings = search.space.suggest(trial)
    trial.set_user_attr("first_attempt", trial.user_attrs.get("first_attempt", trial.number))
    begun(trial)
    folder = RunFolder(trial_folder(search.study_dir, trial))
    if not _is_free(folder, patience):
        trial.set_user_attr("first_attempt", trial.number)
        folder = RunFolder(trial_folder(search.study_dir, trial))
    retried = trial.user_attrs["first_attempt"] != trial.number  # else what lies there is of a search that is no more
    start, epochs = time.perf_counter(), 0

    def validated(epoch, score):
        nonlocal epochs
        epochs = epoch + 1
        if search.reports:
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned()

    def ended(reason=None):
        trial.set_user_attr("epochs", epochs)
        trial.set_user_attr("seconds", round(time.perf_counter() - start, 3))
        if reason:
            trial.set_user_attr("reason", reason)
            raise TrialFailed(reason)

    try:
        outcome = run(
            search.model,
            search.dataset,
            search.files,
            {**search.settings, **settings, "run_dir": str(folder.path)},
            tested=False,
            callback=validated,
            **begun_before(folder, mine=retried),
        )
        values = _values(search, outcome, folder)
    except optuna.TrialPruned:
        ended()
        if not isinstance(trial.study.pruner, GrowthPruner):
            raise
        trial.set_user_attr("given_up", True)
        reports = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values.values()
        return max(reports) if search.objectives[0].direction == "maximize" else min(reports)
    except _STOP:
        raise
    except Exception as error:  # whatever it is, it is this trial's: the search goes on, and the reason is kept
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        ended(name + one_sentence(error))
    result = outcome["result"]
    trial.set_user_attr("epochs", result["epochs"])
    trial.set_user_attr("seconds", round(sum(result["seconds"].values()), 3))
    trial.set_user_attr("parameters", result["n_parameters"])
    trial.set_user_attr("valid", result["best_valid"])
    if not all(math.isfinite(value) for value in values):
        ended(f"The value of {', '.join(o.name for o in search.objectives)} is no number.")
    return values[0] if len(values) == 1 else values


def _values(search, outcome, folder) -> list[float]:
    found = {
        **{name.lower(): value for name, value in outcome["result"]["best_valid"].items()},
        "parameters": outcome["result"]["n_parameters"],
        "seconds_per_user": outcome["result"]["seconds"]["evaluate"] / max(1, len(folder.per_user())),
    }
    return [float(found[objective.name]) for objective in search.objectives]


def _is_free(folder, patience) -> bool:
    """Whether the process that was taken for dead, and perhaps was only slow, lets the folder go in this time."""
    until = time.monotonic() + patience
    while folder.started:
        try:
            with folder.lock():
                break
        except UserError:
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
    return True
