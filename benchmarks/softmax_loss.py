"""The layouts of the product that costs most in the cross-entropy over a table, and the whole loss beside PyTorch's.

The gradient of the table is the product of the softmax (n, V) of a tile and its states (n, d), summed over the tiles: as
(V, d), or as (d, V), which ``recbole_persona/layers/softmax_loss.py`` does. CPU seconds of forward and backward pass.
Run: ``python benchmarks/softmax_loss.py``
"""

import argparse

import torch
from timing import in_turn, quotients, row, write
from torch.nn import functional as F

from recbole_persona.layers.softmax_loss import MOST, ROWS, TILE, table_cross_entropy

SIZES = [(3500, 64), (12_000, 64), (50_000, 64), (12_000, 128)]  # entries of the table, dimensions
ROWS_OF_A_BATCH = 1024


def products(n_entries, size) -> dict:
    """The two ways to add a tile to the gradient of the table."""
    n = max(TILE["cpu"] // n_entries, min(ROWS, MOST // n_entries))
    exp_scores, states = torch.rand(n, n_entries), torch.randn(n, size)
    by_entry, by_dimension = torch.zeros(n_entries, size), torch.zeros(size, n_entries)
    return {
        "(V, d)": lambda: by_entry.addmm_(exp_scores.T, states),
        "(d, V)": lambda: by_dimension.addmm_(states.T.contiguous(), exp_scores),
    }


def losses(n_entries, size) -> dict:
    """Forward and backward pass of our loss and of PyTorch's over all rows of a batch."""
    states = torch.randn(ROWS_OF_A_BATCH, size, requires_grad=True)
    table = (torch.randn(n_entries, size) / 8).requires_grad_()
    target = torch.randint(n_entries, (ROWS_OF_A_BATCH,))
    both = states, table
    found = torch.autograd.grad(table_cross_entropy(*both, target), both)
    torch.testing.assert_close(found, torch.autograd.grad(F.cross_entropy(states @ table.T, target), both))
    return {
        "torch": lambda: torch.autograd.grad(F.cross_entropy(states @ table.T, target), both),
        "ours": lambda: torch.autograd.grad(table_cross_entropy(*both, target), both),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for n_entries, size in SIZES:
        sizes = {"entries": n_entries, "dimension": size}
        seconds = in_turn(products(n_entries, size), asked.repeats)
        ratio = quotients(seconds["(V, d)"], seconds["(d, V)"])
        rows.append(
            row("seconds of the gradient's product as (V, d) over (d, V)", "itself", ratio, asked.repeats, sizes)
        )
    for n_entries, size in SIZES[1:2]:
        seconds = in_turn(losses(n_entries, size), asked.repeats)
        ratio = quotients(seconds["torch"], seconds["ours"])
        sizes = {"entries": n_entries, "dimension": size, "rows": ROWS_OF_A_BATCH}
        rows.append(row("seconds of loss and gradients", "F.cross_entropy of a product", ratio, asked.repeats, sizes))
    write(__file__, rows)


if __name__ == "__main__":
    main()
