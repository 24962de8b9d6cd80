"""``tune``: a search from its space to the best settings, ready to run, and their test result over several seeds."""

import json
import shutil
import signal
import threading
import time
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from recbole_persona.config import Config
from recbole_persona.errors import Busy, UserError
from recbole_persona.progress import progress
from recbole_persona.runner import run
from recbole_persona.runner.preflight import check_search
from recbole_persona.runner.shared_data import sharing_data
from recbole_persona.runs import RunFolder, config_hash, machine_config, portable_config, read_json
from recbole_persona.search import selection
from recbole_persona.search.space_files import read_space
from recbole_persona.search.storage import GRACE, Storage, why_failed
from recbole_persona.search.study import (
    Search,
    make_pruner,
    make_sampler,
    open_study,
    reachable,
    tally,
    with_objectives,
)
from recbole_persona.search.trial import TrialFailed, begun_before, run_trial, trial_folder
from recbole_persona.search.workers import Workers
from recbole_persona.upstream.files import write_text

POLL = 0.5  # seconds between two looks at the study
_HOPELESS = 5  # trials that fail before any other has finished


def tune(
    model=None,
    dataset=None,
    config_file_list=None,
    config_dict=None,
    *,
    space=None,
    trials=50,
    study_dir=None,
    storage=None,
    study_name=None,
    workers=1,
    sampler="tpe",
    pruner="growth",
    objectives=None,
    seeds=None,
    select_seeds=None,
    finalists=5,
    resume=False,
    timeout=None,
    grace=GRACE,
    join=False,
) -> dict:
    """Search for the settings with the best validation score, and test the best ones.

    Args:
        model, dataset, config_file_list, config_dict: as :func:`recbole_persona.run` takes them.
        space: what varies, but for what ``config_dict`` fixes: path of a YAML file or of a RecBole hyper file, a mapping,
            or None for the shipped one.
        trials: how many are to finish (completed, pruned or failed for a reason), over all workers and machines.
        study_dir: the search's folder; default ``studies/<study_name>``.
        storage: URL; default ``sqlite:///<study_dir>/study.db``.
        study_name: in the storage; default ``<dataset>-<model>``.
        workers: processes on this machine. The same call elsewhere, with the same storage, adds to them.
        sampler: tpe, random, gp, cmaes, grid, brute, qmc or nsgaii, or a mapping with ``name`` and Optuna's options.
        pruner: growth, median, hyperband, halving, percentile or none, or a mapping with ``name`` and Optuna's options.
        objectives: metrics of the validation part as RecBole prints them, ``parameters``, ``seconds_per_user``; default
            ``valid_metric``. With more than one nothing is pruned, and the result is a front.
        seeds: of the tests of the best settings; default the seed of the search and the next two; an empty list for none.
        select_seeds: further seeds with which the best trials are trained before the choice: by the mean over the seed of the
            search and these, and the one-standard-error rule (:func:`recbole_persona.search.selection.choose`). None chooses
            the trial with the best score.
        finalists: how many of the best trials are trained with ``select_seeds``; None for all that completed.
        resume: go on with a study that is not complete.
        timeout: seconds after which no trial is begun.
        grace: seconds without a heartbeat after which a trial on another machine counts as killed.
        join: only work on the trials of a study that another process has begun and will finish.

    Returns:
        ``study_dir, study_name, storage, objectives, best_params, best_value, best_config`` (path of ``best.yaml``, which
        holds what was set), ``machine`` (what was set besides of devices and absolute paths of data),
        ``front`` (several objectives: ``number, values, params, config`` each; else None), ``space``, ``trials``
        (``number, state, value, params, epochs, seconds, reason``), ``budget`` (``trials, pruned, failed, epochs,
        seconds``), ``edges`` (the parameters whose best value stands at an end of its range, ``lower`` or ``upper``),
        ``selection`` (with ``select_seeds``: the finalists' scores, the standard error, the chosen one; else None), ``test``
        (``seed, run_dir, best_valid, test`` each, or None) and what was ``asked``. It stands in
        ``<study_dir>/study.json``, too, which makes a study complete: met again, it is returned.

    Raises:
        UserError: whatever the user can mend. Nothing that was reached is lost.
    """
    settings, config, wanted = with_objectives(model, dataset, config_file_list, config_dict or {}, objectives)
    if "run_dir" in settings:
        raise UserError("A search has a folder for every trial; leave run_dir out and name the --study_dir.")
    _check_numbers(trials=trials, workers=workers)
    check_search(config)
    found = read_space(space, config["model"] if model is None else model).without(config_dict or {})
    found.defaults(config)  # a choice that cannot be set ends the search before it begins
    study_name = study_name or f"{config['dataset']}-{config['model'].rpartition(':')[2]}"
    study_dir = Path(study_dir or Path("studies") / study_name)
    search = Search(
        model=model,
        dataset=dataset,
        files=[str(file) for file in config_file_list or []],
        settings=settings,
        config=config,
        space=found,
        objectives=wanted,
        sampler=sampler,
        pruner=pruner,
        trials=reachable(sampler, found, trials),
        study_name=study_name,
        study_dir=study_dir,
    )
    make_sampler(sampler, found, config["seed"], 0)
    make_pruner(pruner, search.reports, config["epochs"])
    seeds = [config["seed"] + i for i in range(3)] if seeds is None else list(seeds)
    seeds = [] if len(wanted) > 1 else seeds
    select_seeds = selection.checked(select_seeds, finalists, config["seed"], wanted)
    deadline = None if timeout is None else time.monotonic() + timeout
    url = storage or f"sqlite:///{study_dir / 'study.db'}"
    asked = {"trials": trials, "timeout": timeout, "seeds": seeds, "space": found.hash}
    asked |= {"selection": [select_seeds, finalists]} if select_seeds else {}
    asked |= {"objectives": [objective.name for objective in wanted], "settings": config_hash(config)}
    with _quiet_optuna(), _stoppable(), sharing_data(), ExitStack() as stack:
        if not join:
            stack.enter_context(_alone(study_dir))
            done = _done(study_dir, asked, search.trials, resume)
            if done:
                return done
        kept = Storage(url, grace)
        with kept.plainly():
            study = open_study(search, kept, resume or join)
            if join:
                work(search, kept, study, grace, deadline)
                _select(search, kept, study, select_seeds, finalists, grace)
                return {}
            options = {"select_seeds": select_seeds, "finalists": finalists} if select_seeds else {}
            _search(search, kept, study, workers, grace, deadline, url, space, options)
            chosen = _select(search, kept, study, select_seeds, finalists, grace)
            answer = _answer(search, study, kept, *chosen)
        answer["test"] = _tested(search, answer, seeds)
        answer["asked"] = asked
        write_text(study_dir / "study.json", json.dumps(answer, indent=1))
        for folder in (study_dir / "trials", study_dir / "finalists"):
            shutil.rmtree(folder, ignore_errors=True)
    return answer


