"""RecBole's splits by user without its loop over the interactions: the same parts, their rows in the same order."""

import importlib
from itertools import pairwise

import numpy as np
import pandas as pd

from recbole_persona.data.ordering import stable_order
from recbole_persona.upstream.repair import around


class Groups:
    """Rows by group: groups in the order of their first row, rows in theirs.

    Args:
        keys: (N,) array.

    Attributes:
        rows: (N,) row numbers, group by group.
        counts: (G,) rows of each group.
        number: (N,) group of ``rows``.
        place: (N,) place of ``rows`` within their group.
    """

    def __init__(self, keys):
        codes, groups = pd.factorize(keys)
        self.rows = stable_order(codes)
        self.counts = np.bincount(codes, minlength=len(groups))
        self.number = codes[self.rows]
        starts = self.counts.cumsum() - self.counts
        self.place = np.arange(len(keys)) - starts[self.number]

    def parts(self, ends) -> list[np.ndarray]:
        """Cut every group. ``ends``: (parts, G), where in the group each part ends; the last part ends at ``counts``."""
        part = (self.place >= ends[:, self.number]).sum(axis=0)
        return [self.rows[part == number] for number in range(len(ends))]


def leave_one_out(dataset, group_by, leave_one_mode):
    """As RecBole's ``Dataset.leave_one_out``, whose parts these are."""
    if group_by is None:
        raise ValueError("leave one out strategy require a group field")
    held_out = {"valid_and_test": 2, "valid_only": 1, "test_only": 1}.get(leave_one_mode)
    if held_out is None:
        raise NotImplementedError(f"The leave_one_mode [{leave_one_mode}] has not been implemented.")
    groups = Groups(dataset.inter_feat[group_by].numpy())
    legal = np.minimum(held_out, groups.counts - 1)  # a group keeps its first row for training
    # where one row is held out in place of two, it is for the test
    ends = np.stack([groups.counts - np.minimum(left, legal) for left in range(held_out, -1, -1)])
    parts = groups.parts(ends)
    if leave_one_mode == "valid_only":
        parts.append(np.empty(0, dtype=np.int64))
    elif leave_one_mode == "test_only":
        parts.insert(1, np.empty(0, dtype=np.int64))
    return _copies(dataset, parts)


def split_by_ratio(dataset, ratios, group_by=None):
    """As RecBole's ``Dataset.split_by_ratio``, whose parts these are."""
    ratios = [ratio / sum(ratios) for ratio in ratios]
    if group_by is None:
        cuts = [0, *dataset._calcu_split_ids(tot=len(dataset), ratios=ratios), len(dataset)]
        return _copies(dataset, [np.arange(start, end) for start, end in pairwise(cuts)])
    groups = Groups(dataset.inter_feat[group_by].numpy())
    sizes, which = np.unique(groups.counts, return_inverse=True)
    cuts = np.array([[*dataset._calcu_split_ids(tot=int(size), ratios=ratios), size] for size in sizes])
    return _copies(dataset, groups.parts(cuts[which].T))


def time_based_split(dataset, ratios, group_by):
    """As RecBole's ``Dataset.time_based_split``, whose parts these are.

    RecBole counts how many rows of a user are not behind the boundary, and takes as many from the front of the user's rows.
    """
    if group_by is None:
        raise ValueError("Time-based split strategy requires a group field")
    if dataset.time_field not in dataset.inter_feat:
        raise ValueError(f"Field [{dataset.time_field}] is not in inter_feat.")
    ratios = [ratio / sum(ratios) for ratio in ratios]
    times = dataset.inter_feat[dataset.time_field].numpy()
    early = times <= np.percentile(times, 100 * (1 - ratios[-1]))
    groups = Groups(dataset.inter_feat[group_by].numpy())
    kept = np.bincount(groups.number, weights=early[groups.rows], minlength=len(groups.counts)).astype(np.int64)
    trained = (kept * (ratios[0] / (1 - ratios[2]))).astype(np.int64)
    return _copies(dataset, groups.parts(np.stack([trained, kept, groups.counts])))


def install() -> None:
    """Every data set is split so, RecBole's own models' too."""
    Dataset = importlib.import_module("recbole.data.dataset.dataset").Dataset
    for method in (leave_one_out, split_by_ratio, time_based_split):

        @around(Dataset, method.__name__)
        def split(upstream, self, *args, method=method, **kwargs):
            return method(self, *args, **kwargs)


def _copies(dataset, parts):
    dataset._drop_unused_col()
    return [dataset.copy(dataset.inter_feat[part]) for part in parts]
