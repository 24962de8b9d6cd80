"""``run``: config -> data -> model -> trainer -> result, in one folder; ``load``: the way back."""

import logging
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from logging import getLogger
from pathlib import Path

import torch
from recbole.utils import get_model, get_trainer, init_seed
from torch import nn
from tqdm import tqdm

from recbole_persona.config import Config, class_name, read_yaml
from recbole_persona.data.checks import check_split, checked_reading, tell_of_numbers
from recbole_persona.data.missing_parts import tell_of_missing
from recbole_persona.errors import Untrusted, UserError
from recbole_persona.evaluate import metrics, protocols, text_metrics
from recbole_persona.evaluate.passes import check_negatives
from recbole_persona.evaluate.per_user import evaluate_with_table
from recbole_persona.runner.loaded import Loaded
from recbole_persona.runner.logs import epoch_bar, logging_to, quiet
from recbole_persona.runner.memory import PeakMemory, give_back_memory
from recbole_persona.runner.overrides import check_overrides
from recbole_persona.runner.preflight import check_settings, check_without_validation, explained
from recbole_persona.runner.shared_data import data_of
from recbole_persona.runner.user_vectors import hand_back, hand_over
from recbole_persona.runs import RunFolder, commit, config_hash, default_path, split_hash, versions
from recbole_persona.train.checkpoint import load_model_state
from recbole_persona.upstream.files import load_tree


def run(
    model=None,
    dataset=None,
    config_file_list=None,
    config_dict=None,
    saved=True,
    *,
    resume=False,
    rerun=False,
    tested=True,
    callback=None,
    trust=False,
) -> dict:
    """Train and test one model, as RecBole's ``run_recbole`` does, in a folder that can be resumed.

    Args:
        model: name (ours first, then RecBole's), ``recbole:Name``, ``package.module:Class``, or a class.
        dataset: name of the data set.
        config_file_list: YAML files.
        config_dict: settings on top of them.
        saved: false leaves nothing on disk.
        resume: a run folder to continue (then all of the above may be left out, and must be the run's own where they are
            given), or True for the run's own.
        rerun: start again in a folder that holds a run.
        tested: false leaves the test part alone; the best weights are evaluated on the validation part instead.
        callback: called with ``(epoch, validation score)`` after every validation; what it raises passes through, and
            the folder holds a run that can be resumed.
        trust: run the code that only the ``config.yaml`` of a run folder names, here or in ``user_vectors``; see docs/runs.md.

    Returns:
        RecBole's keys ``best_valid_score, valid_score_bigger, best_valid_result, test_result``, and ``run_dir``,
        ``result`` (the content of ``result.json``) and ``trained`` (false where the folder held a finished run).

    Raises:
        UserError: whatever the user can mend: names, keys, data, a folder in use, NaN losses, a full disk.
    """
    if resume and resume is not True:
        config = _resumed_config(resume, model, dataset, config_file_list, config_dict, trust)
    else:
        config = Config(model, dataset, config_file_list, config_dict)
    check_settings(config)
    if not saved:
        with tempfile.TemporaryDirectory() as folder:
            return {**_run_in(RunFolder(folder), config, "new", tested, callback, trust, named=False), "run_dir": None}
    folder = RunFolder(config["run_dir"] or default_path(config))
    if not rerun and folder.started and folder.complete:
        return _finished(folder, config, tested)  # nothing is written: the folder may be one that is only read
    with folder.lock():
        if rerun:
            folder.check_clear()
        elif resume or folder.started:
            _check_same_settings(folder, config)
            if folder.complete:  # by the process that held the lock
                return _finished(folder, config, tested)
            if not resume:
                raise UserError(
                    f"{folder.path} holds a run that did not finish; continue it with --resume={folder.path}, "
                    "or start again with --rerun."
                )
        try:
            how = "resumed" if resume else "again" if rerun else "new"
            return _run_in(folder, config, how, tested, callback, trust)
        except KeyboardInterrupt as interrupt:
            if str(interrupt):
                raise  # the trainer has said how to continue
            advice = f"continue with --resume={folder.path}" if folder.started else "nothing had begun"
            raise KeyboardInterrupt(f"interrupted; {advice}.") from None


