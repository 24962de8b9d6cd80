"""Vectors of users and items by probabilistic matrix factorisation, fitted by alternating least squares.

Salakhutdinov, Mnih, Probabilistic Matrix Factorization, NeurIPS 2007; for choices without ratings as in Hu, Koren,
Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008: a choice is a 1 of weight 1 + ``weight``,
everything else a 0 of weight 1.
"""

import numpy as np
import torch

HELD = 2**20  # numbers of vectors, and of their products, held at a time
PENALTY, WEIGHT = 1.0, 10.0


def factorise(met, size, steps=10, penalty=PENALTY, weight=WEIGHT, seed=0):
    """Vectors whose products are close to 1 for the pairs of ``met`` and to 0 for all others.

    Args:
        met: (U, I) sparse csr array; its non-zeros are the choices.
        size: d.
        steps: each solves all users exactly for the items as they are, then all items for the users.
        penalty: of the squared lengths.
        weight: of a choice, beside the 1 of any pair.

    Returns:
        (U, d) and (I, d) float32 tensors; a user or item without a choice has zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    met = met.tocsr()
    turned = met.T.tocsr()
    items = torch.randn(met.shape[1], size, generator=generator) * 0.1
    items[torch.from_numpy(np.diff(turned.indptr) == 0)] = 0
    for _ in range(steps):
        users = solved(met, items, penalty, weight)
        items = solved(turned, users, penalty, weight)
    return users, items


def solved(met, others, penalty=PENALTY, weight=WEIGHT):
    """(R, d): each row's exact solution (V'V + w V_r'V_r + penalty)^-1 (1 + w) V_r'1, V_r the vectors of its choices.

    Args:
        met: (R, N) sparse csr array. others: (N, d) on the CPU.
    """
    size = others.shape[1]
    base = others.T @ others + penalty * torch.eye(size)
    lengths = np.diff(met.indptr)
    result = others.new_zeros(len(lengths), size)
    padded = torch.cat([others, others.new_zeros(1, size)])
    for rows in _blocks(lengths, HELD // size, HELD // size**2):
        steps = np.arange(lengths[rows].max())
        inside = steps < lengths[rows, None]
        places = np.where(inside, met.indptr[rows, None] + steps, 0)
        chosen = np.where(inside, met.indices[places], len(others))
        vectors = padded[torch.from_numpy(chosen.astype(np.int64))]  # (R, L, d)
        factor = torch.linalg.cholesky(base + weight * vectors.mT @ vectors)
        result[rows] = torch.cholesky_solve((1 + weight) * vectors.sum(dim=1).unsqueeze(2), factor).squeeze(2)
    return result


def _blocks(lengths, most, rows):
    """Rows with a choice, in blocks of about one length: at most ``most`` choices, padding included, and ``rows`` rows, or
    one row."""
    order = lengths.argsort(kind="stable")[np.count_nonzero(lengths == 0) :][::-1]  # the longest first
    start = 0
    while start < len(order):
        end = start + max(1, min(most // lengths[order[start]], rows))
        yield order[start:end].copy()
        start = end
