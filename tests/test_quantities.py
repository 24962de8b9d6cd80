"""Quantities of users against slow loops."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
from evaluate_data import Personas, SequentialPersonas, prepared

from recbole_persona.evaluate import quantities, ruler

pytestmark = pytest.mark.usefixtures("elsewhere")


def histories(dataset):
    found = {}
    for user, item in zip(*ruler.training_matrix(dataset).nonzero()):
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
    vectors = ruler.svd_vectors(ruler.training_matrix(dataset), config["split_seed"])
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