def _finished(folder, config, tested) -> dict:
    """What :func:`run` returns of a folder that holds a finished run."""
    _check_same_settings(folder, config)
    if tested and _untested(folder.result()):
        raise UserError(
            f"{folder.path} holds a run that was not tested; test it with `recbole-persona evaluate "
            f"--run={folder.path}`, or start again with --rerun."
        )
    return _returned(folder, config, trained=False)


def _resumed_config(folder, model, dataset, files, settings, trust) -> Config:
    """The config of a run to continue, with all that this call says on top."""
    given = {} if model is None else {"model": class_name(model) if isinstance(model, type) else model}
    given |= {} if dataset is None else {"dataset": dataset}
    for file in files or []:
        given |= read_yaml(file)
    given |= settings or {}
    if Path(given.get("run_dir") or folder).resolve() != Path(folder).resolve():
        raise UserError(
            f"--resume continues the run in {folder}, and run_dir names {given['run_dir']}; leave run_dir out."
        )
    return RunFolder(folder).config(given, trust)


def _check_same_settings(folder, config):
    try:
        same = folder.settings_hash() == config_hash(config)
    except Untrusted:  # a model that this command does not name
        same = False
    if not same:
        raise UserError(
            f"{folder.path} holds a run with other settings; leave them out, name another --run_dir, "
            "or start again with --rerun."
        )


def _run_in(folder, config, how, tested, callback, trust, named=True) -> dict:
    """Run in a folder that is held; ``how``: "new", "again" in the place of the run that is there, or "resumed"."""
    config["run_dir"] = str(folder.path)
    resume = how == "resumed"
    if "show_progress" not in config.external_config_dict:
        config["show_progress"] = False  # one bar over the epochs instead of RecBole's two per epoch
    with logging_to(config) as log:
        logger = getLogger()
        logger.info(config)
        for key, reason in config.unused_keys.items():
            logger.warning("%s does not use the setting %s%s.", config["model"], key, reason and f": {reason}")
        seconds, memory = {}, PeakMemory(config["device"])
        with _timed(seconds, "data"):
            dataset, loaders = _data(config)
            datasets = [loader._dataset for loader in loaders]
            hand_over(config, datasets, partial(load, trust=trust))
            split = split_hash(datasets)
        if resume and folder.split() not in (None, split):
            raise UserError(_changed_data(config, folder, "; start it again with --rerun"))
        logger.info(dataset)
        if not len(datasets[1]):
            check_without_validation(config, tested)
        tell_of_missing(config, loaders)
        for loader in loaders[1:] if tested else loaders[1:2]:
            check_negatives(config, loader)
        given = deepcopy(config)  # a model may change its own
        with explained(config, dataset):
            model = _model(config, datasets[0])
            if hasattr(model, "check_training"):
                model.check_training(loaders[0])
            trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
            if not resume and hasattr(trainer, "check_first_batch"):
                trainer.check_first_batch(loaders[0])
        if not resume:
            # only now: what the model cannot be trained on leaves no run behind, and an earlier run as it was
            if how == "again":
                folder.clear()
            folder.begin(given, split)
        log.write_to(folder.log_file)
        folder.write_ids(dataset)
        give_back_memory()  # what a model takes while it is made (a graph of neighbours) can be as large as itself
        logger.info(model)
        n_parameters, n_trainable = parameter_counts(model)
        logger.info("%s trainable parameters of %s in total", f"{n_trainable:,}", f"{n_parameters:,}")
        if resume and folder.state_file.is_file():
            trainer.resume()
        for note in config.notes:
            logger.log(logging.WARNING if callback is None else logging.INFO, note)
        if named and callback is None:  # else somebody else tells what goes on
            tqdm.write(f"run folder: {folder.path}; log: {folder.log_file}", file=sys.stderr)
        with _timed(seconds, "train"), epoch_bar(config, trainer, callback) as after_validation:
            best_score, best_valid = _fit(trainer, loaders, after_validation, config)
        seconds["train"] = getattr(trainer, "seconds", seconds["train"])  # with those before a resume
        with _timed(seconds, "evaluate"):
            held_out = loaders[2] if tested else loaders[1]
            found, table = evaluate_with_table(trainer, held_out, load_best_model=True, show_progress=False)
        test = dict(found) if tested and found else {}
        logger.info("test result: %s", test)
        folder.write_per_user(table)
        epochs = len(trainer.train_loss_dict) if hasattr(trainer, "train_loss_dict") else trainer.epochs
        n_parameters, n_trainable = parameter_counts(model)  # training may freeze some
        folder.write_result(
            {
                "model": config["model"],
                "dataset": config["dataset"],
                "seed": config["seed"],
                "split_seed": config["split_seed"],
                "split_hash": split,
                "protocol": protocol(config),
                "statistics": _statistics(dataset, datasets),
                "epochs": epochs,
                "steps": getattr(trainer, "steps", None) or epochs * len(loaders[0]),
                "validations": getattr(trainer, "validations", []),
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
                "memory": {"peak_mib": round(memory.peak_mib(), 1)},
                "n_parameters": n_parameters,
                "n_trainable": n_trainable,
                "best_valid_score": float(best_score) if best_valid else None,
                "best_valid": {key: float(value) for key, value in (best_valid or {}).items()},
                "test": {key: float(value) for key, value in test.items()},
                "config_hash": folder.settings_hash(),  # a model may have changed its own
                "device": _device_name(config["device"]),
                "versions": versions(),
                "commit": commit(),
            }
        )
    return _returned(folder, config, trained=True)


