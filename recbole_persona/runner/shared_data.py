"""Data read once for runs that would read the same: inside :func:`sharing_data` they get copies of one data set.

Those are runs that differ in their seed; and runs of general models, which differ in settings that no data set reads. Reading,
filtering and numbering the files takes the larger part of the time before training, and a board has many cells.
"""

import copy
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from recbole.data import create_dataset
from recbole.utils import argument_list

from recbole_persona.config import read_yaml, shipped
from recbole_persona.runs import plain_config
from recbole_persona.train.random_state import process_state, set_process_state

# Where a run is kept and how it is trained; a data set is the same whatever these say.
_NOT_READ = {"seed", "run_dir", "checkpoint_dir", "show_progress", "eval_batch_size", "fused_adam", "max_steps"}
_NOT_READ |= {"warmup_steps", "gradient_accumulation_steps"}
_ON_DISK = ("save_dataset", "dataset_save_path")  # RecBole then reads or writes a file of its own

_GENERAL = ("recbole.model.general_recommender.", "recbole_persona.models.ampcf")

_kept: list | None = None  # [(key, data set, random state)] or empty inside sharing_data, None outside


@contextmanager
def sharing_data():
    """Inside the block :func:`dataset_of` keeps the last data set that it made, in addition to the one it returns."""
    global _kept
    before, _kept = _kept, [] if _kept is None else _kept
    try:
        yield
    finally:
        _kept = before


def dataset_of(config):
    """RecBole's ``create_dataset``; inside :func:`sharing_data` a copy of the last one where files and settings are the same.

    The process's random numbers continue as if it had been made again.
    """
    if _kept is None or any(config[key] for key in _ON_DISK):
        return create_dataset(config)
    key = _key(config)
    if not _kept or _kept[0][0] != key:
        _kept.clear()  # before the next one is made, for the memory
        dataset = create_dataset(config)
        if dataset.config is config:  # and not a changed copy, which would have to be made again
            _kept.append((key, copy.deepcopy(dataset, {id(config): config}), process_state()))
        return dataset
    _, dataset, state = _kept[0]
    set_process_state(state)
    return copy.deepcopy(dataset, {id(dataset.config): config})


def _key(config):
    settings = {key: value for key, value in plain_config(config).items() if key not in _NOT_READ}
    model = config.model_class
    if model.__module__.startswith(_GENERAL):
        model, settings = "general", {key: value for key, value in settings.items() if key in _data_keys()}
    files = sorted(path for path in Path(config["data_path"]).rglob("*") if path.is_file())
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return model, settings, stats


@cache
def _data_keys() -> frozenset[str]:
    """Settings of data and evaluation, RecBole's and ours."""
    ours = read_yaml(shipped("properties") / "overall.yaml")
    return frozenset({"dataset", *argument_list.dataset_arguments, *argument_list.evaluation_arguments, *ours})
