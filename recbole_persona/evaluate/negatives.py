"""Evaluation against sampled negatives, drawn once: the same for every model, model seed, batch size and epoch.

RecBole draws others at every evaluation, user by user in a Python loop.
"""

import numpy as np
import torch
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.data.interaction import Interaction

from recbole_persona.data.mixing import mixed
from recbole_persona.data.sampling import NegativeSampler
from recbole_persona.errors import UserError
from recbole_persona.evaluate.protocols import excluded
from recbole_persona.evaluate.seen import PHASES, training_popularity, up_to_phase, up_to_targets

_CELLS = 1 << 22  # negatives that are drawn at once: what bounds the memory
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class SameNegatives(NegSampleEvalDataLoader):
    """RecBole's loader of ``uniN``, ``popN`` and ``labeled``, with negatives that stay the same.

    They depend on ``split_seed``, the part (validation or test), the user and the target, and on nothing else, so models
    that share a split share them. As in RecBole they are drawn with replacement; ``popN`` follows the number of *training*
    interactions (RecBole counts those held out, too). Which items are never drawn: see
    :func:`~recbole_persona.evaluate.protocols.excluded`.

    A batch is what RecBole's is: ``(rows, cases, positive_u, positive_i)``, a case being a user; the rows of a case are its
    targets, then the first negative of each, and so on.

    Attributes:
        negatives: (N, number) items, int32 where they fit, for the rows of the data set, which are sorted by user; None
            before the first iteration.

    Raises:
        UserError: nothing is left to be a negative of some user.
    """

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        self.negatives = None
        if self.times == 1:  # labelled rows, as they are
            return
        self.uid_list = self.uid_list.astype(np.int64)  # of a part without rows it is an array of doubles
        self.counts = torch.from_numpy(self.uid2items_num[self.uid_list])  # rows of every user
        self.starts = self.counts.cumsum(0) - self.counts

    def __iter__(self):
        if self.negatives is None and self.times > 1 and self.sample_size:  # drawn here, and not once in every worker
            self.negatives = self._drawn()
        return super().__iter__()

    def check(self) -> None:
        """Refuse, before anything is drawn, a user for whom nothing is left to be a negative.

        Raises:
            UserError: names the user.
        """
        if self.times > 1 and self.sample_size:
            self._sampled_lines()

    def _drawn(self):
        dataset, number = self._dataset, self.neg_sample_num
        users, items = (dataset.inter_feat[field] for field in (self.uid_field, self.iid_field))
        lines, drawn = self._sampled_lines()
        negatives = torch.empty(len(users), number, dtype=torch.int32 if dataset.item_num < 2**31 else torch.int64)
        key = mixed(np.uint64(self.config["split_seed"])) + np.uint64(PHASES.index(self._sampler.phase))
        for rows in torch.arange(len(users)).split(max(1, _CELLS // number)):
            numbers = chances(key, users[rows].numpy(), items[rows].numpy(), number)
            negatives[rows] = drawn.draw(lines[rows], torch.from_numpy(numbers)).to(negatives.dtype)
        return negatives

    def _sampled_lines(self):
        """The line (R,) that each row draws from, and the :class:`NegativeSampler` of the lines."""
        dataset, sampler = self._dataset, self._sampler
        users, items = (dataset.inter_feat[field] for field in (self.uid_field, self.iid_field))
        cases = torch.from_numpy(np.searchsorted(self.uid_list, users.numpy()))
        lines = torch.arange(len(users)) if excluded(self.config) == "target" else cases
        weights = torch.ones(dataset.item_num, dtype=torch.float64)
        if self.neg_sample_args["distribution"] == "popularity":
            weights = torch.from_numpy(training_popularity(sampler))
        weights[0] = 0
        drawn = NegativeSampler(*self._not_drawn(lines, cases, items), int(lines[-1]) + 1, dataset.item_num, weights)
        without = users[torch.from_numpy(drawn.free)[lines] == 0]
        if len(without):
            user = str(dataset.id2token(self.uid_field, int(without[0])))
            raise UserError(
                f"No item is left to be a negative for user {user!r}; leave such users out with user_inter_num_interval, "
                "or set mask_history: False."
            )
        return lines, drawn

    def _not_drawn(self, lines, cases, items):
        """``(lines, items)``: pairs of a line (a row, or a user) and an item that it must not get."""
        if excluded(self.config) != "history":
            return lines, items
        if self.is_sequential:
            return up_to_targets(self._dataset, cases)
        users, seen = up_to_phase(self._sampler)
        here = np.isin(users.numpy(), self.uid_list)
        return torch.from_numpy(np.searchsorted(self.uid_list, users.numpy()[here])), seen[here]

    def collate_fn(self, index):
        """A batch of some users, by their place in ``uid_list``; of rows, where they are labelled."""
        if self.times == 1:
            return super().collate_fn(index)
        index = torch.as_tensor(index)
        counts = self.counts[index]
        before = counts.cumsum(0) - counts
        cases = torch.repeat_interleave(torch.arange(len(index)), counts)  # (P,) of every target
        rows = self.starts[index][cases] + torch.arange(len(cases)) - before[cases]

        targets = self._dataset.inter_feat[self.iid_field][rows]
        candidates = torch.cat([targets.unsqueeze(1), self.negatives[rows].long()], dim=1)  # (P, 1 + number)
        # RecBole's order: a case after the other, within a case the targets, then a negative of each, and so on
        turn = torch.arange(self.times) * counts[cases].unsqueeze(1)  # (P, 1 + number)
        place = turn + (before[cases] * (self.times - 1) + torch.arange(len(cases))).unsqueeze(1)
        order = torch.empty(place.numel(), dtype=torch.int64)
        order[place.view(-1)] = torch.arange(place.numel())
        row = order // self.times  # of the batch's targets

        columns = self.transform(self._dataset, self._dataset[rows]).interaction
        columns = {name: value[row] for name, value in columns.items()}
        batch = self._dataset.join(Interaction({**columns, self.iid_field: candidates.view(-1)[order]}))
        batch.update(Interaction({self.label_field: (order % self.times == 0).float()}))
        batch.target = row  # evaluate/candidates.py reads every history once
        return batch, cases[row], cases, targets


def chances(key, users, items, number):
    """Numbers from [0, 1) that belong to a user and a target, whatever stands around them.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): its own stream for every pair.

    Args:
        key: uint64.
        users, items: (B,) int64 arrays.

    Returns:
        (B, number) float64, multiples of 2^-53.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        state = mixed(mixed(key + users.astype(np.uint64) * _GOLDEN) + items.astype(np.uint64) * _GOLDEN)
        steps = np.arange(1, number + 1, dtype=np.uint64) * _GOLDEN
        return (mixed(state[:, None] + steps) >> np.uint64(11)) * 2.0**-53