def _returned(folder, config, trained) -> dict:
    result = folder.result()
    return {
        "model": config["model"],
        "best_valid_score": result["best_valid_score"],
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": result["best_valid"],
        "test_result": result["test"],
        "run_dir": str(folder.path),
        "result": result,
        "trained": trained,
    }


def _untested(result) -> bool:
    """Whether a run has a test part that was left alone."""
    return not result["test"] and result.get("statistics", {}).get("test", 1) > 0


def _device_name(device) -> str:
    """What the run's seconds were spent on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _statistics(dataset, parts) -> dict[str, int]:
    """Users and items without the padding; rows of the three parts, a user's or item's history not counted twice."""
    counts = {name: len(part.inter_feat) for name, part in zip(("train", "valid", "test"), parts)}
    return {"users": dataset.user_num - 1, "items": dataset.item_num - 1, **counts}


def _fit(trainer, loaders, callback, config):
    """RecBole's ``fit``; its trainers of decision trees know no callback. TensorBoard's thread ends with it."""
    arguments = {"saved": True, "show_progress": config["show_progress"], "verbose": True}
    if hasattr(trainer, "optimizer"):
        arguments["callback_fn"] = callback
    try:
        return trainer.fit(loaders[0], loaders[1], **arguments)
    finally:
        trainer.tensorboard.close()  # a folder that goes away would make its thread fail


def _data(config):
    """The data set and its three loaders; the split depends on ``split_seed`` alone."""
    init_seed(config["split_seed"], config["reproducibility"])
    with checked_reading(config):
        dataset, loaders = data_of(config)
    tell_of_numbers(dataset)
    check_split(config, loaders)
    return dataset, loaders


def _model(config, train_dataset):
    init_seed(config["seed"], config["reproducibility"])
    return get_model(config["model"])(config, train_dataset).to(config["device"])


def parameter_counts(model) -> tuple[int, int]:
    """Numbers of all parameters and of the trainable ones; decision trees have none."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def load(run_dir, config_dict=None, trust=False, use="load", *, unfinished=False) -> Loaded:
    """A finished run: its data rebuilt from its config, its model with the best weights, in evaluation mode.

    It answers any number of calls (:class:`~recbole_persona.runner.loaded.Loaded`), and unpacks as what RecBole's
    ``load_data_and_model`` returns.

    Args:
        run_dir: folder of a complete run.
        config_dict: settings to change, such as ``gpu_id`` or ``eval_batch_size``.
        trust: true runs the code that only the folder's ``config.yaml`` names (see docs/runs.md); a mapping names settings
            that may do so, with their values.
        use: what it is loaded for, which says what can be changed (:func:`~recbole_persona.runner.overrides.check_overrides`).
        unfinished: take a run that was interrupted, too, with its best weights so far; a line says so.

    Raises:
        UserError: no complete run, or an unfinished one without weights; a truncated file, data that have changed since the
            run, a setting that does not act, or code that is not trusted.
    """
    folder = RunFolder(run_dir)
    file, so_far = folder.model_file, unfinished and folder.started and not folder.complete
    if so_far and not file.is_file():
        raise UserError(
            f"The run in {folder.path} was stopped before its first model was saved; continue it with "
            f"--resume={folder.path}."
        )
    config, dataset, loaders = load_data(run_dir, config_dict, trust, use, unfinished=unfinished)
    with quiet():
        hand_back(config, loaders[0]._dataset, file)
        model = _model(config, loaders[0]._dataset)
    load_model_state(model, file)
    model.eval()
    if so_far:
        text = "The run in %s is not complete: these are its best weights so far, of epoch %s."
        getLogger().warning(text, folder.path, load_tree(file)["epoch"])
    loaded = Loaded(config, model, dataset, *loaders)
    if use == "load":  # a file that cannot be read is a mistake only where titles are shown
        with suppress(UserError):
            loaded.texts()
    return loaded


