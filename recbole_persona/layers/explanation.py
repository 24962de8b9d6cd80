"""What a model says about its own scores: weights over parts of the user, and the vector that they pool to."""

from dataclasses import dataclass

import torch

KINDS = ("persona", "history", "neighbour")


@dataclass(frozen=True)
class Explanation:
    """Why each (user, item) pair of a batch got its score.

    A model with ``explain(interaction) -> Explanation`` has ``score_pooled(interaction, pooled) -> (B,)`` as well, and
    ``score_pooled(i, explain(i).pooled)`` equals ``predict(i)``: the weights are those that made the score.

    Attributes:
        kind: what the parts are: ``persona``, ``history`` (items) or ``neighbour`` (users).
        weights: (B, n), weight of every part; padding has weight 0.
        parts: (B, n, d), vectors of the parts.
        normalised: whether the weights of a row sum to one.

    Raises:
        ValueError: an unknown kind, or shapes that do not belong together.
    """

    kind: str
    weights: torch.Tensor
    parts: torch.Tensor
    normalised: bool = True

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"an explanation is of kind {', '.join(KINDS)}, not {self.kind!r}")
        if self.parts.shape[:-1] != self.weights.shape or self.weights.dim() != 2:
            raise ValueError(f"weights {tuple(self.weights.shape)} and parts {tuple(self.parts.shape)} do not fit")

    @property
    def pooled(self) -> torch.Tensor:
        """(B, d), the sum of weight times part."""
        return torch.einsum("bn,bnd->bd", self.weights, self.parts)
