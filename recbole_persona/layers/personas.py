"""Attention of candidate items over the personas of a user.

A user is a set of K vectors p_1..p_K; a candidate item q asks which of them speaks. Shapes: B users (or rows), K
personas, N candidates, d dimensions, a dimensions of the attention.
"""

import torch
from torch import nn
from torch.nn import functional as F

VARIANTS = ("journal", "conference")
ATTENTIONS = ("learned", "argmax", "uniform", "fixed")
MILD = 60.0  # its exp is far from the largest number of 32 bits, also times K and itself


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
        weights = self._logits(personas, keys, responses).softmax(dim=1)
        if self.kind == "argmax":
            hard = torch.zeros_like(weights).scatter_(1, weights.argmax(dim=1, keepdim=True), 1.0)
            weights = hard + (weights - weights.detach())
        return weights

    def _logits(self, personas, keys, responses):
        """What the softmax over the personas reads, of the shape of the responses."""
        compared = F.normalize(self.persona_map(personas), dim=-1) @ keys.mT if self.projects else responses
        return compared / self.temperature if self.temperature != 1 else compared

    def is_mild(self, personas, longest) -> bool:
        """Whether the weights are learned, and exp of every difference between logits of two personas of a user, for personas
        (B, K, d) and items of at most the norm ``longest`` (a tensor), is an ordinary number of 32 bits or more.
        """
        if not self.asks or self.kind != "learned":
            return False
        if personas.element_size() < 4 or torch.is_autocast_enabled(personas.device.type) or not len(personas):
            return False
        largest = 2.0  # between the cosines of two vectors
        if not self.projects:
            largest = (_from_first(personas).norm(dim=-1).amax() * longest).item()  # |p . q| <= |p| |q|
        return largest / self.temperature < MILD

    @torch.no_grad()
    def pool(self, personas, items, keys, mixture=None):
        """sum_k a_k p_k . q, with the weights of :meth:`forward`.

        Args:
            personas: (B, K, d).
            items: (N, d), the same for all rows.
            keys: (N, a), theirs from :meth:`keys`.
            mixture: (B, K) or None.

        Returns:
            (B, N).
        """
        responses = respond(personas, items)
        return (self(personas, keys, responses, mixture) * responses).sum(dim=1)

    @torch.no_grad()
    def pool_mild(self, personas, tiles, space, out):
        """As :meth:`pool`, with the bias, where the item has a say by its weights and the logits are mild (:meth:`is_mild`).

        With e_k = exp(logit_k - logit_1), the weighted mean is p_1 . q + sum_k>1 e_k (p_k - p_1) . q / (1 + sum_k>1 e_k):
        the first persona needs neither exp nor products by element. What costs beside the matrix products is bytes: of one
        persona at a time, all that is read was written just before, and lies in the cache, in memory that is held.

        Args:
            personas: (B, K, d).
            tiles: of the N items, each with vectors (n, d), keys (n, a) or None, and bias (n,) or None.
            space: (4, at least B * n) numbers to compute in.
            out: (B, N), for the result.
        """
        first, others = personas[:, 0], _from_first(personas).unbind(1)
        if self.projects:
            compared = _from_first(F.normalize(self.persona_map(personas), dim=-1) / self.temperature).unbind(1)
        for (items, keys, bias), scores in zip(tiles, out.split([len(tile.vectors) for tile in tiles], dim=1)):
            # the products (p_k - p_1) . q, their exp, and the sums of both
            responses, exp_logits, total, pooled = space[:, : scores.numel()].view(4, *scores.shape)
            for k, other in enumerate(others):
                torch.mm(other, items.T, out=responses)
                if self.projects:
                    torch.mm(compared[k], keys.T, out=exp_logits).exp_()
                elif self.temperature == 1:
                    torch.exp(responses, out=exp_logits)
                else:
                    torch.div(responses, self.temperature, out=exp_logits).exp_()
                if k == 0:
                    torch.mul(exp_logits, responses, out=pooled)
                    exp_logits, total = total, exp_logits
                else:
                    pooled.addcmul_(exp_logits, responses)
                    total += exp_logits
            torch.mm(first, items.T, out=responses).addcdiv_(pooled, total.add_(1.0))
            scores.copy_(responses) if bias is None else torch.add(responses, bias, out=scores)


def _from_first(vectors):
    """Of each user, the differences of all other vectors from the first: (B, K, d) -> (B, K - 1, d)."""
    return vectors[:, 1:] - vectors[:, :1]


def respond(personas, items):
    """What each persona says of each item, p_k . q: (B, K, d) and (B, N, d) or (N, d) -> (B, K, N)."""
    if personas.shape[1] == 1 and items.dim() == 3:  # a batched product pays for every row of its batch
        return (personas * items).sum(dim=2).unsqueeze(1)
    return personas @ items.mT


def mixture_entropy(weights):
    """Entropy in nats of persona weights: (B, K, N) -> (B, N)."""
    return torch.special.entr(weights.clamp_min(1e-12)).sum(dim=1)  # at 0 the entropy has an infinite slope