def _check_numbers(**numbers):
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1; it is {value!r}.")


def work(search, storage, study, grace, deadline=None, watch=lambda now: None):
    """Begin trials while there are any to begin, then wait for those of other workers: one that is killed is done here.

    Args:
        deadline: of ``time.monotonic``; no trial is begun after it.
        watch: called with the tally before every trial and while waiting.

    Returns:
        The last tally.
    """
    while True:
        with ExitStack() as claim:
            claim.enter_context(storage.claim(study))
            storage.reap(study)
            now = tally(study)
            watch(now)
            _check_hopeless(now)
            over = deadline is not None and time.monotonic() >= deadline
            if now.begun < search.trials and not over:
                _one_trial(search, storage, study, now, claim.close, grace)
                continue
        if not any(storage.watches(trial) for trial in now.running):
            return now
        time.sleep(POLL)


def _one_trial(search, storage, study, now, release, grace):
    """Begin the next trial, let the others begin theirs, and bring it to its end."""
    study.sampler = make_sampler(search.sampler, search.space, search.config["seed"], now.begun)
    taken = []

    def begun(trial):
        storage.begun(trial)
        release()

    def objective(trial):
        try:
            return run_trial(trial, search, begun, grace)
        except UpdateFinishedTrialError:
            taken.append(trial.number)
            raise

    def clear(_, trial):
        shutil.rmtree(trial_folder(search.study_dir, trial), ignore_errors=True)

    on_device = search.config["device"].type != "cpu"  # whose memory Python does not see run short
    try:
        study.optimize(objective, n_trials=1, catch=(TrialFailed,), callbacks=[clear], gc_after_trial=on_device)
    except ValueError:
        if not taken:  # else this process was taken for dead, and the trial is another's now
            raise


