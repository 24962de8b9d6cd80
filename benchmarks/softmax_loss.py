"""The layouts of the products in the cross-entropy over a table, and the whole loss beside PyTorch's.

A tile of n rows takes three products of its states (n, d) and the table: its scores (n, V), the gradient of the states, and
that of the table. The first and the last read and write the table's side as (V, d), or as (d, V), which
``recbole_persona/layers/softmax_loss.py`` does. CPU seconds, for the whole loss those of forward and backward pass.
Run: ``python benchmarks/softmax_loss.py``
"""

import argparse

import torch
from timing import in_turn, quotients, row, write
from torch.nn import functional as F

from recbole_persona.layers.softmax_loss import ROWS, TILE, table_cross_entropy

SIZES = [(3500, 64), (12_000, 64), (50_000, 64), (12_000, 128)]  # entries of the table, dimensions
ROWS_OF_A_BATCH = 1024


def products(n_entries, size) -> dict:
    """The three products of a tile by layout, for as many tiles as a batch has."""
    n = min(ROWS, TILE["cpu"] // n_entries)
    states, table = torch.randn(n, size), torch.randn(n_entries, size)
    exp_scores, scores, turned = torch.rand(n, n_entries), torch.empty(n, n_entries), table.T.contiguous()
    by_entry, by_dimension = torch.zeros(n_entries, size), torch.zeros(size, n_entries)

    def entries():
        for _ in range(0, ROWS_OF_A_BATCH, n):
            torch.mm(states, table.T, out=scores), exp_scores @ table
            by_entry.addmm_(exp_scores.T, states)

    def dimensions():
        for _ in range(0, ROWS_OF_A_BATCH, n):
            torch.mm(states, turned, out=scores), exp_scores @ table
            by_dimension.addmm_(states.T, exp_scores)

    return {"(V, d)": entries, "(d, V)": dimensions}


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
        sizes = {"entries": n_entries, "dimension": size, "rows": ROWS_OF_A_BATCH}
        seconds = in_turn(products(n_entries, size), asked.repeats)
        ratio = quotients(seconds["(V, d)"], seconds["(d, V)"])
        rows.append(row("seconds of the products as (V, d) over (d, V)", "itself", ratio, asked.repeats, sizes))
        seconds = in_turn(losses(n_entries, size), asked.repeats)
        ratio = quotients(seconds["torch"], seconds["ours"])
        rows.append(row("seconds of loss and gradients", "F.cross_entropy of a product", ratio, asked.repeats, sizes))
    write(__file__, rows)


if __name__ == "__main__":
    main()
