"""Rows of RecBole's tables, taken and counted as arrays.

RecBole makes a Python list of every array of row numbers, a list of all row numbers for every loader, and counts the
interactions of every user and item, one by one, also where any number will do.
"""

import importlib

import numpy as np
import torch

from recbole_persona.upstream.repair import around


def taken(column, rows):
    """Rows of a tensor (N, ...) on the CPU; numpy takes them several times as fast as torch."""
    return torch.from_numpy(column.numpy()[rows])


def _rows_of(index):
    """Numbers of rows (B,) as an int64 array; None for any other index."""
    if isinstance(index, torch.Tensor) and index.device.type == "cpu":
        index = index.numpy()
    if isinstance(index, np.ndarray) and index.dtype == np.int64 and index.ndim == 1:
        return index
    return None


def install() -> None:
    """Every table and every data set does so from now on, RecBole's own models' too."""
    Interaction = importlib.import_module("recbole.data.interaction").Interaction
    Dataset = importlib.import_module("recbole.data.dataset.dataset").Dataset
    loaders = importlib.import_module("recbole.data.dataloader.abstract_dataloader")
    loaders.list = lambda rows: rows  # its list(range(n)) holds 40 bytes a row

    @around(Interaction, "__getitem__")
    def __getitem__(upstream, self, index):
        rows = None if isinstance(index, str) else _rows_of(index)
        if rows is None or any(
            value.device.type != "cpu" or value.requires_grad for value in self.interaction.values()
        ):
            return upstream(self, index)
        return Interaction({name: taken(value, rows) for name, value in self.interaction.items()})

    @around(Dataset, "_filter_by_inter_num")
    def _filter_by_inter_num(upstream, self):
        if any(self.config[f"{one}_inter_num_interval"] not in (None, "[0,inf)") for one in ("user", "item")):
            upstream(self)
