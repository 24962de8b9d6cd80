"""Attention of candidate items over the personas of a user.

A user is a set of K vectors p_1..p_K; a candidate item q asks which of them speaks. Shapes: B users (or rows), K
personas, N candidates, d dimensions, a dimensions of the attention.
"""

import torch
from torch import nn
from torch.nn import functional as F

VARIANTS = ("journal", "conference")
ATTENTIONS = ("learned", "argmax", "uniform", "fixed")
MILD = 60.0  # exp of it, and of its negative, is far from the ends of 32 bits, also times K and itself


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

    def is_mild(self, personas, items) -> bool:
        """Whether the weights are learned, and exp of every logit of these personas (..., d) and items (..., d) is an ordinary
        number of 32 bits or more.
        """
        if not self.asks or self.kind != "learned":
            return False
        if personas.element_size() < 4 or torch.is_autocast_enabled(personas.device.type) or not len(personas):
            return False
        longest = 1.0 if self.projects else (personas.norm(dim=-1).amax() * items.norm(dim=-1).amax()).item()
        return longest / self.temperature < MILD  # |p . q| <= |p| |q|

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
    def pool_mild(self, personas, items, keys, bias, space, out):
        """As :meth:`pool`, with the bias, where the item has a say by its weights and the logits are mild (:meth:`is_mild`).

        What costs beside the products is bytes: of one persona at a time, all that is read was written just before, and lies
        in the cache, in memory that is held.

        Args:
            personas, items, keys: as for :meth:`pool`.
            bias: (N,) or None.
            space: (4, at least B * N) numbers to compute in.
            out: (B, N), for the result.
        """
        shape = len(personas), len(items)
        responses, exp_logits, scores, total = space[:, : out.numel()].view(4, *shape)
        if self.projects:
            compared = F.normalize(self.persona_map(personas), dim=-1) / self.temperature  # (B, K, a)
        for k in range(self.n_personas):
            torch.mm(personas[:, k], items.T, out=responses)
            if self.projects:
                torch.mm(compared[:, k], keys.T, out=exp_logits).exp_()
            elif self.temperature == 1:
                torch.exp(responses, out=exp_logits)
            else:
                torch.div(responses, self.temperature, out=exp_logits).exp_()
            if k == 0:
                torch.mul(exp_logits, responses, out=scores)
                exp_logits, total = total, exp_logits
            else:
                scores.addcmul_(exp_logits, responses)
                total += exp_logits
        torch.div(scores, total, out=out) if bias is None else torch.addcdiv(bias, scores, total, out=out)


def respond(personas, items):
    """What each persona says of each item, p_k . q: (B, K, d) and (B, N, d) or (N, d) -> (B, K, N)."""
    if personas.shape[1] == 1 and items.dim() == 3:  # a batched product pays for every row of its batch
        return (personas * items).sum(dim=2).unsqueeze(1)
    return personas @ items.mT


def mixture_entropy(weights):
    """Entropy in nats of persona weights: (B, K, N) -> (B, N)."""
    return torch.special.entr(weights.clamp_min(1e-12)).sum(dim=1)  # at 0 the entropy has an infinite slope
