"""The ruler of TDD and ILD: training interactions alone, tastes, vectors."""

import numpy as np
import pytest
import scipy.sparse as sp
from evaluate_data import N_ITEMS, Personas, SequentialPersonas, prepared

from recbole_persona.data.training_part import training_matrix
from recbole_persona.evaluate import ruler

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_training_matrix_holds_training_interactions_only(folder):
    _, train, valid, test, *_ = prepared(Personas, folder)
    wanted = set(zip(*(train._dataset.inter_feat[name].tolist() for name in ("user_id", "item_id"))))
    assert set(zip(*training_matrix(train._dataset).nonzero())) == wanted
    held_out = [set(zip(*(d._dataset.inter_feat[n].tolist() for n in ("user_id", "item_id")))) for d in (valid, test)]
    assert not wanted & set.union(*held_out)


def test_training_matrix_of_a_sequential_data_set_has_the_first_items_too(folder):
    _, train, *_ = prepared(SequentialPersonas, folder)
    found = set(zip(*training_matrix(train._dataset).nonzero()))
    sequences = {}
    lines = [line.split("\t") for line in (folder / "small" / "small.inter").read_text().splitlines()[1:]]
    users, items = (train._dataset.field2token_id[name] for name in ("user_id", "item_id"))
    for user, item, *_ in sorted(lines, key=lambda line: int(line[3])):
        sequences.setdefault(users[user], []).append(items[item])
    assert found == {(user, item) for user, sequence in sequences.items() for item in sequence[:-2]}


def test_svd_leaves_popularity_out_and_knows_nothing_of_unseen_items():
    rng = np.random.default_rng(0)
    matrix = (rng.random((50, 20)) < 0.3).astype(float)
    matrix[0], matrix[:, 0], matrix[:, 7] = 0, 0, 0
    vectors = ruler.svd_vectors(sp.csr_array(matrix), seed=1, dim=5)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths, (matrix.sum(0) > 0).astype(float), atol=1e-12)
    seen = matrix[matrix.sum(1) > 0][:, matrix.sum(0) > 0]
    scaled = seen / np.sqrt(np.outer(seen.sum(1), seen.sum(0)))
    _, values, right = np.linalg.svd(scaled)
    np.testing.assert_allclose(np.abs(right[0]), np.sqrt(seen.sum(0) / seen.sum()))  # the pair that is left out
    slow = right[1:6].T * values[1:6]
    slow /= np.linalg.norm(slow, axis=1, keepdims=True)
    kept = vectors[matrix.sum(0) > 0]
    np.testing.assert_allclose(kept @ kept.T, slow @ slow.T, atol=1e-9)  # signs are free
    assert (ruler.svd_vectors(sp.csr_array(matrix), seed=1, dim=5) == vectors).all()


def test_tastes_of_users_are_means_over_their_items(folder):
    config, train, *_ = prepared(Personas, folder, tdd_clusters=5)
    for option in ("svd-kmeans", "field:tags", "field:shelf", "field:place"):
        config["tdd_tastes"] = option
        found = ruler.tastes(config, train._dataset)
        items, users = found.items.toarray(), found.users.toarray()
        np.testing.assert_allclose(items.sum(1), np.arange(len(items)) > 0)
        matrix = training_matrix(train._dataset).toarray()
        for user in range(1, len(users)):
            np.testing.assert_allclose(users[user], items[matrix[user] > 0].mean(0))
        assert (found.centroids is None) == (option in ("field:tags", "field:shelf"))


def test_tastes_of_tokens_are_fractional_and_empty_fields_are_a_taste_of_their_own(folder):
    config, train, *_ = prepared(Personas, folder, tdd_tastes="field:tags")
    dataset = train._dataset
    items = ruler.tastes(config, dataset).items.toarray()
    lines = [line.split("\t") for line in (folder / "small" / "small.item").read_text().splitlines()[1:]]
    names = dataset.field2id_token["tags"]
    for name, _, tags, *_ in lines:
        row = items[dataset.token2id("item_id", name)]
        wanted = {str(tag): 1 / len(tags.split()) for tag in tags.split()} or {"nothing": 1.0}
        got = {
            "nothing" if taste == len(names) - 1 else str(names[taste + 1]): row[taste] for taste in row.nonzero()[0]
        }
        assert got == pytest.approx(wanted)
    assert any(not line[2] for line in lines) and len(lines) == N_ITEMS


def test_more_clusters_than_vectors_are_reduced_with_a_warning(folder, caplog):
    config, train, *_ = prepared(Personas, folder, tdd_clusters=1000)
    assert ruler.tastes(config, train._dataset).centroids.shape[0] == N_ITEMS + 1
    assert "tdd_clusters is 1000" in caplog.text
