"""Data read and split once for all runs of a process that would read and split the same.

Which runs these are stands in no list: while data are made, :class:`_Noted` writes down which settings are asked for, and
another run whose settings give the same answers, on files that have not changed, gets a copy. Reading, filtering, numbering
and splitting take most of the time before training, and a board or a search has many runs.
"""

import copy
import json
import logging
from collections.abc import MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sys import _getframe
from unittest.mock import patch

import recbole.data.dataset
from recbole.data import create_dataset, data_preparation
from recbole.utils import ModelType

from recbole_persona.train.random_state import process_state, set_process_state

_KEPT = 2  # a board has general and sequential models, and rows that re-rank the ones by the others
_ON_DISK = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")
_ABSENT = object()
# Types of models whose data are of one class, and that nothing else of the data tells apart.
_ALIKE = {ModelType.TRADITIONAL: ModelType.GENERAL, ModelType.CONTEXT: ModelType.GENERAL}

_kept: list["_Data"] | None = None  # inside sharing_data, the latest last; None outside


@contextmanager
def sharing_data():
    """Inside the block :func:`data_of` keeps the last two data sets that it made, in addition to those it returns."""
    global _kept
    before, _kept = _kept, [] if _kept is None else _kept
    try:
        yield
    finally:
        _kept = before


def data_of(config):
    """What RecBole's ``create_dataset`` and ``data_preparation`` make: ``(data set, loaders)``.

    Inside :func:`sharing_data`, what has been made before is copied. The process's random numbers, which the caller has just
    seeded by ``split_seed``, continue as if it had been made again, and what was logged about the data is logged again.
    """
    if _kept is None or _is_on_disk(config):
        dataset = create_dataset(config)
        return dataset, data_preparation(config, dataset)
    data = next((data for data in _kept if data.fits(config)), None)
    if data is None:
        del _kept[: 1 - _KEPT]  # before the next is made, for the memory
        data = _made(config)
    else:
        _kept.remove(data)
        data.tell()
    _kept.append(data)
    dataset, parts = data.given_to(config)
    with patch.object(dataset, "build", lambda: parts):
        return dataset, data_preparation(config, dataset)


def _is_on_disk(config) -> bool:
    """Whether RecBole reads or writes files of its own."""
    saved = Path(config["checkpoint_dir"]).glob(f"{config['dataset']}-*.pth")
    return any(config[key] for key in _ON_DISK) or any(saved)


@dataclass(eq=False)
class _Data:
    """A data set, its parts, and what they depend on.

    Attributes:
        origin: :func:`_origin`.
        answers: what was asked for while they were made -> :func:`_answer`.
        changed: settings that were set meanwhile.
        level: of logging.
        told: ``(level, message)`` of what was logged.
        state: of the process's random numbers behind it.
    """

    dataset: object
    parts: list
    origin: tuple
    answers: dict
    changed: dict
    level: int
    told: list
    state: dict

    def fits(self, config) -> bool:
        """Whether the same would be made, and logged, with these settings."""
        same = all(_answer(config, asked) == answer for asked, answer in self.answers.items())
        return same and _origin(config) == self.origin and self.level <= logging.getLogger().level

    def tell(self) -> None:
        """Log again what was logged."""
        for level, message in self.told:
            logging.getLogger().log(level, message)

    def given_to(self, config):
        """Copies of the data set and its parts that nobody else has."""
        set_process_state(self.state)
        config.final_config_dict.update(copy.deepcopy(self.changed))
        tables = {id(table): dict(table) for table in self.dataset.field2token_id.values()}  # deepcopy goes row by row
        return copy.deepcopy((self.dataset, self.parts), {id(self.dataset.config): config, **tables})


def _made(config) -> _Data:
    asked, origin = set(), _origin(config)  # a file that changes while it is read is another one
    settings = copy.deepcopy(config.final_config_dict)
    noted = object.__new__(type(config))  # whatever attribute it lacks is looked for among the settings
    noted.final_config_dict = _Noted(settings, asked)
    noted.model_class = _NotedClass(config.model_class, asked)
    with _noting_logs() as told:
        dataset = create_dataset(noted)
        parts = dataset.build()
    answers = {name: _answer(config, name) for name in asked}
    before = config.final_config_dict
    changed = {key: value for key, value in settings.items() if key not in before or before[key] != value}
    level = logging.getLogger().level
    return _Data(dataset, parts, origin, answers, changed, level, told, process_state())


class _Noted(MutableMapping):
    """Settings that note which of them are asked for.

    What ``create_dataset`` itself asks for chooses the class of the data set, which :func:`_origin` has: it is not noted,
    since the name of the model is among it.
    """

    def __init__(self, settings, asked):
        self._settings, self._asked = settings, asked

    def __getitem__(self, key):
        if _getframe(3).f_code is not create_dataset.__code__:  # above get of the mapping and [] of the config
            self._asked.add(key)
        return self._settings[key]

    def __setitem__(self, key, value):
        self._settings[key] = value

    def __delitem__(self, key):
        del self._settings[key]

    def __iter__(self):
        return iter(self._settings)

    def __len__(self):
        return len(self._settings)


class _NotedClass:
    """The class of a model, of which is noted what it is asked for, such as ``reads_fields``."""

    def __init__(self, model_class, asked):
        self._model_class, self._asked = model_class, asked

    def __getattr__(self, name):
        self._asked.add(f"model_class.{name}")
        return getattr(self._model_class, name)


def _answer(config, asked) -> str:
    """The value of a setting, or of an attribute of the model's class, as text."""
    if asked.startswith("model_class."):
        value = getattr(config.model_class, asked.removeprefix("model_class."), _ABSENT)
    else:
        value = config.final_config_dict.get(asked, _ABSENT)
    if asked == "data_path":
        value = Path(value).resolve()
    if asked == "MODEL_TYPE":
        value = _ALIKE.get(value, value)
    return json.dumps(value, sort_keys=True, default=str)


def _origin(config) -> tuple:
    """What data depend on beside what is asked for while they are made: their class, the random numbers and the files."""
    kind = getattr(recbole.data.dataset, f"{config['model']}Dataset", _answer(config, "MODEL_TYPE"))
    files = sorted(path for path in Path(config["data_path"]).resolve().rglob("*") if path.is_file())
    stats = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return kind, config["split_seed"], config["reproducibility"], stats


@contextmanager
def _noting_logs():
    """What is logged inside is also in the list ``[(level, message)]``."""
    told, handler = [], logging.Handler()
    handler.emit = lambda record: told.append((record.levelno, record.getMessage()))
    logging.getLogger().addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger().removeHandler(handler)
