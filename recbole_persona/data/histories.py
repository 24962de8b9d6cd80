"""Sequential data without copies: a history is a window into one flat table, gathered when a batch is made.

RecBole stores one padded row per interaction and field, filled by a Python loop. Here a row is one number, the place of its
target in the table of all interactions (by user, then time); its history is what stands in front of it. All sequential
models get their data so, RecBole's own too: the same rows, in the same order, with the same columns.
"""

import importlib
import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_persona.data.mixing import mixed
from recbole_persona.data.ordering import stable_order
from recbole_persona.data.ready_lists import install as install_ready_lists
from recbole_persona.data.rows import taken
from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around

END = "history_end"  # column of the places; part of no batch
SEEN = "seen_items"  # column (B, S) of held-out rows: items that are no candidates, 0 behind them
VIEWS = ("in order", "shuffled", "reversed", "newest half", "oldest half")
NEWEST = re.compile("newest ([1-9][0-9]*)")  # a view with a number


@dataclass(frozen=True)
class Histories:
    """The flat table, and how rows are cut out of it.

    Attributes:
        flat: all interactions, sorted by user and time; equal times in the order of the files.
        own: columns of ``flat`` that a row has of its target.
        fields: name of a list column -> the column of ``flat`` that it is made of.
        longest: ``MAX_ITEM_LIST_LENGTH``.
        length_field: name of the column with the lengths.
        view: what is shown of a history, one of ``VIEWS``, or ``newest N``: at most so many.
        seed: of ``shuffled``, whose order depends on it and on the row alone.
    """

    flat: Interaction
    own: tuple[str, ...]
    fields: dict[str, str]
    longest: int
    length_field: str
    view: str = VIEWS[0]
    seed: int = 0

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

    def shown(self, length):
        """(B,) how much of histories of some lengths the view shows; of an odd number the halves share the middle."""
        if number := NEWEST.fullmatch(self.view):
            return length.clamp(max=int(number[1]))
        return length - length // 2 if self.view.endswith("half") else length

    def places(self, end, length, width=None):
        """Mask (B, width) of what is inside the histories, and places (B, width) in the flat table, 0 outside."""
        shown = self.shown(length).unsqueeze(1)
        start = (end - shown.squeeze(1) if self.view.startswith("newest") else end - length).unsqueeze(1)
        steps = torch.arange(self.longest if width is None else width)
        inside = steps < shown
        if self.view == "reversed":
            steps = shown - 1 - steps
        elif self.view == "shuffled":
            own = end.unsqueeze(1) * self.longest + steps + self.seed * len(self.flat) * self.longest
            numbers = torch.from_numpy(mixed(own.numpy().view(np.uint64)).view(np.int64))
            steps = numbers.masked_fill(~inside, torch.iinfo(torch.int64).max).argsort(dim=1)
        return inside, torch.where(inside, start + steps, 0)


