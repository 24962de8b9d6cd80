"""Data without a validation or a test part: splits that ask for none, ready-made parts that are left out or empty."""

import importlib
import re
from logging import getLogger
from pathlib import Path

from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around

PARTS = ("train", "valid", "test")
_VALIDATION = re.compile(r"val|dev", re.IGNORECASE)


def part_files(config) -> list[str | None]:
    """The names in ``benchmark_filename`` of training, validation and test; None for a part that is not named.

    Raises:
        UserError: another number of names than one to three.
    """
    names = list(config["benchmark_filename"])
    if len(names) == 3:
        return names
    if len(names) == 2:
        return [names[0], names[1], None] if _VALIDATION.search(str(names[1])) else [names[0], None, names[1]]
    if len(names) == 1:
        return [names[0], None, None]
    raise UserError(f"benchmark_filename is like [train, valid, test], of one to three names; it is {names}.")


def part_path(config, name) -> Path:
    """The file of a ready-made part."""
    return Path(config["data_path"]) / f"{config['dataset']}.{name}.inter"


def has_rows(path, encoding=None) -> bool:
    """Whether a file has anything below its first line."""
    with open(path, encoding=encoding, errors="replace") as file:
        file.readline()
        return any(line.strip() for line in file)


def read_parts(config) -> list[str]:
    """The names of the ready-made parts that are read: not those for validation and test that are empty."""
    train, *others = part_files(config)
    paths = {name: part_path(config, name) for name in others if name is not None}
    empty = [name for name, path in paths.items() if path.is_file() and not has_rows(path, config["encoding"])]
    return [train, *(name for name in paths if name not in empty)]


def asks_for(part, config) -> bool:
    """Whether a split by ``eval_args`` is to leave something to a part; ready-made parts ask for nothing but training."""
    if config["benchmark_filename"]:
        return part == "train"
    ((way, share),) = config["eval_args"]["split"].items()
    if way == "LS":
        return part == "train" or share == "valid_and_test" or share == f"{part}_only"
    return share[PARTS.index(part)] > 0


def why_lacking(part, config) -> str | None:
    """The setting that leaves no ``valid`` or ``test`` part, as text; None where there may be one."""
    if not config["benchmark_filename"]:
        return None if asks_for(part, config) else f"split in eval_args ({config['eval_args']['split']})"
    name = part_files(config)[PARTS.index(part)]
    if name is None:
        return f"benchmark_filename ({config['benchmark_filename']})"
    return None if name in read_parts(config) else f"the empty file {part_path(config, name).name}"


def tell_of_missing(config, loaders) -> None:
    """One line for a run that has no validation or no test part.

    Args:
        loaders: of training, validation and test.
    """
    without = [name for name, loader in zip(PARTS[1:], loaders[1:]) if not len(loader._dataset)]
    if not without:
        return
    told = {"valid": "training takes all epochs without early stopping", "test": "nothing is tested"}
    names = " and no ".join({"valid": "validation", "test": "test"}[name] for name in without)
    result = " and ".join(told[name] for name in without)
    getLogger().warning("The data set %r has no %s part: %s.", config["dataset"], names, result)


def install() -> None:
    """Ready-made data sets are read by these rules from now on."""
    Dataset = importlib.import_module("recbole.data.dataset.dataset").Dataset

    @around(Dataset, "_load_inter_feat")
    def _load_inter_feat(upstream, self, token, dataset_path):
        """RecBole takes three names, and builds as many parts as there are files."""
        named = self.benchmark_filename_list
        if named is None:
            return upstream(self, token, dataset_path)
        self.benchmark_filename_list = read_parts(self.config)
        try:
            upstream(self, token, dataset_path)
            sizes = dict(zip(self.benchmark_filename_list, self.file_size_list))
        finally:
            self.benchmark_filename_list = named
        self.file_size_list = [sizes.get(name, 0) for name in part_files(self.config)]
