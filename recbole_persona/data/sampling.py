"""Training batches with negatives, made of whole tensors.

RecBole's loader builds each batch from Python lists and asks one set per row whether a drawn item is a positive. Here a
batch is a few indexing operations, and a negative is drawn, at the first try, from what a user's own items leave over.
"""

import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from torch.utils.data.distributed import DistributedSampler

from recbole_persona.data.ordering import distinct
from recbole_persona.errors import UserError

_MOST_MASS = 2**44  # a double draws every integer below it evenly


def negative_weights(items, n_items, distribution, alpha):
    """How often each item is drawn as a negative, by ``train_neg_sample_args``.

    Args:
        items: (R,) items of the training interactions.
        distribution: ``uniform`` or ``popularity``.
        alpha: power of the number of interactions, for ``popularity``.

    Returns:
        (n_items,) float64, proportional to the probabilities. The padding item has 0 and, for ``popularity``, so has an
        item without training interactions.
    """
    if distribution == "uniform":
        weights = torch.ones(n_items, dtype=torch.float64)
    else:
        counts = torch.bincount(items, minlength=n_items).double()
        weights = torch.where(counts > 0, counts**alpha, 0.0)
    weights[0] = 0
    return weights


class NegativeSampler:
    """Draws items that a user has not interacted with.

    The items that a user may get are laid side by side, each as long as its weight, the user's own left out; one number
    falls on this line. Where it falls is found by binary search among the gaps, so no draw is ever repeated, also for a
    user who has seen almost everything. Lengths are integers: no rounding lets an own item through. Memory: 16 bytes an
    interaction.

    Args:
        users, items: (R,) tensors, the interactions; pairs may occur more than once.
        n_users, n_items: numbers of ids, padding included.
        weights: (n_items,) of :func:`negative_weights`.

    Attributes:
        free: (n_users,) int64 array, length of each user's line; 0 where no item is left.
    """

    def __init__(self, users, items, n_users, n_items, weights):
        users, items = np.divmod(
            distinct(users.numpy() * n_items + items.numpy()), n_items
        )  # sorted by user, then item
        weights = weights.numpy()
        self.even = bool((weights[1:] == weights[1]).all())
        longest = min(_MOST_MASS, 2**62 // max(len(items), n_users, 1))  # no sum below leaves the 64 bits
        lengths = weights > 0 if self.even else np.ceil(weights / weights.sum() * longest)
        lengths = lengths.astype(np.int64)
        self.ends = lengths.cumsum()  # of each item on the line of all items
        self.line = int(self.ends[-1]) + 1
        first = np.searchsorted(users, np.arange(n_users + 1))
        self.own = np.append(0, lengths[items].cumsum())
        self.before = self.own[first[:-1]]  # own length of all users in front of each
        gaps = (self.ends - lengths)[items] - (
            self.own[:-1] - self.before[users]
        )  # free length in front of each own item
        self.gaps = users * self.line + gaps
        self.free = self.ends[-1] - (self.own[first[1:]] - self.before)

    def draw(self, users, numbers):
        """Negatives: one item for each number, with the probability of its weight among those that the user may get.

        Args:
            users: (B,) tensor.
            numbers: (B, N) tensor, float64, evenly from [0, 1).

        Returns:
            (B, N) tensor of items.
        """
        users = users.numpy()[:, None]
        place = (numbers.numpy() * self.free[users]).astype(np.int64)
        passed = np.searchsorted(self.gaps, place + users * self.line, side="right")
        place += self.own[passed] - self.before[users]  # back on the line of all items
        item = place + 1 if self.even else np.searchsorted(self.ends, place, side="right")
        return torch.from_numpy(item)


def checked_sampler(dataset, users, items, weights) -> NegativeSampler:
    """The :class:`NegativeSampler` of interactions of a data set.

    Raises:
        UserError: one of the users has interacted with every item that has a weight.
    """
    sampler = NegativeSampler(users, items, dataset.user_num, dataset.item_num, weights)
    without = users[torch.from_numpy(sampler.free)[users] == 0]
    if len(without):
        user = str(dataset.id2token(dataset.uid_field, int(without[0])))
        raise UserError(
            f"No item is left to be a negative for user {user!r}, who has interacted with all of them; "
            "leave such users out with user_inter_num_interval."
        )
    return sampler


class OrderedTrainLoader(TrainDataLoader):
    """RecBole's training loader, whose ``collate_fn`` is handed the numbers of a batch as a tensor (B,)."""

    def __iter__(self):
        if isinstance(self.sampler, DistributedSampler):
            order = torch.tensor(list(self.sampler))
        elif self.shuffle:
            order = torch.randperm(self.sample_size, generator=self.generator)
        else:
            order = torch.arange(self.sample_size)
        for index in order.split(self.step):
            yield self.collate_fn(index)


class ComputedLoader(TrainDataLoader):
    """RecBole's training loader for a model that is computed from what was chosen: no negatives are drawn."""

    def _neg_sampling(self, inter_feat):
        return inter_feat


class SampledTrainLoader(OrderedTrainLoader):
    """RecBole's training loader, with its settings, for a model that reads (user, item) and negatives as a matrix.

    A batch holds ``user_id`` (B,), ``item_id`` (B,) and ``neg_item_id`` (B, N), N being ``sample_num`` of
    ``train_neg_sample_args``. As in RecBole, ``train_batch_size`` counts pairs of a positive and a negative: B is
    ``train_batch_size // N``. Other columns are left out.

    With ``train_neg_sample_args: ~`` there are no negatives, and a batch holds all interactions of some users,
    ``train_batch_size`` of them on average: what a softmax over all items needs of a user is computed once, not once in
    every batch.

    A popular item is one with many *training* interactions; RecBole counts those held out, too. Dynamic sampling
    (``dynamic: True``), ``repeatable: True`` and ``transform`` are done by RecBole's own code, at its speed. The key
    ``worker`` is not used: making a batch takes less time than to send it from one process to another.

    The order and the negatives come from ``generator`` (RecBole's own code: from numpy).

    Raises:
        UserError: settings of ``train_neg_sample_args`` that mean nothing; a user who has interacted with all items.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        _check(config["train_neg_sample_args"])
        self.users, self.items = dataset.inter_feat[dataset.uid_field], dataset.inter_feat[dataset.iid_field]
        self.by_user = config["train_neg_sample_args"]["distribution"] == "none"
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        self.upstream = self.neg_sample_args["dynamic"] or config["repeatable"] or config["transform"] is not None
        if not self.by_user and not self.upstream:
            self.negatives = self._negative_sampler()

    def _negative_sampler(self):
        dataset, settings = self._dataset, self.neg_sample_args
        weights = negative_weights(self.items, dataset.item_num, settings["distribution"], settings["alpha"])
        return checked_sampler(dataset, self.users, self.items, weights)

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        if self.by_user:  # an index is a user's, no longer a row's
            self.rows = torch.argsort(self.users, stable=True)
            self.active, self.counts = torch.unique(self.users, return_counts=True)
            self.starts = self.counts.cumsum(0) - self.counts
            self.sample_size = len(self.active)
            self.step = max(1, round(self.step * len(self.active) / len(self.users)))

    def collate_fn(self, index):
        """The batch of some interactions (of some users, if no negatives are drawn): (B,) int64 -> Interaction."""
        rows = self._rows_of_users(index) if self.by_user else index
        if self.upstream:
            return self._as_matrix(super().collate_fn(rows.numpy()), len(rows))
        batch = {self.uid_field: self.users[rows], self.iid_field: self.items[rows]}
        if not self.by_user:
            numbers = torch.rand(len(rows), self.neg_sample_num, dtype=torch.float64, generator=self.generator)
            batch[self.neg_item_id] = self.negatives.draw(batch[self.uid_field], numbers)
        return Interaction(batch)

    def _rows_of_users(self, index):
        counts = self.counts[index]
        before = self.starts[index] - (counts.cumsum(0) - counts)
        return self.rows[torch.repeat_interleave(before, counts) + torch.arange(int(counts.sum()))]

    def _as_matrix(self, batch, n_positives):
        """RecBole repeats the positives for each of their negatives; here they stand once."""
        if self.by_user:
            return batch
        columns = {field: batch[field][:n_positives] for field in (self.uid_field, self.iid_field)}
        columns[self.neg_item_id] = batch[self.neg_item_id].view(-1, n_positives).T  # (B, N)
        return Interaction(columns)


def _check(settings):
    """UserError for ``train_neg_sample_args`` that RecBole's ``Config`` lets pass."""
    if settings["distribution"] == "none":
        return
    if not isinstance(settings["sample_num"], int) or settings["sample_num"] < 1:
        raise UserError(
            f"train_neg_sample_args: sample_num is a number of negatives, 1 or more, not {settings['sample_num']!r}."
        )
    if settings["dynamic"] and settings["candidate_num"] < 1:
        raise UserError(
            "train_neg_sample_args: dynamic sampling chooses among candidate_num items; set it to 1 or more."
        )
