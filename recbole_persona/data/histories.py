"""Sequential data without copies: a history is a window into one flat table, gathered when a batch is made.

RecBole stores one padded row per interaction and field, filled by a Python loop. Here a row is one number, the place of its
target in the table of all interactions (by user, then time); its history is what stands in front of it. All sequential
models get their data so, RecBole's own too: the same rows, in the same order, with the same columns.
"""

import importlib
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction

from recbole_persona.data.grouped_splits import leave_one_out, split_by_ratio
from recbole_persona.data.ordering import stable_order
from recbole_persona.upstream.repair import around

END = "history_end"  # column of the places; part of no batch


@dataclass(frozen=True)
class Histories:
    """The flat table, and how histories are cut out of it.

    Attributes:
        flat: all interactions, sorted by user and time; equal times in the order of the files.
        fields: name of a list column -> the column of ``flat`` that it is made of.
        longest: ``MAX_ITEM_LIST_LENGTH``.
        length_field: name of the column with the lengths.
    """

    flat: Interaction
    fields: dict[str, str]
    longest: int
    length_field: str = field(default="item_length")

    def gather(self, end, length, names=None, width=None) -> dict[str, torch.Tensor]:
        """List columns of some rows: the oldest first, zeros behind the newest.

        Args:
            end: (B,) places of the targets.
            length: (B,) how much of the table in front of them belongs to the history.
            names: of the list columns; all if None.
            width: of the result; ``longest`` if None.

        Returns:
            ``(B, width)`` or ``(B, width, ...)`` by name.
        """
        inside, places = self.places(end, length, width)
        columns = {}
        for name in self.fields if names is None else names:
            values = self.flat[self.fields[name]][places]  # (B, width, ...)
            outside = ~inside.view(inside.shape + (1,) * (values.dim() - 2))
            columns[name] = values.masked_fill_(outside, 0)
        return columns

    def places(self, end, length, width=None):
        """Mask (B, width) of what is inside the histories, and places (B, width) in the flat table, 0 outside."""
        steps = torch.arange(self.longest if width is None else width)
        inside = steps < length.unsqueeze(1)
        return inside, torch.where(inside, (end - length).unsqueeze(1) + steps, 0)


class HistoryRows(Interaction):
    """RecBole's interactions of a sequential data set; list columns are gathered when they are asked for.

    It stores the target's own columns, ``item_length`` and the place of the target. An index gives rows of the same
    kind; :meth:`gathered` and whatever makes new tensors of all columns (``to``, ``repeat``, ...) give a plain
    ``Interaction`` with RecBole's columns.
    """

    def __init__(self, columns, histories):
        super().__init__(columns)
        self.histories = histories

    def __getitem__(self, index):
        if isinstance(index, str):
            if index in self.interaction:
                return self.interaction[index]
            return self._lists([index])[index]
        if isinstance(index, (list, range)):
            index = np.asarray(index, dtype=np.int64)
        take = _taken if isinstance(index, np.ndarray) else torch.Tensor.__getitem__
        return HistoryRows({name: take(value, index) for name, value in self.interaction.items()}, self.histories)

    def __getattr__(self, name):
        if not name.startswith("__") and "histories" in self.__dict__ and name in self.histories.fields:
            return self[name]
        return super().__getattr__(name)

    def __contains__(self, name):
        return name in self.columns

    def __iter__(self):
        return iter(self.columns)

    @property
    def columns(self):
        """RecBole's columns: the target's, the length, the lists."""
        return [name for name in self.interaction if name != END] + list(self.histories.fields)

    def sort(self, by, ascending=True):
        if isinstance(by, str) and ascending is True and self.interaction[by].dim() == 1:
            return self._reindex(stable_order(self.interaction[by].numpy()))
        return super().sort(by, ascending)

    def _reindex(self, index):
        rows = np.asarray(index)
        self.interaction = {name: _taken(value, rows) for name, value in self.interaction.items()}

    def drop(self, column):
        if column in self.interaction:
            return super().drop(column)
        fields = {name: source for name, source in self.histories.fields.items() if name != column}
        if len(fields) == len(self.histories.fields):
            raise ValueError(f"Column [{column}] is not in [{self}].")
        self.histories = replace(self.histories, fields=fields)

    __delitem__ = drop

    def _lists(self, names=None):
        missing = set(names or ()) - set(self.histories.fields)
        if missing:
            raise KeyError(missing.pop())
        return self.histories.gather(self.interaction[END], self.interaction[self.histories.length_field], names)

    def gathered(self) -> Interaction:
        """A plain ``Interaction`` with all of RecBole's columns."""
        plain = {name: value for name, value in self.interaction.items() if name != END}
        return Interaction({**plain, **self._lists()})

    def to(self, device, selected_field=None):
        return self.gathered().to(device, selected_field)

    def cpu(self):
        return self.gathered()

    def numpy(self):
        return self.gathered().numpy()

    def repeat(self, sizes):
        return self.gathered().repeat(sizes)

    def repeat_interleave(self, repeats, dim=0):
        return self.gathered().repeat_interleave(repeats, dim)

    def __str__(self):
        return f"{len(self)} rows of a history and its target; columns: {', '.join(self.columns)}"