class HistoryRows(Interaction):
    """RecBole's interactions of a sequential data set; their columns are gathered when they are asked for.

    It stores the place of each target and ``item_length``. An index gives rows of the same kind; :meth:`gathered` and
    whatever makes new tensors of all columns (``to``, ``repeat``, ...) give a plain ``Interaction`` with RecBole's columns.
    """

    def __init__(self, columns, histories):
        super().__init__(columns)
        self.histories = histories

    def __getitem__(self, index):
        if isinstance(index, str):
            return self._column(index)
        if isinstance(index, (list, range)):
            index = np.asarray(index, dtype=np.int64)
        take = taken if isinstance(index, np.ndarray) else torch.Tensor.__getitem__
        return HistoryRows({name: take(value, index) for name, value in self.interaction.items()}, self.histories)

    def _column(self, name):
        if name in self.interaction:
            return self.interaction[name]
        if name in self.histories.own:
            return taken(self.histories.flat[name], self.interaction[END].numpy())
        return self._lists([name])[name]

    def __getattr__(self, name):
        if not name.startswith("__") and "histories" in self.__dict__ and name in self:
            return self[name]
        return super().__getattr__(name)

    def __contains__(self, name):
        return name in self.columns

    def __iter__(self):
        return iter(self.columns)

    @property
    def columns(self):
        """RecBole's columns: the target's, the length, the lists."""
        stored = [name for name in self.interaction if name != END]
        return list(dict.fromkeys([*self.histories.own, *stored, *self.histories.fields]))

    def sort(self, by, ascending=True):
        names = [by] if isinstance(by, str) else by
        upwards = [ascending] * len(names) if isinstance(ascending, bool) else ascending
        order = np.arange(len(self))
        for name, up in reversed(list(zip(names, upwards))):
            values = self[name]
            step = stable_order((values if values.dim() == 1 else values[..., 0]).numpy()[order])
            order = order[step if up else step[::-1]]
        self._reindex(order)

    def _reindex(self, index):
        rows = np.asarray(index)
        self.interaction = {name: taken(value, rows) for name, value in self.interaction.items()}

    def drop(self, column):
        if column not in self:
            raise ValueError(f"Column [{column}] is not in [{self}].")
        self.interaction.pop(column, None)
        own = tuple(name for name in self.histories.own if name != column)
        fields = {name: source for name, source in self.histories.fields.items() if name != column}
        self.histories = replace(self.histories, own=own, fields=fields)

    __delitem__ = drop

    def _lists(self, names=None):
        missing = set(names or ()) - set(self.histories.fields)
        if missing:
            raise KeyError(missing.pop())
        return self.histories.gather(self.interaction[END], self.interaction[self.histories.length_field], names)

    def gathered(self) -> Interaction:
        """A plain ``Interaction`` with all of RecBole's columns."""
        lists, length_field = self._lists(), self.histories.length_field
        lists[length_field] = self.histories.shown(self.interaction[length_field])
        return Interaction({name: lists[name] if name in lists else self[name] for name in self.columns})

    def viewed(self, view, seed):
        """These rows with another view of their histories."""
        return HistoryRows(dict(self.interaction), replace(self.histories, view=view, seed=seed))

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
            the first, with at most ``MAX_ITEM_LIST_LENGTH`` earlier ones as its history; with ``target_events`` those of
            the named kinds alone.
    """
    dataset._aug_presets()
    dataset._check_field("uid_field", "time_field")
    longest = dataset.config["MAX_ITEM_LIST_LENGTH"]
    unsorted = dataset.inter_feat
    order = stable_order(unsorted[dataset.time_field].numpy())
    order = order[stable_order(unsorted[dataset.uid_field].numpy()[order])]
    columns = unsorted.interaction
    flat = Interaction(
        {name: taken(columns.pop(name), order) for name in list(columns)}
    )  # one unsorted column less each
    users = flat[dataset.uid_field]
    starts = torch.where(_first(users), torch.arange(len(flat)), 0).cummax(0).values  # of each interaction's user
    end = target_places(dataset, flat)
    length_field = dataset.item_list_length_field
    columns = {END: end, length_field: (end - starts[end]).clamp(max=longest)}
    fields = {getattr(dataset, f"{name}_list_field"): name for name in flat.columns if name != dataset.uid_field}
    histories = Histories(flat, tuple(flat.columns), fields, longest, length_field)
    dataset.inter_feat = HistoryRows(columns, histories)


def _first(users):
    """Mask (N,) of where another user begins."""
    first = torch.ones(len(users), dtype=torch.bool)
    first[1:] = users[1:] != users[:-1]
    return first


def target_places(dataset, flat) -> torch.Tensor:
    """Places in a table of all interactions, sorted by user and time, that rows are made of."""
    return (~_first(flat[dataset.uid_field]) & _is_target(dataset, flat)).nonzero().view(-1)


def _is_target(dataset, flat):
    """Mask (N,) of what may be recommended: an item, by an event of the right kind."""
    event_field, wanted = dataset.config["event_field"], dataset.config["target_events"]
    is_item = flat[dataset.iid_field] > 0
    if not wanted:
        return is_item
    if event_field not in flat or dataset.field2type[event_field] != FeatureType.TOKEN:
        raise UserError(f"target_events needs event_field, a token column of the interactions; it is {event_field!r}.")
    known = dataset.field2token_id[event_field]
    if missing := [event for event in wanted if event not in known]:
        names = ", ".join(known)
        raise UserError(f"target_events names {missing[0]!r}, which is no {event_field} of the data; they are {names}.")
    kinds = torch.zeros(len(known), dtype=torch.bool)
    kinds[[known[event] for event in wanted]] = True
    return is_item & kinds[flat[event_field]]


def with_events(dataset) -> pd.DataFrame:
    """The interactions, and behind them the events of ``NAME.event``: they have no item and are part of histories alone.

    Raises:
        UserError: the file has no user or time, or the model reads items alone.
    """
    for field in (dataset.uid_field, dataset.time_field):
        if field not in dataset.event_feat:
            raise UserError(f"The file {dataset.dataset_name}.event needs a column {field!r}.")
    if not getattr(dataset.config.model_class, "reads_events", False):
        raise UserError(f"{dataset.config['model']} reads items alone; leave 'event' out of additional_feat_suffix.")
    both = pd.concat([dataset.inter_feat, dataset.event_feat], ignore_index=True)
    for field in both:  # what is missing elsewhere gets the id 0, or the mean, as in any file
        if dataset.field2type[field] in (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ):
            both[field] = [value if isinstance(value, np.ndarray) else np.empty(0) for value in both[field]]
    return both


def in_exact_order(frame, time_field):
    """A table (pandas) sorted by its times as the file has them.

    RecBole keeps times as 32-bit numbers, which cannot tell two moments of one minute apart (today's Unix times are
    multiples of 128 seconds there), and sorts by these.
    """
    return frame.sort_values(time_field, kind="stable", ignore_index=True)


def install() -> None:
    """Every sequential data set is made here from now on, RecBole's own models' too."""
    datasets = importlib.import_module("recbole.data.dataset")
    Dataset, SequentialDataset = datasets.Dataset, datasets.SequentialDataset
    install_ready_lists()

    @around(SequentialDataset, "data_augmentation")
    def data_augmentation(upstream, self):
        augment(self)

    @around(SequentialDataset, "_change_feat_format")
    def _change_feat_format(upstream, self):
        frame = self.inter_feat
        if self.config["exact_time"] and isinstance(frame, pd.DataFrame) and self.time_field in frame:
            self.inter_feat = in_exact_order(frame, self.time_field)
        upstream(self)

    @around(SequentialDataset, "_load_additional_feat")
    def _load_additional_feat(upstream, self, token, dataset_path):
        known = dict(self.field2source)
        upstream(self, token, dataset_path)
        if getattr(self, "event_feat", None) is not None:
            self.field2source |= {**dict.fromkeys(self.event_feat, FeatureSource.INTERACTION), **known}

    @around(Dataset, "_remap_ID_all")
    def _remap_ID_all(upstream, self):
        if getattr(self, "event_feat", None) is not None:
            self.inter_feat = with_events(self)
            self.feat_name_list.remove("event_feat")
        upstream(self)

    @around(SequentialDataset, "build")
    def build(upstream, self):
        view = self.config["eval_history"] or VIEWS[0]  # RecBole's own Config does not know the key
        training, *held_out = upstream(self)
        if view not in VIEWS and not NEWEST.fullmatch(str(view)):
            raise UserError(f"eval_history is one of {', '.join(VIEWS)}, or newest N with a number, not {view!r}.")
        for part in held_out if view != VIEWS[0] else ():
            part.inter_feat = part.inter_feat.viewed(view, self.config["split_seed"])
        return [training, *held_out]

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


def _with_first_items(rows) -> Interaction:
    """The rows with histories cut to one item, which is all that RecBole's ``inter_matrix`` reads of them."""
    histories = rows.histories
    plain = {name: rows[name] for name in rows.columns if name not in histories.fields}
    end, length = rows[END], rows[histories.length_field]
    return Interaction({**plain, **histories.gather(end - length + 1, torch.ones_like(length), width=1)})
