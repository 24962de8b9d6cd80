"""Re-ranking against slow loops, and re-ranked runs on ml-100k."""

import math

import numpy as np
import pytest

from recbole_persona.evaluate.reranking import calibrated, mmr

USERS, CANDIDATES, PLACES = 9, 14, 6


def candidates(seed, ties=False, short=True):
    """Scores, falling, with users that have fewer candidates than places; unit vectors; tastes."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.normal(size=(USERS, CANDIDATES)), axis=1)
    if ties:
        scores = scores.round(0)
    if short:
        scores[0, 4:], scores[1, 1:], scores[2] = -np.inf, -np.inf, -np.inf
    vectors = rng.normal(size=(USERS, CANDIDATES, 5))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    vectors[3, 2] = 0
    tastes = rng.dirichlet(np.ones(7), (USERS, CANDIDATES)) * (rng.random((USERS, CANDIDATES, 7)) < 0.5)
    tastes[..., 0] += 1 - tastes.sum(2)
    target = rng.dirichlet(np.ones(7), USERS) * (rng.random((USERS, 7)) < 0.6)
    target[target.sum(1) > 0] /= target.sum(1)[target.sum(1) > 0, None]
    target[4] = 0
    return scores, vectors, tastes, target


def greedy(scores, value, k):
    """The candidate of the largest value, again and again; the first of equal ones; -inf only when nothing is left."""
    known = scores[np.isfinite(scores)]
    low, spread = (known.min(), np.ptp(known) or 1) if len(known) else (0, 1)
    chosen = []
    for _ in range(k):
        left = [n for n in range(len(scores)) if n not in chosen]
        left = [n for n in left if np.isfinite(scores[n])] or left
        gains = [value((scores[n] - low) / spread if np.isfinite(scores[n]) else 0.0, n, chosen) for n in left]
        best = max(gains)
        chosen.append(next(n for n, gain in zip(left, gains) if gain > best - 1e-12))
    return chosen


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_mmr_against_slow_loops(weight, ties):
    scores, vectors, *_ = candidates(int(weight * 10), ties)
    order = mmr(scores, vectors, weight, PLACES)
    for user in range(USERS):

        def value(relevance, n, chosen, mine=vectors[user]):
            alike = max((sum(a * b for a, b in zip(mine[n], mine[m])) for m in chosen), default=0.0)
            return (1 - weight) * relevance - weight * alike

        assert order[user].tolist() == greedy(scores[user], value, PLACES), user


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_calibrated_against_slow_loops(weight, ties):
    scores, _, tastes, target = candidates(int(weight * 10), ties)
    order = calibrated(scores, tastes, target, weight, PLACES)
    for user in range(USERS):

        def value(relevance, n, chosen, mine=tastes[user], p=target[user]):
            q = np.mean([mine[m] for m in [*chosen, n]], axis=0)
            divergence = sum(a * math.log(a / (0.99 * b + 0.01 * a)) for a, b in zip(p, q) if a)
            return (1 - weight) * relevance - weight * divergence

        assert order[user].tolist() == greedy(scores[user], value, PLACES), user


@pytest.mark.parametrize("ties", [False, True])
def test_weight_0_and_users_of_whom_nothing_is_known_keep_the_models_order(ties):
    scores, vectors, tastes, target = candidates(3, ties, short=False)
    same = np.tile(np.arange(PLACES), (USERS, 1))
    np.testing.assert_array_equal(mmr(scores, vectors, 0.0, PLACES), same)
    np.testing.assert_array_equal(calibrated(scores, tastes, target, 0.0, PLACES), same)
    np.testing.assert_array_equal(calibrated(scores, tastes, target, 0.9, PLACES)[4], same[4])
    np.testing.assert_array_equal(mmr(scores, np.zeros_like(vectors), 0.9, PLACES), same)


def test_every_candidate_once_and_seen_ones_last():
    scores, vectors, tastes, target = candidates(5)
    for order in (mmr(scores, vectors, 0.7, CANDIDATES), calibrated(scores, tastes, target, 0.7, CANDIDATES)):
        assert (np.sort(order, axis=1) == np.arange(CANDIDATES)).all()
        known = np.isfinite(np.take_along_axis(scores, order, 1))
        assert (np.diff(known.astype(int), axis=1) <= 0).all()


def test_calibrated_reaches_the_tastes_and_mmr_takes_one_of_each():
    """Two tastes, the model shows one of them; a user who likes both equally gets both."""
    tastes = np.repeat(np.eye(2), 6, axis=0)[None]  # (1, 12, 2)
    scores = np.arange(12, 0, -1.0)[None]
    shown = tastes[0, calibrated(scores, tastes, np.array([[0.5, 0.5]]), 0.99, 6)[0]].mean(0)
    np.testing.assert_allclose(shown, [0.5, 0.5])
    assert mmr(scores, tastes, 0.9, 2).tolist() == [[0, 6]]
