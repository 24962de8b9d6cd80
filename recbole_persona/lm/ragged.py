"""Rows of token ids of different lengths, side by side in one tensor.

A prompt is put together from pieces (literal text, ids of items, sentences) that were tokenised once; no text is
tokenised, and no Python loop runs over rows, when a batch is made.
"""

from typing import NamedTuple

import torch


class Ragged(NamedTuple):
    """``R`` rows: row r is ``values[offsets[r]:offsets[r + 1]]``."""

    values: torch.Tensor  # (N,) int64
    offsets: torch.Tensor  # (R + 1,) int64, from 0 to N

    @classmethod
    def of(cls, rows):
        """Lists of token ids, one a row."""
        lengths = torch.tensor([0, *map(len, rows)])
        return cls(torch.tensor([token for row in rows for token in row], dtype=torch.int64), lengths.cumsum(0))

    @property
    def lengths(self):
        """(R,)"""
        return self.offsets.diff()

    def take(self, rows):
        """The rows (B,), some perhaps more than once."""
        lengths = self.lengths[rows]
        offsets = _ends(lengths)
        return Ragged(self.values[_places(self.offsets[rows], lengths, offsets)], offsets)

    def joined(self, counts):
        """Rows joined: the first ``counts[0]`` of them to one row, the next ``counts[1]``, and so on; counts (B,)."""
        return Ragged(self.values, self.offsets[_ends(counts)])

    def first(self, most):
        """Every row's first ``most`` values."""
        lengths = self.lengths.clamp(max=most)
        offsets = _ends(lengths)
        return Ragged(self.values[_places(self.offsets[:-1], lengths, offsets)], offsets)

    def filled(self, value):
        """Rows of the same lengths, with one value everywhere."""
        return Ragged(torch.full_like(self.values, value), self.offsets)

    def at_ends(self, numbers):
        """(N,) the numbers (R,) at the last values of their rows, 0 elsewhere; an empty row has no place for its number."""
        found = torch.zeros_like(self.values)
        some = self.lengths > 0
        found[self.offsets[1:][some] - 1] = numbers[some]
        return found

    def padded(self, side="right", fill=0):
        """(B, L) values and mask, L the longest row; ``side`` says where the padding goes."""
        lengths = self.lengths
        width = int(lengths.max()) if len(lengths) else 0
        steps = torch.arange(width, device=self.values.device)
        start = width - lengths if side == "left" else torch.zeros_like(lengths)
        mask = (steps >= start.unsqueeze(1)) & (steps < (start + lengths).unsqueeze(1))
        values = self.values.new_full(mask.shape, fill)
        values[mask] = self.values
        return values, mask


def concatenated(parts):
    """Row by row, the rows of all ``parts`` (of R rows each) behind one another."""
    lengths = torch.stack([part.lengths for part in parts], dim=1)  # (R, P)
    offsets = _ends(lengths.flatten())  # of every piece in the result
    values = parts[0].values.new_empty(int(offsets[-1]))
    starts = offsets[:-1].view(lengths.shape)  # (R, P)
    for number, part in enumerate(parts):
        own = _places(starts[:, number], part.lengths, part.offsets)
        values[own] = part.values
    return Ragged(values, offsets[:: len(parts)])


def _ends(lengths):
    """(R,) lengths -> (R + 1,) where rows of such lengths begin and end."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _places(starts, lengths, offsets):
    """(N,) places of the values of rows that begin at ``starts`` (R,), row by row; ``offsets`` are those of the rows."""
    return torch.arange(int(offsets[-1]), device=lengths.device) + (starts - offsets[:-1]).repeat_interleave(lengths)
