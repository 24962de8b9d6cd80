"""Vectors of users, the users who are like them, and the attention over these, against slow ways."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_persona.layers.matrix_factorisation import factorise
from recbole_persona.layers.neighbour_attention import NeighbourAttention
from recbole_persona.layers.neighbours import nearest_users

torch.set_num_threads(1)


def test_factors_solve_the_weighted_least_squares():
    """A last half step is exact: no other vector of an item has a smaller loss (Hu et al., equation 4)."""
    rng = np.random.default_rng(0)
    met = sp.csr_array((rng.random((30, 20)) < 0.2).astype(float))
    met[:, [3]] = 0
    met.eliminate_zeros()
    users, items = factorise(met, 4, steps=3, penalty=0.7, weight=5.0)
    dense, users = torch.from_numpy(met.toarray()), users.double()
    for item in range(20):
        weights = 1 + 5.0 * dense[:, item]
        expected = torch.linalg.solve(
            users.T @ (weights[:, None] * users) + 0.7 * torch.eye(4, dtype=torch.float64),
            users.T @ (weights * dense[:, item]),
        )
        torch.testing.assert_close(items[item].double(), expected, atol=1e-4, rtol=1e-3)
    assert not items[3].any()


def test_factors_find_what_users_have_in_common():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 20)
    met = sp.csr_array(
        (rng.random((40, 30)) < np.where(group[:, None] == (np.arange(30) < 15), 0.4, 0.02)).astype(float)
    )
    users, _ = factorise(met, 8)
    near = nearest_users(torch.cat([torch.zeros(1, 8), users]), 5)[1:] - 1
    assert (group[near.numpy()] == group[:, None]).mean() > 0.95


@pytest.mark.parametrize("n", [1, 5])
def test_nearest_users_are_those_of_the_whole_matrix(n):
    vectors = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    vectors[[0, 17]] = 0
    near = nearest_users(vectors, n)
    cosine = torch.nn.functional.normalize(vectors, dim=1) @ torch.nn.functional.normalize(vectors, dim=1).T
    cosine.fill_diagonal_(-2)
    cosine[:, [0, 17]] = -2
    expected = cosine.topk(n).values
    for user in range(1, 200):
        if user == 17:
            assert not near[user].any()
            continue
        assert user not in near[user] and 17 not in near[user]
        torch.testing.assert_close(cosine[user, near[user]], expected[user])


def test_fewer_users_than_neighbours():
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    vectors[0] = 0
    near = nearest_users(vectors, 5)
    assert near.shape == (4, 5) and (near[1:, :2] > 0).all() and not near[:, 2:].any()
    alone = nearest_users(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), 2)
    assert not alone.any()


def test_attention_over_neighbours_is_that_of_slow_loops():
    torch.manual_seed(0)
    attention = NeighbourAttention(8, 2).double()
    user, others = torch.randn(3, 8).double(), torch.randn(3, 4, 8).double()
    present = torch.tensor([[True, True, True, True], [True, True, False, False], [False] * 4])
    weights, values = attention(user, others, present)
    query, key, value = attention.query(user), attention.key(others), attention.value(others)
    for row in range(3):
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            members = [n for n in range(4) if present[row, n]]
            logits = [(query[row, own] @ key[row, n, own]).item() / 2 for n in members]
            total = sum(np.exp(logit) for logit in logits)
            for n in range(4):
                expected = np.exp(logits[members.index(n)]) / total if n in members else 0.0
                assert weights[row, head, n].item() == pytest.approx(expected, abs=1e-12)
                torch.testing.assert_close(values[row, n, head], value[row, n, own])