def _check_hopeless(now):
    if len(now.finished) >= _HOPELESS and all(trial.state == TrialState.FAIL for trial in now.finished):
        last = why_failed(now.finished[-1])
        raise UserError(f"The first {len(now.finished)} trials all failed, the last because: {last}")


def _search(search, storage, study, workers, grace, deadline, url, space, options):
    """Bring the study to its number of trials, here or in other processes, under one progress bar."""
    with _trial_bar(search, study) as watch:
        now = tally(study)
        try:
            if workers == 1:
                now = work(search, storage, study, grace, deadline, watch)
            else:
                with Workers(search, url, space, grace, options) as others:
                    left = workers if options else max(1, search.trials - len(now.finished))
                    others.start(min(workers, left), deadline)
                    while others.at_work():
                        now = tally(study)
                        watch(now)
                        time.sleep(POLL)
                now = work(search, storage, study, grace, time.monotonic(), watch)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"the search was stopped; what it had reached is in {storage.shown}: go on with --resume."
            ) from None
    if len(now.finished) < search.trials and (deadline is None or time.monotonic() < deadline):
        raise UserError(
            f"{len(now.finished)} of {search.trials} trials have finished, and no worker is left; go on with --resume."
        )


@contextmanager
def _trial_bar(search, study):
    """A bar over the trials of all workers, with the best value beside it; a line now and then where there is no terminal."""
    with progress(total=search.trials, desc="trials", unit="trial") as bar:

        def watch(now):
            complete = [trial.value for trial in now.finished if trial.state == TrialState.COMPLETE and search.reports]
            if complete:
                best = max(complete) if search.objectives[0].direction == "maximize" else min(complete)
                bar.set_postfix_str(
                    f"best {search.objectives[0].name} {best:.4f}, running {len(now.running)}", refresh=False
                )
            bar.update(len(now.finished) - bar.n)

        yield watch


def _select(search, storage, study, seeds, number, grace):
    """Train the finalists with the further seeds and choose: ``(chosen trial, selection, trials)``; Nones without seeds."""
    if not seeds:
        return None, None, []
    rerun, trials = selection.rerun_search(search, _completed(study), seeds, number)
    again = open_study(rerun, storage, resume=True)
    reruns = work(rerun, storage, again, grace).finished
    finalists = selection.scored(search, trials, rerun, reruns)
    chosen = selection.choose(finalists, search.space, search.objectives[0].direction)
    (trial,) = (trial for trial in trials if trial.number == chosen.number)
    return trial, selection.told(finalists, chosen), reruns


def _completed(study) -> list:
    """The trials to choose from; UserError where there is none."""
    finished = tally(study).finished
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if not complete:
        last = next((why_failed(trial) for trial in reversed(finished) if why_failed(trial)), "none has finished")
        raise UserError(f"No trial was completed ({last.rstrip('.')}); there is nothing to choose from.")
    return complete


def _answer(search, study, storage, selected, told, reruns) -> dict:
    """What the study has found; writes ``best.yaml``, or ``best-<n>.yaml`` for every point of the front."""
    _completed(study)
    finished = tally(study).finished
    front = None
    if len(search.objectives) > 1:
        ordered = sorted(study.best_trials, key=lambda trial: trial.values, reverse=_maximised(search))
        front = [_chosen(search, trial, f"best-{n}.yaml") for n, trial in enumerate(ordered, 1)]
        best = dict.fromkeys(("number", "params", "value", "config"))
    else:
        best = _chosen(search, selected or study.best_trial, "best.yaml")
    rows = [_row(search, trial) for trial in sorted(finished, key=lambda trial: trial.number)]
    states = [row["state"] for row in rows]
    spent = [trial.user_attrs for trial in (*finished, *reruns)]
    return {
        "study_dir": str(search.study_dir),
        "study_name": search.study_name,
        "storage": storage.shown,
        "objectives": {objective.name: objective.direction for objective in search.objectives},
        "best_params": best["params"],
        "best_value": best["value"],
        "best_config": best["config"],
        "best_number": best["number"],
        "machine": machine_config(search.config),
        "front": front,
        "space": {name: str(parameter) for name, parameter in search.space.parameters.items()},
        "defaults_outside": study.user_attrs.get("defaults_outside", []),
        "trials": rows,
        "budget": {
            "trials": len(rows),
            "pruned": states.count("pruned"),
            "failed": states.count("failed"),
            "epochs": sum(each.get("epochs", 0) for each in spent),
            "seconds": round(sum(each.get("seconds", 0.0) for each in spent), 3),
        },
        "edges": selection.edges(search.space, best["params"]) if best["params"] else {},
        "selection": told,
    }


