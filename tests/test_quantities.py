"""Quantities of users against slow loops."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
from evaluate_data import Personas, SequentialPersonas, prepared

from recbole_persona.data.training_part import training_interactions, training_matrix
from recbole_persona.evaluate import quantities, ruler

pytestmark = pytest.mark.usefixtures("elsewhere")


def histories(dataset):
    found = {}
    for user, item in zip(*training_matrix(dataset).nonzero()):
        found.setdefault(int(user), []).append(int(item))
    return found


@pytest.mark.parametrize("model", [Personas, SequentialPersonas])
@pytest.mark.parametrize("option", ["svd-kmeans", "field:tags"])
def test_against_slow_loops(folder, model, option):
    config, train, *_ = prepared(model, folder, tdd_tastes=option, tdd_clusters=6)
    dataset = train._dataset
    table = quantities.user_quantities(config, dataset).set_index("user")
    assert len(table) == dataset.user_num - 1 and table.index.is_unique
    items = ruler.tastes(config, dataset).items.toarray()
    vectors = ruler.svd_vectors(training_matrix(dataset), config["split_seed"])
    for user, history in histories(dataset).items():
        row = table.loc[dataset.id2token("user_id", user)]
        assert row["history_length"] == len(history)
        tastes = [sum(items[item][taste] for item in history) / len(history) for taste in range(items.shape[1])]
        assert row["taste_entropy"] == pytest.approx(-sum(p * math.log(p) for p in tastes if p))
        apart = [1 - vectors[a] @ vectors[b] for i, a in enumerate(history) for b in history[:i]]
        assert row["diversity"] == pytest.approx(np.mean(apart))


def test_expected_entropy_against_the_exact_one():
    """Items of one taste each: the number of draws of a taste is binomial, so the mean entropy is a finite sum."""
    tastes = np.array([0, 0, 1, 2, 2, 2, 1])
    items = sp.csr_array(np.vstack([np.zeros(3), np.eye(3)[tastes]]))
    popularity = np.array([0, 5, 1, 2, 4, 4, 1, 3])
    share = np.array([sum(popularity[1:][tastes == taste]) for taste in range(3)]) / popularity.sum()
    lengths = np.array([0, 1, 2, 5, 17, 40])
    found = quantities._expected_entropy(items, popularity, lengths, seed=1)
    for length, value in zip(lengths[1:].tolist(), found[1:]):
        exact = 0.0
        for p in share:
            for count in range(1, length + 1):
                chance = math.comb(length, count) * p**count * (1 - p) ** (length - count)
                exact -= chance * count / length * math.log(count / length)
        assert value == pytest.approx(exact, abs=0.05)
    assert found[1] == pytest.approx(0) and (np.diff(found[1:]) > 0).all()
    np.testing.assert_array_equal(found, quantities._expected_entropy(items, popularity, lengths, seed=1))


def test_excess_does_not_grow_with_the_history_where_entropy_does():
    """Users who all draw alike: entropy follows their length, the excess does not."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, 501)
    length = rng.integers(2, 60, 400)
    rows = [rng.choice(500, size, p=popularity / popularity.sum()) for size in length]
    place = np.repeat(np.arange(400), length), np.concatenate(rows)
    items = sp.csr_array(np.eye(10)[rng.integers(0, 10, 500)])
    users = sp.coo_array((1 / np.repeat(length, length), place), shape=(400, 500)).tocsr() @ items
    entropy = quantities._entropy(users)
    excess = entropy - quantities._expected_entropy(items, popularity, length, seed=0)
    assert np.corrcoef(length, entropy)[0, 1] > 0.6
    assert abs(np.corrcoef(length, excess)[0, 1]) < 0.15 and abs(excess.mean()) < 0.05