def augment(dataset) -> None:
    """Give a sequential data set its rows, in place of RecBole's ``data_augmentation``.

    Args:
        dataset: its ``inter_feat`` holds all interactions and becomes :class:`HistoryRows`: every interaction of a user but
            the first, with at most ``MAX_ITEM_LIST_LENGTH`` earlier ones as its history.
    """
    dataset._aug_presets()
    dataset._check_field("uid_field", "time_field")
    longest = dataset.config["MAX_ITEM_LIST_LENGTH"]
    unsorted = dataset.inter_feat
    order = stable_order(unsorted[dataset.time_field].numpy())
    order = order[stable_order(unsorted[dataset.uid_field].numpy()[order])]
    flat = Interaction({name: _taken(unsorted[name], order) for name in unsorted.columns})
    users = flat[dataset.uid_field]
    first = torch.ones(len(flat), dtype=torch.bool)
    first[1:] = users[1:] != users[:-1]
    places = torch.arange(len(flat))
    starts = torch.where(first, places, 0).cummax(0).values  # of each interaction's user
    end = places[~first]
    columns = {name: flat[name][end] for name in flat.columns}
    columns[dataset.item_list_length_field] = (end - starts[end]).clamp(max=longest)
    columns[END] = end
    fields = {getattr(dataset, f"{name}_list_field"): name for name in flat.columns if name != dataset.uid_field}
    dataset.inter_feat = HistoryRows(columns, Histories(flat, fields, longest, dataset.item_list_length_field))


def _taken(column, rows):
    """Rows of a tensor; numpy takes them several times as fast."""
    return torch.from_numpy(column.numpy()[rows])


def in_exact_order(frame, time_field):
    """A table (pandas) sorted by its times as the file has them.

    RecBole keeps times as 32-bit numbers, which cannot tell two moments of one minute apart (today's Unix times are
    multiples of 128 seconds there), and sorts by these.
    """
    return frame.sort_values(time_field, kind="stable", ignore_index=True)


def install() -> None:
    """Every sequential data set is made here from now on, RecBole's own models' too."""
    SequentialDataset = importlib.import_module("recbole.data.dataset").SequentialDataset

    @around(SequentialDataset, "data_augmentation")
    def data_augmentation(upstream, self):
        augment(self)

    @around(SequentialDataset, "_change_feat_format")
    def _change_feat_format(upstream, self):
        if (
            self.config["exact_time"]
            and isinstance(self.inter_feat, pd.DataFrame)
            and self.time_field in self.inter_feat
        ):
            self.inter_feat = in_exact_order(self.inter_feat, self.time_field)
        upstream(self)

    @around(SequentialDataset, "_filter_by_inter_num")
    def _filter_by_inter_num(upstream, self):
        """RecBole counts every interaction in Python also where any number will do."""
        if any(self.config[f"{one}_inter_num_interval"] not in (None, "[0,inf)") for one in ("user", "item")):
            upstream(self)

    @around(SequentialDataset, "__getitem__")
    def __getitem__(upstream, self, index, join=True):
        if not isinstance(self.inter_feat, HistoryRows):
            return upstream(self, index, join)
        rows = self.inter_feat[index].gathered()
        return self.join(rows) if join else rows

    @around(SequentialDataset, "inter_matrix")
    def inter_matrix(upstream, self, form="coo", value_field=None):
        if not isinstance(self.inter_feat, HistoryRows):
            return upstream(self, form, value_field)
        return upstream(self.copy(_with_first_items(self.inter_feat)), form, value_field)

    for method in (leave_one_out, split_by_ratio):

        @around(SequentialDataset, method.__name__)
        def split(upstream, self, *args, method=method, **kwargs):
            return method(self, *args, **kwargs)


def _with_first_items(rows) -> Interaction:
    """The rows with histories cut to one item, which is all that RecBole's ``inter_matrix`` reads of them."""
    histories = rows.histories
    plain = {name: value for name, value in rows.interaction.items() if name != END}
    end, length = rows[END], rows[histories.length_field]
    return Interaction({**plain, **histories.gather(end - length + 1, torch.ones_like(length), width=1)})
