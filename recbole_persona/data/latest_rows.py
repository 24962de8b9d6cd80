"""What a sequential model reads of a user to recommend what comes next: the history to its end.

RecBole's case studies rank for the test rows of users alone; here a user without one is ranked for by the end of the history.
"""

import copy

import numpy as np
import torch
from recbole.data.interaction import Interaction, cat_interactions

from recbole_persona.data.histories import END, HistoryRows, target_places
from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around, when_imported


class LatestRows:
    """What a sequential model reads of the users of a data set: the histories to their ends, whatever part of it is given.

    That is the last row of a user, its target behind its history. A user without a row (one interaction has no history)
    is read as the row would be: an empty history, and the interaction behind it.

    Attributes:
        known: (n_users,) whether anything is known of a user.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self._windows = isinstance(dataset.inter_feat, HistoryRows)
        if self._windows:
            flat = dataset.inter_feat.histories.flat
            users = flat[dataset.uid_field].numpy()  # in their order
            self._first = np.searchsorted(users, np.arange(dataset.user_num))
            self._last = np.full(dataset.user_num, -1)
            self._last[users] = np.arange(len(users))  # of equal users the last
            targets = target_places(dataset, flat).numpy()
            self._last[users[targets]] = targets
        else:
            self._last = last_rows(dataset)
        self.known = self._last >= 0

    def rows(self, users) -> Interaction:
        """Rows (B) of known users (B,), by internal ids."""
        last = torch.as_tensor(self._last[users])
        if not self._windows:
            return next_rows(self.dataset, self.dataset[last])
        histories = self.dataset.inter_feat.histories
        length = (last - torch.as_tensor(self._first[users])).clamp(max=histories.longest)
        rows = HistoryRows({END: last, histories.length_field: length}, histories)
        return next_rows(self.dataset, self.dataset.join(rows.gathered()))


def last_rows(dataset) -> np.ndarray:
    """(n_users,) index of every user's last row in a sequential data set, -1 where there is none."""
    rows = np.full(dataset.user_num, -1)
    users = dataset.inter_feat[dataset.uid_field].numpy()
    np.maximum.at(rows, users, np.arange(len(users)))  # rows are in the order of time
    return rows


def next_rows(dataset, rows) -> Interaction:
    """The rows that would follow: every list with the row's own value at its end (a full one loses its first)."""
    suffix, length_field = dataset.config["LIST_SUFFIX"], dataset.item_list_length_field
    length = rows[length_field]
    for field in [name for name in rows.interaction if name + suffix in rows.interaction]:
        lists = rows[field + suffix].clone()  # (B, L, ...)
        full = length >= lists.shape[1]
        lists[full] = lists[full].roll(-1, dims=1)
        lists[torch.arange(len(lists)), length.clamp(max=lists.shape[1] - 1)] = rows[field].to(lists.dtype)
        rows.update(Interaction({field + suffix: lists}))
    longest = rows[dataset.iid_field + suffix].shape[1]
    rows.update(Interaction({length_field: (length + 1).clamp(max=longest)}))
    return rows


class _WithRows:
    """The test part of a sequential data set, with a row behind its own for each of the users who have none there.

    Args:
        users: (B,) internal ids.

    Raises:
        UserError: nothing is known of a user.
    """

    def __init__(self, dataset, users):
        self.dataset = dataset
        own = dataset.inter_feat[dataset.uid_field]
        self._without = np.setdiff1d(users, own.numpy())
        self._latest = LatestRows(dataset) if len(self._without) else None  # it reads all interactions
        if self._latest and len(unknown := self._without[~self._latest.known[self._without]]):
            names = ", ".join(map(repr, map(str, dataset.id2token(dataset.uid_field, unknown[:5]))))
            raise UserError(
                f"The test data hold no history of user {names} to rank by; recbole_persona.recommend reads all parts."
            )
        self.inter_feat = {dataset.uid_field: torch.cat([own, torch.from_numpy(self._without)])}

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __getitem__(self, index):
        n_own = len(self.dataset.inter_feat)
        is_own = index < n_own
        parts = [self.dataset[index[is_own]]]
        if not is_own.all():
            parts.append(self._latest.rows(self._without[index[~is_own] - n_own]))
        place = torch.cat([is_own.nonzero(), (~is_own).nonzero()]).view(-1)
        return cat_interactions(parts)[place.argsort()]


def install() -> None:
    """RecBole's ``full_sort_scores`` and ``full_sort_topk`` rank for every user from now on."""

    def mend(case_study):
        @around(case_study, "full_sort_scores")
        def full_sort_scores(upstream, uid_series, model, test_data, device=None):
            if getattr(test_data, "is_sequential", False):
                test_data = copy.copy(test_data)
                test_data._dataset = _WithRows(test_data._dataset, np.asarray(uid_series))
            return upstream(uid_series, model, test_data, device)

    when_imported("recbole.utils.case_study", mend)
