"""Attention of a user over the users who are like them (PeaPOD, section 3)."""

import math

import torch
from torch import nn


class NeighbourAttention(nn.Module):
    """Multi-head attention with one query, without dropout, residual, norm or output matrix.

    Args:
        dimension: D of user vectors; n_heads divides it.
    """

    def __init__(self, dimension, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(dimension, dimension)
        self.key = nn.Linear(dimension, dimension)
        self.value = nn.Linear(dimension, dimension)

    def forward(self, user, neighbours, present):
        """Weights and values.

        Args:
            user: (B, D). neighbours: (B, n, D). present: (B, n) bool, which neighbours there are.

        Returns:
            weights (B, H, n), rows of users without a neighbour zero, and values (B, n, H, D / H); their sum over the
            neighbours is the context.
        """
        heads = (self.n_heads, user.shape[1] // self.n_heads)
        query = self.query(user).view(len(user), *heads)  # (B, H, D / H)
        key = self.key(neighbours).view(*present.shape, *heads)  # (B, n, H, D / H)
        value = self.value(neighbours).view(*present.shape, *heads)
        logits = torch.einsum("bhe,bnhe->bhn", query, key) / heads[1] ** 0.5
        weights = logits.masked_fill(~present.unsqueeze(1), torch.finfo(logits.dtype).min).softmax(dim=2)
        return weights * present.unsqueeze(1), value


def divergence(weights):
    """(B,) how differently heads attend: the mean over pairs of heads of the Jensen-Shannon divergence, in bits.

    0: all heads weigh the neighbours alike, or there is one head; 1: no two heads look at the same neighbour.

    Args:
        weights: (B, H, n), each head's sum to one.
    """
    heads = weights.shape[1]
    first, second = torch.triu_indices(heads, heads, 1, device=weights.device)
    if not len(first):
        return weights.new_zeros(len(weights))
    entropy = torch.special.entr(weights).sum(dim=2)  # (B, H), in nats
    middle = torch.special.entr((weights[:, first] + weights[:, second]) / 2).sum(dim=2)  # (B, pairs)
    nats = middle - (entropy[:, first] + entropy[:, second]) / 2
    return nats.clamp(min=0).mean(dim=1) / math.log(2)
