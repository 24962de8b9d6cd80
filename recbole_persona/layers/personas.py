"""Attention of candidate items over the personas of a user.

A user is a set of K vectors p_1..p_K; a candidate item q asks which of them speaks. Shapes: B users (or rows), K
personas, N candidates, d dimensions, a dimensions of the attention.
"""

import torch
from torch import nn
from torch.nn import functional as F

VARIANTS = ("journal", "conference")
ATTENTIONS = ("learned", "argmax", "uniform", "fixed")


class PersonaAttention(nn.Module):
    """Weights a_k >= 0 of the K personas for each candidate item, with sum_k a_k = 1.

    Args:
        dimension: d.
        n_personas: K.
        variant: what is compared. ``journal``: p_k . q; ``conference``: cos(W_p p_k + c_p, W_q q + c_q).
        kind: ``learned``: softmax_k of the comparison over ``temperature``; ``argmax``: its largest alone (the gradient
            is that of ``learned``); ``uniform``: 1/K; ``fixed``: softmax of a mixture that a user brings to every item.
        size: a, dimension of the two projections of ``conference``.
        temperature: what the comparison is divided by.
    """

    def __init__(self, dimension, n_personas, variant, kind, size, temperature):
        super().__init__()
        self.n_personas, self.kind, self.temperature = n_personas, kind, temperature
        self.asks = n_personas > 1 and kind in ("learned", "argmax")  # the item has a say in the weights
        self.projects = self.asks and variant == "conference"
        if self.projects:
            self.persona_map = nn.Linear(dimension, size)
            self.item_map = nn.Linear(dimension, size)

    def keys(self, items):
        """What a candidate brings to the comparison: (..., N, d) -> (..., N, a), or None where its vector is enough."""
        return F.normalize(self.item_map(items), dim=-1) if self.projects else None

    def forward(self, personas, keys, responses, mixture=None):
        """The weights.

        Args:
            personas: (B, K, d).
            keys: (B, N, a) or (N, a), from :meth:`keys`.
            responses: (B, K, N), p_k . q of every persona and candidate.
            mixture: (B, K), logits, for ``fixed``; 1/K each if None.

        Returns:
            (B, K, N), or (B, K, 1) where the candidate has no say.
        """
        if not self.asks:
            if self.kind == "fixed" and mixture is not None:
                return mixture.softmax(dim=1).unsqueeze(-1)
            return responses.new_full((1, self.n_personas, 1), 1 / self.n_personas).expand(len(personas), -1, 1)
        logits = responses
        if self.projects:
            logits = F.normalize(self.persona_map(personas), dim=-1) @ keys.mT  # (B, K, N)
        weights = (logits / self.temperature if self.temperature != 1 else logits).softmax(dim=1)
        if self.kind == "argmax":
            hard = torch.zeros_like(weights).scatter_(1, weights.argmax(dim=1, keepdim=True), 1.0)
            weights = hard + (weights - weights.detach())
        return weights


def respond(personas, items):
    """What each persona says of each item, p_k . q: (B, K, d) and (B, N, d) or (N, d) -> (B, K, N)."""
    if personas.shape[1] == 1 and items.dim() == 3:  # a batched product pays for every row of its batch
        return (personas * items).sum(dim=2).unsqueeze(1)
    return personas @ items.mT


def mixture_entropy(weights):
    """Entropy in nats of persona weights: (B, K, N) -> (B, N)."""
    return torch.special.entr(weights.clamp_min(1e-12)).sum(dim=1)  # at 0 the entropy has an infinite slope
