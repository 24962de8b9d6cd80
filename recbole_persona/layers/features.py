"""Features of what a user did, as parts of the input of a sequence model and as what it predicts.

Each kind is a module with ``forward(values)``, the part (N, size) of the input, zeros where nothing is known, and
``loss(states, values)``, the mean cross-entropy of the values given states (N, d) over the rows that have a value.
"""

import torch
from torch import nn

from recbole_persona.layers.softmax_loss import table_cross_entropy


class TokenFeature(nn.Module):
    """One token of a vocabulary, such as an event type: values (N,) int64, 0 where it is not known.

    The state, brought to the size of the table, is compared with the same table that the input reads.

    Args:
        n_tokens: size of the vocabulary, padding included.
        size: of its vectors.
        state_size: d.
    """

    def __init__(self, n_tokens, size, state_size):
        super().__init__()
        self.table = nn.Embedding(n_tokens, size, padding_idx=0)
        self.question = nn.Linear(state_size, size)

    def forward(self, values):
        return self.table(values)

    def loss(self, states, values):
        known = values > 0
        return table_cross_entropy(self.question(states[known]), self.table.weight[1:], values[known] - 1)


class TokenSetFeature(TokenFeature):
    """Several tokens of a vocabulary, such as categories: values (N, S) int64, padded with 0.

    Read as the mean of their vectors; each of them is predicted, and counts evenly.
    """

    def forward(self, values):
        return self._shares(values).unsqueeze(1).matmul(self.table(values)).squeeze(1)  # (N, 1, S) (N, S, size)

    def loss(self, states, values):
        known = (values > 0).any(dim=1)
        values = values[known]
        target = (values - 1).clamp(min=0)
        return table_cross_entropy(
            self.question(states[known]), self.table.weight[1:], target, share=self._shares(values)
        )

    def _shares(self, values):
        present = (values > 0).to(self.table.weight.dtype)
        return present / present.sum(dim=1, keepdim=True).clamp(min=1)  # (N, S)


class NumberFeature(nn.Module):
    """A number, such as a rating: values (N,).

    Read as one learned direction, as far as the number is from its mean; predicted by a normal distribution of variance
    one, whose cross-entropy is half the squared error (and a constant, left out). One unit is the deviation in ``known``.

    Args:
        known: (M,) values that give mean and deviation.
        size: of the direction.
        state_size: d.
    """

    def __init__(self, known, size, state_size):
        super().__init__()
        known = known.double()
        deviation = known.std(correction=0)
        self.register_buffer("mean", known.mean().float())
        self.register_buffer("unit", torch.where(deviation > 0, deviation, 1.0).float())
        self.direction = nn.Parameter(torch.empty(size))
        self.question = nn.Linear(state_size, 1)

    def forward(self, values):
        return self._units(values).unsqueeze(1) * self.direction

    def loss(self, states, values):
        if not len(states):
            return self.question(states).sum()  # 0, with a gradient of zeros
        return (self.question(states).squeeze(1) - self._units(values)).square().mean() / 2

    def _units(self, values):
        return (values - self.mean) / self.unit


class TimeGaps(nn.Module):
    """How long it was since the step before: a vector for each power of two of the shortest gap there is.

    The first step of a sequence has the vector 0: what stood before it is not known.

    Args:
        known: (M,) gaps in any unit; the shortest above 0 is 1.
        size: of the vectors.
    """

    LONGEST = 32  # 2**32 seconds are 136 years

    def __init__(self, known, size):
        super().__init__()
        known = known[known > 0]
        self.register_buffer("shortest", known.min().float() if len(known) else torch.tensor(1.0))
        self.table = nn.Embedding(self.LONGEST + 2, size, padding_idx=0)

    def forward(self, times, step):
        """Times (N,) of packed sequences, in order, and their steps (N,) from 0 -> (N, size)."""
        gaps = (times - times.roll(1)).clamp(min=0) / self.shortest
        buckets = 1 + torch.log2(gaps + 1).long().clamp(max=self.LONGEST)
        return self.table(torch.where(step > 0, buckets, 0))
