"""Sequences of different lengths laid end to end: what is done to every position alike costs no padding.

Shapes: B sequences, N positions of all of them together, T the longest, H heads, d dimensions.
"""

import torch
from torch.nn import functional as F

FILL = 2 / 3  # a sequence shorter than this share of its group's longest begins a new group


class Packing:
    """Where the positions of B sequences lie in a packed tensor (N, ...): the longest sequence first, each in order.

    Args:
        lengths: (B,) int64; 0 is a sequence without positions.

    Attributes:
        row: (N,) sequence of each position.
        step: (N,) its place in the sequence, from 0.
        last: (B,) place of each sequence's last position in the packed tensor, 0 for an empty one.
        empty: (B,) bool.
    """

    def __init__(self, lengths):
        self.lengths, device = lengths, lengths.device
        order = lengths.argsort(descending=True, stable=True)
        sizes = lengths[order]
        ends = sizes.cumsum(0)
        known = sizes.tolist()  # the only time that packing waits for the device
        number = sum(known)
        self.row = torch.repeat_interleave(order, sizes, output_size=number)
        self.step = torch.arange(number, device=device) - torch.repeat_interleave(
            ends - sizes, sizes, output_size=number
        )
        self.empty = lengths == 0
        self.last = torch.empty_like(ends).scatter_(0, order, (ends - 1).clamp(min=0))
        self._groups = list(self._grouped(sizes, known))

    def __len__(self):
        return len(self.row)

    def _grouped(self, on_device, sizes):
        """(first position, position behind the last, sequences, longest, slots) of sequences of similar length.

        ``slots`` (n,) are the places of the n positions in the padded group, None if it has no padding.
        """
        first = top = 0
        while top < len(sizes) and sizes[top]:
            longest, bottom, end = sizes[top], top, first
            while bottom < len(sizes) and sizes[bottom] and sizes[bottom] >= FILL * longest:
                end += sizes[bottom]
                bottom += 1
            slots = None
            if end - first < (bottom - top) * longest:
                rows = torch.arange(bottom - top, device=self.step.device)
                slots = torch.repeat_interleave(rows * longest, on_device[top:bottom], output_size=end - first)
                slots = slots + self.step[first:end]
            yield first, end, bottom - top, longest, slots
            first, top = end, bottom

    def pack(self, padded):
        """(B, T, ...) -> (N, ...)."""
        return padded[self.row, self.step]

    def pad(self, packed, width):
        """(N, ...) -> (B, width, ...), zeros behind each sequence."""
        padded = packed.new_zeros(len(self.lengths) * width, *packed.shape[1:])
        padded = padded.index_copy(0, self.row * width + self.step, packed)
        return padded.view(len(self.lengths), width, *packed.shape[1:])  # (B, width, ...)

    def newest(self, packed):
        """(N, ...) -> (B, ...), each sequence's last position, zeros for an empty one."""
        if not len(packed):
            return packed.new_zeros(len(self.lengths), *packed.shape[1:])
        values = packed[self.last]
        return values.masked_fill(self.empty.view(-1, *[1] * (values.dim() - 1)), 0)

    def causal_attention(self, mixed, n_heads, dropout=0.0):
        """Attention of every position to itself and to what stands before it in its sequence.

        Sequences of similar length are padded together. Padding stands behind a sequence, where causal attention does
        not look: no mask is needed.

        Args:
            mixed: (N, 3 d), queries, keys and values.
            n_heads: H, divides d.
            dropout: of the attention weights.

        Returns:
            (N, d).
        """
        parts = []
        for first, end, rows, width, slots in self._groups:
            group = mixed[first:end]
            if slots is not None:
                group = group.new_zeros(rows * width, group.shape[1]).index_copy(0, slots, group)
            heads = group.view(rows, width, 3, n_heads, -1).permute(2, 0, 3, 1, 4)  # (3, rows, H, width, d / H)
            attended = F.scaled_dot_product_attention(*heads, dropout_p=dropout, is_causal=True)
            attended = attended.transpose(1, 2).reshape(rows * width, -1)  # (rows * width, d)
            parts.append(attended if slots is None else attended[slots])
        return torch.cat(parts) if parts else mixed[:, : mixed.shape[1] // 3]