def load_data(run_dir, config_dict=None, trust=False, use="load", *, unfinished=False):
    """The data of a finished run without its model, for which no weights are needed: ``(config, dataset, loaders)``.

    Arguments and errors are those of :func:`load`.
    """
    folder = RunFolder(run_dir)
    config = folder.config({"log_wandb": False, **(config_dict or {})}, trust)
    known = folder.split() if unfinished else folder.result()["split_hash"]
    if known is None:
        raise UserError(
            f"The run in {folder.path} was begun by an earlier version, which did not note its split; finish it with "
            f"--resume={folder.path}."
        )
    check_overrides(folder, config, config_dict, use)
    with quiet():
        dataset, loaders = _data(config)
    if split_hash([loader._dataset for loader in loaders]) != known:
        raise UserError(_another_split(config, folder) or _changed_data(config, folder))
    return config, dataset, loaders


def _another_split(config, folder) -> str | None:
    """The first setting by which this command splits the data in another way than the run did, as a sentence."""
    written = read_yaml(folder.config_file)
    ways = {"split_seed": (written.get("split_seed"), config["split_seed"])}
    ways |= {
        f"{part} in eval_args": (written["eval_args"].get(part), config["eval_args"][part])
        for part in ("split", "order", "group_by")
    }
    for what, (before, now) in ways.items():
        if before != now:
            return (
                f"{what} is {now} and was {before} in the run in {folder.path}: with another split, the run would be tested "
                f"on rows that it was trained on; leave it out."
            )
    return None


def _changed_data(config, folder, advice="") -> str:
    return f"The data set {config['dataset']!r} has changed since the run in {folder.path}{advice}."


def evaluate_run(run_dir, config_dict=None, trust=False):
    """Test the best weights of a finished run again: ``(test result, per-user table)``; arguments as for :func:`load`."""
    loaded = load(run_dir, config_dict, trust, "evaluate")
    with quiet():
        trainer = get_trainer(loaded.config["MODEL_TYPE"], loaded.config["model"])(loaded.config, loaded.model)
        if hasattr(trainer, "eval_collector"):
            trainer.eval_collector.data_collect(loaded.train_data)
        found, table = evaluate_with_table(trainer, loaded.test_data, load_best_model=False, show_progress=False)
    if found is None:
        raise UserError(f"The run in {run_dir} has no test part: its split leaves nothing to test on.")
    return found, table


def protocol(config) -> dict:
    """What the metrics of a run mean: split, candidates, targets, options of the metrics."""
    return {**protocols.describe(config), **metrics.describe(config), **text_metrics.describe(config)}


@contextmanager
def _timed(seconds, name):
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
