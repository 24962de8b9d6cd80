"""PeaPOD: POD with a prompt of the user, made of the users who are like them.

Ramos, Wu, Lipani, PeaPOD: Personalized Prompt Distillation for Generative Recommendation, 2024 (its second version).
Formulas, settings, and what the published numbers rest on: docs/language_models.md.

Shapes: B rows, U users, n neighbours, H heads, D dimensions of user vectors, P tokens of the user, d of the backbone.
"""

import torch
from torch import nn

from recbole_persona.errors import UserError
from recbole_persona.layers.matrix_factorisation import factorise
from recbole_persona.layers.neighbour_attention import NeighbourAttention
from recbole_persona.layers.neighbours import nearest_users
from recbole_persona.lm.item_codes import training_matrix
from recbole_persona.models.pod import POD

CONTROLS = ("random_vectors", "random_neighbours", "mean")


class PeaPOD(POD):
    """[prompt of the task; prompt of the user; text of the prompt] -> code of an item, or a sentence.

    Config keys: ``user_vectors``, ``user_vector_size``, ``n_neighbours``, ``n_heads``, ``user_tokens``, ``control``, and
    those of :class:`POD`.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        _check(config)
        vectors = self._user_vectors(config, dataset)  # (U, D)
        if config["n_heads"] < 1 or vectors.shape[1] % config["n_heads"]:
            raise UserError(
                f"n_heads divides the dimension of user vectors ({vectors.shape[1]}), which {config['n_heads']} does not."
            )
        known = vectors.abs().sum(dim=1) > 0
        neighbours = nearest_users(vectors, config["n_neighbours"], known)
        if config["control"] == "random_neighbours":
            generator = torch.Generator().manual_seed(config["split_seed"])
            members = known.nonzero().squeeze(1)
            neighbours = members[torch.randint(len(members), neighbours.shape, generator=generator)]
        self.register_buffer("user_vectors", vectors)
        self.register_buffer("neighbours", neighbours)
        self.takes_mean = config["control"] == "mean"
        self.attention = NeighbourAttention(vectors.shape[1], config["n_heads"])
        self.user_prompt = nn.Linear(vectors.shape[1], config["user_tokens"] * self.backbone.dimension)
        self.token_length = self.backbone.token_norm()

    def _user_vectors(self, config, dataset):
        """(U, D) of unit length; zeros for a user without training interactions."""
        met = training_matrix(dataset)
        size = config["user_vector_size"]
        if config["control"] == "random_vectors":
            generator = torch.Generator().manual_seed(config["split_seed"])
            vectors = torch.randn(met.shape[0], size, generator=generator)
            vectors[torch.from_numpy(met.sum(axis=1)).view(-1) == 0] = 0
        else:
            vectors, _ = factorise(met, size, seed=config["split_seed"])
        return nn.functional.normalize(vectors, dim=1)

    def _attend(self, user):
        """Weights (B, H, n) and values (B, n, H, D / H) of the neighbours of users (B,)."""
        near = self.neighbours[user]
        weights, values = self.attention(self.user_vectors[user], self.user_vectors[near], near > 0)
        if self.takes_mean:
            present = (near > 0).float()
            weights = (present / present.sum(dim=1, keepdim=True).clamp(min=1)).unsqueeze(1).expand_as(weights)
        return weights, values

    def context(self, interaction, task):
        """(B, P, d): the task's tokens, then the user's; a user without neighbours has those of the bias alone."""
        weights, values = self._attend(interaction[self.USER_ID])
        pooled = torch.einsum("bhn,bnhe->bhe", weights, values).flatten(1)  # (B, D)
        return torch.cat([super().context(interaction, task), self._user_tokens(pooled)], dim=1)

    def _user_tokens(self, pooled):
        """(B, D) -> (B, P, d)"""
        return self.user_prompt(pooled).view(len(pooled), -1, self.backbone.dimension)


def _check(config):
    """UserError for values that mean nothing."""
    if config["control"] is not None and config["control"] not in CONTROLS:
        raise UserError(f"control is one of {', '.join(CONTROLS)}, or none (~), not {config['control']!r}.")
    for key in ("user_vector_size", "n_neighbours", "user_tokens"):
        if not isinstance(config[key], int) or config[key] < 1:
            raise UserError(f"{key} is a whole number from 1, not {config[key]!r}.")
