"""A stack of linear layers, each with its activation."""

from torch import nn
from torch.nn import functional as F

from recbole_persona.layers.dice import Dice

ACTIVATIONS = {
    "dice": Dice,
    "prelu": nn.PReLU,
    "relu": lambda size: nn.ReLU(),
    "sigmoid": lambda size: nn.Sigmoid(),
    "silu": lambda size: nn.SiLU(),
}


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation of (..., n); fewer than two rows have no variance, and take the running averages."""

    def forward(self, inputs):
        flat = inputs.flatten(end_dim=-2)
        if self.training and len(flat) < 2:
            normal = F.batch_norm(flat, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        else:
            normal = super().forward(flat)
        return normal.view_as(inputs)


class Tower(nn.Module):
    """Dropout, linear, normalisation, activation, for each size; then one linear output.

    Args:
        width: n, dimensions of the input.
        sizes: of the hidden layers, at least one.
        activation: a name in ``ACTIVATIONS``.
        norm: whether there is a batch normalisation.
        dropout: in front of every hidden layer.
    """

    def __init__(self, width, sizes, activation, norm=False, dropout=0.0):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip([width, *sizes], sizes))
        self.norms = nn.ModuleList(RowNorm(size) if norm else nn.Identity() for size in sizes)
        self.activations = nn.ModuleList(ACTIVATIONS[activation](size) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(sizes[-1], 1)

    def forward(self, inputs):
        """(..., n) -> (...)."""
        return self.above(self.linears[0](self.dropout(inputs)))

    def above(self, sums):
        """What follows the sums of the first layer: (..., sizes[0]) -> (...)."""
        hidden = self.activations[0](self.norms[0](sums))
        for linear, norm, activation in zip(self.linears[1:], self.norms[1:], self.activations[1:]):
            hidden = activation(norm(linear(self.dropout(hidden))))
        return self.output(hidden).squeeze(-1)

    @property
    def widest(self) -> int:
        """Numbers that one input needs in its widest hidden layer."""
        return max(linear.out_features for linear in self.linears)