def test_users_without_and_with_one_training_item(folder):
    config, train, *_ = prepared(Personas, folder)
    feat = train._dataset.inter_feat
    first = int(feat["user_id"][0])
    lonely = [row for row in range(len(feat)) if feat["user_id"][row] != 7 and feat["user_id"][row] != first]
    train._dataset.inter_feat = feat[[0, *lonely]]
    table = quantities.user_quantities(config, train._dataset)
    counts = Counter(train._dataset.inter_feat["user_id"].tolist())
    assert table["history_length"].tolist() == [counts[user] for user in range(1, train._dataset.user_num)]
    assert table.iloc[6][["taste_entropy", "taste_entropy_excess", "diversity"]].isna().all()
    one = table.iloc[first - 1]
    assert one["diversity"] == 0 and one["taste_entropy"] == pytest.approx(0) and one["history_length"] == 1


def test_chunks_change_nothing(folder, monkeypatch):
    config, train, *_ = prepared(Personas, folder)
    whole = quantities.user_quantities(config, train._dataset)
    monkeypatch.setattr(quantities, "_USERS", 7)
    np.testing.assert_allclose(whole["diversity"], quantities.user_quantities(config, train._dataset)["diversity"])


@pytest.mark.parametrize("model", [Personas, SequentialPersonas])
def test_drift_against_a_slow_loop(folder, model, monkeypatch):
    """The halves in time, without the random ones."""
    recorded = _Recorded(quantities._half_distance)
    monkeypatch.setattr(quantities, "_half_distance", recorded)
    config, train, *_ = prepared(model, folder, tdd_clusters=6)
    dataset = train._dataset
    table = quantities.user_quantities(config, dataset).set_index("user")
    items = ruler.tastes(config, dataset).items.toarray()
    users, chosen, times = training_interactions(dataset, "user_id", "item_id", "timestamp")
    in_time, *by_chance = recorded.found
    assert len(by_chance) == quantities._HALVINGS
    for user in range(1, dataset.user_num):
        own = np.flatnonzero(users == user)
        own = own[np.argsort(times[own], kind="stable")]
        if len(own) < 2:
            continue
        cut = -(-len(own) // 2)
        first, then = (items[chosen[half]].mean(axis=0) for half in (own[:cut], own[cut:]))
        middle = (first + then) / 2
        divergence = sum(p * math.log2(p / m) / 2 for half in (first, then) for p, m in zip(half, middle) if p)
        assert in_time[user] == pytest.approx(math.sqrt(max(divergence, 0)), abs=1e-7)
        name = dataset.id2token("user_id", user)
        assert table.loc[name, "taste_drift"] == pytest.approx(
            in_time[user] - np.mean([halves[user] for halves in by_chance])
        )


class _Recorded:
    """A function, and what it returned."""

    def __init__(self, function):
        self.function, self.found = function, []

    def __call__(self, *arguments):
        self.found.append(self.function(*arguments))
        return self.found[-1]


def test_drift_is_seen_where_there_is_some():
    """Users who change their taste drift; users who mix both do not, on average."""
    rng = np.random.default_rng(3)
    n_users, length = 60, 16
    items = sp.csr_array(np.vstack([np.zeros(2), np.repeat(np.eye(2), 10, axis=0)]))
    users = np.repeat(np.arange(n_users), length)
    taste = np.tile(np.arange(length) >= length // 2, n_users)
    mixed = np.repeat(np.arange(n_users) % 2 == 1, length)
    taste = np.where(mixed, rng.random(len(users)) < 0.5, taste)
    chosen = 1 + rng.integers(0, 10, len(users)) + 10 * taste
    order = np.arange(len(users))
    in_time = quantities._half_distance(users, chosen, order, items, n_users)
    chance = [
        quantities._half_distance(users, chosen, np.lexsort((rng.random(len(users)), users)), items, n_users)
        for _ in range(20)
    ]
    drift = in_time - np.mean(chance, axis=0)
    assert drift[::2].min() > 0.5 and abs(drift[1::2].mean()) < 0.08
