"""PeaPOD: POD with a prompt of the user, made of the users who are like them.

Ramos, Wu, Lipani, PeaPOD: Personalized Prompt Distillation for Generative Recommendation, 2024 (its second version).
Formulas, settings, and what the published numbers rest on: docs/language_models.md.

Shapes: B rows, U users, n neighbours, H heads, D dimensions of user vectors, P tokens of the user, d of the backbone.
"""

from typing import NamedTuple

import torch
from recbole.data.interaction import Interaction
from torch import nn

from recbole_persona.errors import UserError
from recbole_persona.layers.explanation import Explanation
from recbole_persona.layers.neighbour_attention import NeighbourAttention, divergence
from recbole_persona.lm.user_vectors import CONTROLS, folded, nearest_to, user_space
from recbole_persona.models.pod import POD

POOLED = "pooled_neighbours"  # column of a batch: what stands in for the sum over the neighbours
SAMPLE = 4096  # users at most over whom the difference of the heads is a mean


class Attended(NamedTuple):
    """What users attend to."""

    neighbours: torch.Tensor  # (B, n), 0 where there is none
    weights: torch.Tensor  # (B, H, n), zeros where there is none
    values: torch.Tensor  # (B, n, H, D / H)


class PeaPOD(POD):
    """[prompt of the task; prompt of the user; text of the prompt] -> code of an item, or a sentence.

    Config keys: ``user_vectors``, ``user_vector_size``, ``n_neighbours``, ``n_heads``, ``user_tokens``, ``control``,
    and those of :class:`POD`.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        _check(config)
        space = user_space(config, dataset)
        size = space.vectors.shape[1]
        if size % config["n_heads"]:
            raise UserError(
                f"n_heads divides the dimension of user vectors ({size}), which {config['n_heads']} does not."
            )
        self.register_buffer("user_vectors", space.vectors)
        self.register_buffer("item_vectors", space.items)
        self.register_buffer("neighbours", space.neighbours)
        self.control = config["control"]
        self.solves = config["user_vectors"] == "pmf" and self.control != "random_vectors"
        self.attention = NeighbourAttention(size, config["n_heads"])
        self.user_prompt = nn.Linear(size, config["user_tokens"] * self.backbone.dimension)
        self._fit_lengths()
        self.register_buffer("divergence_at_start", torch.zeros(()))
        self.divergence_at_start.fill_(self.head_divergence())

    @torch.no_grad()
    def _fit_lengths(self):
        """Let the tokens of users be as long as others are, on average."""
        found = self._user_tokens(_pooled(self._attend(*self._sample()))).norm(dim=2).mean()
        ratio = self.backbone.token_norm() / found.item() if found > 0 else 1.0
        self.user_prompt.weight.mul_(ratio)
        self.user_prompt.bias.mul_(ratio)

    # The neighbours

    def attended(self, interaction) -> Attended:
        """Neighbours of the rows' users, and what each head makes of them.

        Whoever is not known from the training part is found a vector by the history in the row, if there is any.
        """
        if self.USER_ID in interaction:
            user = interaction[self.USER_ID]
            vectors, near = self.user_vectors[user], self.neighbours[user]
            new = (~vectors.any(dim=1)).nonzero().squeeze(1)
        else:
            length = interaction[self.ITEM_SEQ_LEN]
            vectors = self.user_vectors.new_zeros(len(length), self.user_vectors.shape[1])
            near = self.neighbours.new_zeros(len(length), self.neighbours.shape[1])
            new = torch.arange(len(length), device=length.device)
        if len(new) and self.ITEM_SEQ in interaction:
            vectors[new], near[new] = self._of_histories(interaction, new)
        return self._attend(vectors, near)

    def _of_histories(self, interaction, rows):
        """Vectors (R, D) of some rows by what they show of a history, and their neighbours (R, n)."""
        history, length = interaction[self.ITEM_SEQ][rows], interaction[self.ITEM_SEQ_LEN][rows]
        with torch.autocast(history.device.type, enabled=False):  # a system of equations, and places in an order
            vectors = folded(history, length, self.item_vectors, self.solves)
            near = nearest_to(vectors, self.user_vectors, self.neighbours.shape[1])
        return vectors, self.neighbours[near[:, 0]] if self.control == "random_neighbours" else near

    def _attend(self, vectors, near):
        present, scale = near > 0, vectors.shape[1] ** 0.5  # numbers of about 1, as attention expects them
        weights, values = self.attention(vectors * scale, self.user_vectors[near] * scale, present)
        if self.control == "mean":
            weights = (present / present.sum(dim=1, keepdim=True).clamp(min=1)).to(weights)  # (B, n)
            weights = weights.unsqueeze(1).expand(-1, self.attention.n_heads, -1)
        return Attended(near, weights, values)

    # The context

    def context(self, interaction, task):
        """(B, P, d): the task's tokens, then the user's; a user without neighbours has those of the bias alone."""
        pooled = interaction[POOLED] if POOLED in interaction else _pooled(self.attended(interaction))
        return torch.cat([super().context(interaction, task), self._user_tokens(pooled)], dim=1)

    def _user_tokens(self, pooled):
        """(B, D) -> (B, P, d)"""
        return self.user_prompt(pooled).view(len(pooled), -1, self.backbone.dimension)

    # Explanations

    @torch.no_grad()
    def explain(self, interaction):
        """The neighbours of each row's user, whatever the item.

        A neighbour's weight is the mean over the heads, and its part what the heads make of it over that weight, so that the
        sum is what the user's tokens are made of. Rows of users without neighbours have weights of zero.
        """
        near, weights, values = self.attended(interaction)
        share = weights.mean(dim=1)  # (B, n)
        parts = torch.einsum("bhn,bnhe->bnhe", weights, values).flatten(2)  # (B, n, D)
        parts = parts / share.unsqueeze(2).clamp(min=torch.finfo(share.dtype).tiny)
        return Explanation("neighbour", share, parts, normalised=bool((near > 0).any(dim=1).all()))

    def score_pooled(self, interaction, pooled):
        """(B,) log-likelihoods of the rows' items by pooled vectors (B, D)."""
        rows = interaction[torch.arange(len(interaction))]
        rows.update(Interaction({POOLED: pooled}))
        return self.predict(rows)

    @torch.no_grad()
    def head_divergence(self, permuted=False) -> float:
        """How differently the heads attend: the mean over users of :func:`divergence`, at most 4,096 of them.

        Args:
            permuted: let every user attend to the neighbours of another one.
        """
        vectors, near = self._sample()
        weights = self._attend(vectors, near.roll(1, dims=0) if permuted else near).weights
        return divergence(weights).double().mean().item() if len(near) else 0.0

    def _sample(self):
        """Vectors (S, D) and neighbours (S, n) of users with neighbours, in an order of chance."""
        members = (self.neighbours > 0).any(dim=1).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))[:SAMPLE]
        members = members[order.to(members.device)]
        return self.user_vectors[members], self.neighbours[members]


def _pooled(attended):
    """(B, D), the heads side by side."""
    return torch.einsum("bhn,bnhe->bhe", attended.weights, attended.values).flatten(1)


def _check(config):
    """UserError for values that mean nothing."""
    if config["control"] is not None and config["control"] not in CONTROLS:
        raise UserError(f"control is one of {', '.join(CONTROLS)}, or none (~), not {config['control']!r}.")
