"""Which part of a whole carries how much of it: what is lost when the part is left out.

Shapes: B sequences of T places at most, M places of all of them together.
"""

import torch


def without_each(columns, lengths):
    """Every sequence without each of its places in turn.

    Args:
        columns: (B, T, ...) tensors by name, the sequences from place 0 on.
        lengths: (B,) int64.

    Returns:
        The columns (M, max(T, 2) - 1, ...), and of each new sequence the one it comes from and the place left out, both (M,).
    """
    row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    ends = lengths.cumsum(0)
    left_out = torch.arange(len(row), device=lengths.device) - (ends - lengths)[row]
    width = next(iter(columns.values())).shape[1]
    steps = torch.arange(max(width, 2) - 1, device=lengths.device)
    places = (steps + (steps >= left_out.unsqueeze(1))).clamp(max=width - 1)  # (M, T - 1)
    shorter = {name: values[row.unsqueeze(1), places] for name, values in columns.items()}
    return shorter, row, left_out


def even_remainder(lost, whole, present):
    """Contributions that sum to the whole: what is lost without a part, and an even share of what no single part carries.

    The egalitarian non-separable contribution value of cooperative games (Driessen and Funaki 1991): the order of the
    parts is that of the losses.

    Args:
        lost: (B, T) the whole minus the whole without the part.
        whole: (B,).
        present: (B, T) bool, which parts there are.

    Returns:
        (B, T), 0 where there is no part.
    """
    lost = lost.masked_fill(~present, 0.0)
    remainder = (whole - lost.sum(dim=1)) / present.sum(dim=1).clamp(min=1)  # (B,)
    return (lost + remainder.unsqueeze(1)).masked_fill(~present, 0.0)
