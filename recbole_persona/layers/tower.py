"""A stack of linear layers, each with its activation."""

from torch import nn
from torch.nn import functional as F

from recbole_persona.layers.dice import Dice, NormSiLU

ACTIVATIONS = {
    "dice": Dice,
    "prelu": nn.PReLU,
    "relu": lambda size: nn.ReLU(),
    "sigmoid": lambda size: nn.Sigmoid(),
    "norm-silu": NormSiLU,
}


class Tower(nn.Module):
    """Dropout, linear, activation, for each size; then one linear output.

    Args:
        width: n, dimensions of the input.
        sizes: of the hidden layers, at least one.
        activation: a name in ``ACTIVATIONS``.
        dropout: in front of every hidden layer.
    """

    def __init__(self, width, sizes, activation, dropout=0.0):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip([width, *sizes], sizes))
        self.activations = nn.ModuleList(ACTIVATIONS[activation](size) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(sizes[-1], 1)

    def forward(self, inputs):
        """(..., n) -> (...)."""
        return self.above(F.linear(self.dropout(inputs), self.linears[0].weight, self.linears[0].bias))

    def above(self, sums):
        """What follows the sums of the first layer: (..., sizes[0]) -> (...)."""
        hidden = self.activations[0](sums)
        for linear, activation in zip(self.linears[1:], self.activations[1:]):
            hidden = activation(linear(self.dropout(hidden)))
        return self.output(hidden).squeeze(-1)

    @property
    def widest(self) -> int:
        """Numbers that one input needs in its widest hidden layer."""
        return max(linear.out_features for linear in self.linears)
