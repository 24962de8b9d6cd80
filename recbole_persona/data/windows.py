"""Training batches for causal models: windows of users' sequences in which every position has a target."""

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_persona.data.histories import END, HistoryRows
from recbole_persona.data.sampling import OrderedTrainLoader
from recbole_persona.errors import UserError


def cut(inputs, longest, stride):
    """Windows of sequences, the newest first, each ``stride`` places older than the one before.

    A window's targets are those of its inputs that no newer window has: every target of a sequence stands in one window.

    Args:
        inputs: (S,) int64 array, inputs of each sequence.
        longest: inputs of a window at most.
        stride: from one window to the next, 1 to ``longest``.

    Returns:
        (W,) arrays: the window's sequence, where in it the window begins and ends, and how many of the last of its inputs
        have a target here.
    """
    number = 1 + np.maximum(-(-(inputs - longest) // stride), 0)  # of windows of each sequence
    sequence = np.repeat(np.arange(len(inputs)), number)
    back = np.arange(len(sequence)) - np.repeat(number.cumsum() - number, number)  # windows from the newest
    end = inputs[sequence] - back * stride
    start = np.maximum(end - longest, 0)
    oldest = back == number[sequence] - 1
    return sequence, start, end, np.where(oldest, end - start, np.minimum(stride, end - start))


class WindowTrainLoader(OrderedTrainLoader):
    """RecBole's training loader for a model that predicts at every position of a sequence.

    A batch holds ``user_id`` (B,), the inputs as ``<field>_list`` (B, T), oldest first and padded with zeros to the longest
    of the batch, ``item_length`` (B,), and ``next_<field>_list`` (B, T), what follows each input; its item is 0 where the
    position has no target. A window has at most ``MAX_ITEM_LIST_LENGTH`` inputs; ``window_stride`` (the same by default)
    is the step from one to the next: with a smaller one, positions are trained with more of their past, at more cost.
    Each interaction that is a target of the training part is one exactly once in an epoch.

    ``train_batch_size`` counts targets, on average, as RecBole's loader does.

    Raises:
        UserError: ``window_stride`` outside 1 to ``MAX_ITEM_LIST_LENGTH``, a ``transform``, or ready-made lists.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        longest = config["MAX_ITEM_LIST_LENGTH"]
        stride = longest if config["window_stride"] is None else config["window_stride"]
        if not 1 <= stride <= longest:
            raise UserError(f"window_stride is 1 to MAX_ITEM_LIST_LENGTH ({longest}), not {stride}.")
        if config["transform"] is not None:
            raise UserError(
                f"{config['model']} trains on windows, which the transform {config['transform']!r} does not know."
            )
        rows = dataset.inter_feat
        if not isinstance(rows, HistoryRows):
            raise UserError(
                f"{config['model']} trains on whole sequences, which ready-made lists (benchmark_filename) are not: leave "
                "benchmark_filename out and split by time, as in eval_args: {split: {LS: valid_and_test}, order: TO}."
            )
        self.histories, self.user_field = rows.histories, dataset.uid_field
        self._cut_windows(rows[END].numpy(), rows[dataset.uid_field].numpy(), longest, stride)
        super().__init__(config, dataset, sampler, shuffle=shuffle)

    def _cut_windows(self, targets, users, longest, stride):
        """The windows of every user: from the user's first interaction to their last target."""
        order = np.argsort(targets)
        targets, users = targets[order], users[order]
        last = np.flatnonzero(np.append(users[1:] != users[:-1], True))  # of each user's targets
        all_users = self.histories.flat[self.user_field].numpy()
        first = np.searchsorted(all_users, users[last])  # place of each user's first interaction
        sequence, start, end, new = cut(targets[last] - first, longest, stride)
        self.users = torch.from_numpy(users[last][sequence])
        self.ends = torch.from_numpy(first[sequence] + end)
        self.lengths, self.new = torch.from_numpy(end - start), torch.from_numpy(new)
        self.n_targets = len(targets)
        self.is_target = torch.zeros(len(all_users), dtype=torch.bool)
        self.is_target[torch.from_numpy(targets)] = True

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        self.sample_size = len(self.users)
        self.step = max(1, round(self.step * len(self.users) / self.n_targets))

    def collate_fn(self, index):
        """The batch of some windows: (B,) int64 -> Interaction."""
        index = torch.as_tensor(index)
        end, length, new = self.ends[index], self.lengths[index], self.new[index]
        width = int(length.max())
        inside, places = self.histories.places(end, length, width)  # (B, T)
        following = torch.where(inside, places + 1, 0)
        steps = torch.arange(width)
        trained = inside & (steps >= (length - new).unsqueeze(1)) & self.is_target[following]
        batch = {self.user_field: self.users[index], self.histories.length_field: length}
        for name, source in self.histories.fields.items():
            values = self.histories.flat[source]
            shape = inside.shape + (1,) * (values.dim() - 1)
            batch[name] = values[places].masked_fill_(~inside.view(shape), 0)
            batch[f"next_{name}"] = values[following].masked_fill_(~trained.view(shape), 0)
        return Interaction(batch)