def _maximised(search) -> bool:
    return search.objectives[0].direction == "maximize"


def _chosen(search, trial, name) -> dict:
    settings = search.space.decode(trial.params)
    config = Config(search.model, search.dataset, search.files, {**search.settings, **settings})
    file = search.study_dir / name
    write_text(file, yaml.safe_dump(portable_config(config), sort_keys=True, allow_unicode=True))
    single = trial.values[0] if len(trial.values) == 1 else None
    return {"number": trial.number, "params": settings, "value": single, "values": trial.values, "config": str(file)}


def _row(search, trial) -> dict:
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    values = trial.values or [None] * len(search.objectives)
    return {
        "number": trial.number,
        "state": "pruned" if trial.user_attrs.get("given_up") else states[trial.state],
        "value": values[0] if len(search.objectives) == 1 else values,
        "params": search.space.decode(trial.params),
        "epochs": trial.user_attrs.get("epochs", 0),
        "seconds": trial.user_attrs.get("seconds", 0.0),
        "reason": why_failed(trial),
    }


def _tested(search, answer, seeds) -> list[dict] | None:
    """The best settings trained and tested with every seed, each in a run folder of its own that can be resumed."""
    rows = []
    for seed in seeds:
        folder = search.study_dir / "best" / f"{answer['best_number']}-seed-{seed}"
        settings = machine_config(search.config) | {"seed": seed, "run_dir": str(folder)}
        begun = begun_before(RunFolder(folder))
        result = run(search.model, search.dataset, [answer["best_config"]], settings, **begun)["result"]
        kept = {key: result[key] for key in ("best_valid", "test")}
        rows.append({"seed": seed, "run_dir": str(folder), **kept})
    return rows or None


def _done(study_dir, asked, reachable, resume) -> dict | None:
    """The result of a complete study; None where there is none, or where more is asked of it.

    One that its timeout cut short is complete, too; it goes on when it is resumed with another timeout.
    """
    file = study_dir / "study.json"
    if not file.is_file():
        return None
    answer = read_json(file)
    before = answer["asked"]
    for key, what in (
        ("space", "another search space"),
        ("objectives", "other objectives"),
        ("settings", "other settings"),
    ):
        if before[key] != asked[key]:
            raise UserError(f"{study_dir} holds a study with {what}; name another --study_dir and --study_name.")
    cut_short = answer["budget"]["trials"] < reachable and before["timeout"] != asked["timeout"]
    enough = before["trials"] >= asked["trials"] and set(before["seeds"]) >= set(asked["seeds"])
    enough &= before.get("selection") == asked.get("selection")
    if enough and not (resume and cut_short):
        return answer
    if not resume:
        raise UserError(
            f"{study_dir} holds a complete study of {before['trials']} trials, tested with the seeds "
            f"{', '.join(map(str, before['seeds'])) or 'none'}; go on to what you ask with --resume."
        )
    return None


@contextmanager
def _alone(study_dir):
    try:
        study_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(study_dir / ".lock", timeout=0):
            yield
    except Timeout:
        raise Busy(f"Another search is at work in {study_dir}; add a worker to it with --join.") from None


@contextmanager
def _quiet_optuna():
    """Optuna's lines about every trial are left out, and its warnings about what is experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", message="The reported value is ignored", category=UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


@contextmanager
def _stoppable():
    """SIGTERM ends a search as Ctrl-C does."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, interrupt) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
