"""TDD, ILD, PersonaEntropy and PersonaUsage against slow loops, and in RecBole's own runs."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from evaluate_data import Personas, prepared
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from recbole.config import Config
from recbole.evaluator import register
from recbole.evaluator.collector import DataStruct
from recbole.quick_start import run_recbole
from recbole.utils import EvaluatorType
from scipy.optimize import linprog
from scipy.spatial.distance import jensenshannon

from recbole_persona.errors import UserError
from recbole_persona.evaluate import distances, metrics, ruler
from recbole_persona.evaluate.collector import Collector as OurCollector
from recbole_persona.evaluate.collector import Personas as Gathered
from recbole_persona.registry import METRICS, import_path

pytestmark = pytest.mark.usefixtures("elsewhere")


# distances ---------------------------------------------------------------------------------------------------------


def slow_distance(name, p, q, centroids=None):
    """One pair of distributions, by the book."""
    if name == "js":
        total = 0.0
        for a, b in zip(p, q):
            m = (a + b) / 2
            total += (a * math.log2(a / m) if a else 0.0) / 2 + (b * math.log2(b / m) if b else 0.0) / 2
        return math.sqrt(max(total, 0.0))
    if name == "hellinger":
        return math.sqrt(sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(p, q)) / 2)
    if name == "l1":
        return sum(abs(a - b) for a, b in zip(p, q)) / 2
    if name == "kl":
        return sum(a * math.log(a / (0.99 * b + 0.01 * a)) for a, b in zip(p, q) if a)
    size = len(p)
    cost = [[math.dist(x, y) for y in centroids] for x in centroids]
    equal = np.zeros((2 * size, size * size))
    for i, j in itertools.product(range(size), repeat=2):
        equal[i, i * size + j] = equal[size + j, i * size + j] = 1
    return linprog(np.ravel(cost), A_eq=equal, b_eq=np.concatenate([p, q]), method="highs").fun


def distance(name, p, q, centroids):
    found = distances.DISTANCES[name]
    return found(p, q, centroids) if name == "wasserstein" else found(p, q)


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_distances_by_the_book(name):
    rng = np.random.default_rng(0)
    p, centroids = rng.dirichlet(np.full(6, 0.5), 30), rng.normal(size=(6, 3))
    q = rng.multinomial(5, np.full(6, 1 / 6), 30) / 5
    wanted = [slow_distance(name, *row, centroids) for row in zip(p, q)]
    np.testing.assert_allclose(distance(name, p, q, centroids), wanted, atol=1e-7)
    if name == "js":
        np.testing.assert_allclose(distance(name, p, q, centroids), jensenshannon(p, q, base=2, axis=1), atol=1e-12)


def shares(size=5):
    """Rows that sum to one, zeros and ties among them."""
    counts = arrays(np.int64, (4, size), elements=st.integers(0, 6)).filter(lambda rows: rows.sum(1).all())
    return counts.map(lambda rows: rows / rows.sum(1, keepdims=True))


@settings(max_examples=60, deadline=None)
@given(shares(), shares())
def test_properties_of_distances(p, q):
    centroids = np.random.default_rng(0).normal(size=(5, 3))
    for name in distances.DISTANCES:
        values = distance(name, p, q, centroids)
        same = distance(name, p, p, centroids)
        assert (values >= -1e-12).all() and np.abs(same).max() < 1e-7
        if name != "kl":
            np.testing.assert_allclose(values, distance(name, q, p, centroids), atol=1e-7)
        if name in ("js", "hellinger", "l1"):
            assert values.max() <= 1
        if name == "kl":
            assert values.max() <= math.log(100) + 1e-9
    apart = np.eye(5)[:4], np.eye(5)[1:]
    for name in ("js", "hellinger", "l1"):
        np.testing.assert_allclose(distance(name, *apart, centroids), 1.0)


def test_wasserstein_of_masses_that_are_almost_nothing():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.full(21, 0.1), 400)  # shares down to 1e-9 and below
    q = rng.multinomial(10, np.full(21, 1 / 21), 400) / 10
    centroids = rng.normal(size=(21, 4))
    values = distances.wasserstein(p, q, centroids)
    few = [0, 50, 399]
    np.testing.assert_allclose(
        values[few], [slow_distance("wasserstein", p[i], q[i], centroids) for i in few], atol=1e-6
    )


# metrics on random lists -------------------------------------------------------------------------------------------


def random_struct(seed, cases=12, places=6, items=15, tastes=4):
    """Lists (some short), a ruler with fractional tastes, vectors (some zero), token sets (some empty), personas."""
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(np.arange(1, items))[:places] for _ in range(cases)])
    for row, length in zip(lists, rng.integers(1, places + 1, cases)):
        row[length:] = 0
    of_items = rng.dirichlet(np.full(tastes, 0.3), items) * (np.arange(items) > 0)[:, None]
    of_users = rng.dirichlet(np.full(tastes, 0.3), cases + 1)
    of_users[2] = 0  # a user without training items
    vectors = rng.normal(size=(items, 3)) * (rng.random(items) < 0.8)[:, None]
    vectors[0] = 0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = rng.dirichlet(np.ones(3), (cases, places))
    struct = DataStruct()
    struct.set("rec.list", torch.from_numpy(lists))
    struct.set("rec.users", torch.arange(1, cases + 1))
    centroids = rng.normal(size=(tastes, 2))
    struct.set("data.tastes", ruler.Tastes(sp.csr_array(of_items), sp.csr_array(of_users), centroids))
    struct.set("vectors", vectors / np.where(lengths > 0, lengths, 1))
    struct.set("tokens", (rng.random((items, 5)) < 0.3).astype(float) * (np.arange(items) > 0)[:, None])
    struct.set("weights", weights)
    entropy = np.array([[sum(-w * math.log(w) for w in place) for place in case] for case in weights])
    struct.set("rec.personas", Gathered(torch.tensor(entropy), torch.tensor(weights.argmax(2)), 3))
    return struct


OPTIONS = {
    "topk": [1, 4, 6], "metric_decimal_place": 4, "split_seed": 0, "metrics": [], "tdd_tastes": "svd-kmeans",
    "tdd_clusters": 4, "tdd_distance": "js", "ild_ruler": "svd", "value_mode": None,
}  # fmt: skip


def slow_tdd(struct, name, case, k):
    tastes = struct["data.tastes"]
    history = tastes.users.toarray()[int(struct["rec.users"][case])]
    items = [item for item in struct["rec.list"][case, :k].tolist() if item]
    shown = sum(tastes.items.toarray()[item] for item in items) / len(items)
    return slow_distance(name, history, shown, tastes.centroids) if history.any() else math.nan


def slow_ild(struct, alike, case, k):
    items = [item for item in struct["rec.list"][case, :k].tolist() if item]
    pairs = list(itertools.combinations(items, 2))
    return sum(1 - alike(a, b) for a, b in pairs) / len(pairs) if pairs else 0.0


def check(metric, struct, slow):
    """Values of every case and cut-off are those of ``slow(case, k)``; the result is their mean, rounded."""
    cases = len(struct["rec.list"])
    result, values = metric.calculate_metric(struct), metric.per_user(struct)
    for k in metric.topk:
        wanted = np.array([slow(case, k) for case in range(cases)])
        np.testing.assert_allclose(values[f"{metric.name}@{k}"], wanted, atol=1e-7)
        assert result[f"{metric.name}@{k}"] == pytest.approx(np.nanmean(wanted), abs=0.5001e-4)


@pytest.mark.parametrize("name", distances.DISTANCES)
@pytest.mark.parametrize("cells", [4_000_000, 8], ids=["at once", "in chunks"])
def test_tdd(name, cells, monkeypatch):
    monkeypatch.setattr(metrics, "_CELLS", cells)
    struct = random_struct(1)
    check(metrics.TDD({**OPTIONS, "tdd_distance": name}), struct, lambda case, k: slow_tdd(struct, name, case, k))


@pytest.mark.parametrize("cells", [4_000_000, 8], ids=["at once", "in chunks"])
def test_ild(cells, monkeypatch):
    monkeypatch.setattr(metrics, "_CELLS", cells)
    struct = random_struct(2)
    vectors, tokens = struct["vectors"], struct["tokens"]

    def jaccard(a, b):
        either = np.maximum(tokens[a], tokens[b]).sum()
        return np.minimum(tokens[a], tokens[b]).sum() / either if either else 0.0

    struct.set("data.item_profiles", vectors)
    check(metrics.ILD(OPTIONS), struct, lambda case, k: slow_ild(struct, lambda a, b: vectors[a] @ vectors[b], case, k))
    struct.set("data.item_profiles", sp.csr_array(tokens))
    check(metrics.ILD({**OPTIONS, "ild_ruler": "field:x"}), struct, lambda case, k: slow_ild(struct, jaccard, case, k))


def test_persona_metrics():
    struct = random_struct(3)

    def real(case, k):
        return [w for w, item in zip(struct["weights"][case, :k], struct["rec.list"][case, :k]) if item]

    def entropy(case, k):
        of = [sum(-w * math.log(w) for w in weights) / math.log(3) for weights in real(case, k)]
        return sum(of) / len(of)

    check(metrics.PersonaEntropy(OPTIONS), struct, entropy)
    check(metrics.PersonaUsage(OPTIONS), struct, lambda case, k: len({int(w.argmax()) for w in real(case, k)}) / 3)


def test_one_persona_has_no_entropy_and_is_used():
    struct = random_struct(3)
    ones = torch.zeros(12, 6, dtype=torch.float64), torch.zeros(12, 6, dtype=torch.int64)
    struct.set("rec.personas", Gathered(*ones, 1))
    assert set(metrics.PersonaEntropy(OPTIONS).calculate_metric(struct).values()) == {0.0}
    assert set(metrics.PersonaUsage(OPTIONS).calculate_metric(struct).values()) == {1.0}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(12)))
def test_the_order_of_users_does_not_matter(seed, order):
    struct, moved = random_struct(seed), random_struct(seed)
    for name in ("rec.list", "rec.users"):
        moved.set(name, struct[name][list(order)])
    entropy, dominant, number = struct["rec.personas"]
    moved.set("rec.personas", Gathered(entropy[list(order)], dominant[list(order)], number))
    for each in (struct, moved):
        each.set("data.item_profiles", struct["vectors"])
    for kind in (metrics.TDD, metrics.ILD, metrics.PersonaEntropy, metrics.PersonaUsage):
        before, after = (kind(OPTIONS).per_user(each) for each in (struct, moved))
        for key, values in before.items():
            np.testing.assert_allclose(after[key], values[list(order)], atol=1e-12)


def test_a_list_with_the_tastes_of_the_history_is_at_distance_zero():
    struct = random_struct(4)
    items = sp.csr_array(np.eye(5)[[0, 1, 1, 2, 2]])
    struct.set("rec.list", torch.tensor([[1, 3, 0]]))
    struct.set("rec.users", torch.tensor([0]))
    struct.set("data.tastes", ruler.Tastes(items, sp.csr_array([[0, 0.5, 0.5, 0, 0]]), np.eye(5)))
    for name in distances.DISTANCES:
        assert metrics.TDD({**OPTIONS, "topk": [3], "tdd_distance": name}).calculate_metric(struct) == {"tdd@3": 0.0}


# in RecBole --------------------------------------------------------------------------------------------------------


def test_registered_as_the_classes_say():
    for name in ("tdd", "ild", "personaentropy", "personausage"):
        kind = import_path(METRICS[name].path)
        assert kind.name == name and kind.metric_type == register.metric_types[name] == EvaluatorType.RANKING
        assert kind.metric_need == register.metric_information[name]
        assert (name in register.smaller_metrics) == kind.smaller


def test_yaml_next_to_ndcg_and_as_valid_metric(tmp_path):
    """RecBole's own entry point, its BPR and ml-100k; the best epoch is the one with the smallest TDD."""
    (tmp_path / "metrics.yaml").write_text(
        "metrics: [NDCG, TDD, ILD]\nvalid_metric: TDD@10\ntopk: [5, 10]\ntdd_clusters: 8\ntdd_distance: hellinger\n"
        "epochs: 2\nshow_progress: False\nstate: ERROR\n"
    )
    result = run_recbole("BPR", "ml-100k", config_file_list=[str(tmp_path / "metrics.yaml")])
    wanted = [f"{name}@{k}" for name in ("ndcg", "tdd", "ild") for k in (5, 10)]
    assert list(result["test_result"]) == wanted and result["valid_score_bigger"] is False
    assert all(0 < value < 1.2 for value in result["test_result"].values())


def test_early_stopping_keeps_the_smallest(folder):
    _, train, valid, *_, trainer = prepared(
        Personas, folder, metrics=["TDD"], valid_metric="TDD@7", epochs=6, stopping_step=1, learning_rate=0.1
    )
    scores = []
    best, best_result = trainer.fit(train, valid, callback_fn=lambda epoch, score: scores.append(score))
    assert best == min(scores) == best_result["tdd@7"] and len(set(scores)) > 1
    trainer.evaluate(valid)  # loads the best weights again
    assert trainer.evaluate(valid, load_best_model=False)["tdd@7"] == best


def test_description_names_the_options(folder):
    config = Config(
        Personas,
        "small",
        config_dict={
            "data_path": str(folder),
            "metrics": ["TDD", "ILD", "AUC"],
            "valid_metric": "AUC",
            "tdd_distance": "kl",
        },
    )
    said = metrics.describe(config)
    assert "kl" in said["tdd"] and "20" in said["tdd"] and "2020" in said["ild"] and "uni100" in said["value metrics"]
    config["metrics"] = ["NDCG"]
    assert metrics.describe(config) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": ["TDD"], "tdd_distance": "cosine"},
        {"metrics": ["TDD"], "tdd_tastes": "kmeans"},
        {"metrics": ["TDD"], "tdd_tastes": "field:"},
        {"metrics": ["TDD"], "tdd_tastes": "field:colour"},
        {"metrics": ["TDD"], "tdd_tastes": "field:price"},
        {"metrics": ["TDD"], "tdd_clusters": 1},
        {"metrics": ["TDD"], "tdd_clusters": 2.5},
        {"metrics": ["ILD"], "ild_ruler": "cosine"},
        {"metrics": ["ILD"], "ild_ruler": "field:colour"},
        {"metrics": ["PersonaUsage"], "model": "BPR"},
        {"metrics": ["TDDD"]},
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(folder, change):
    model = change.pop("model", Personas)
    with pytest.raises(UserError) as error:
        prepared(model, folder, valid_metric=f"{change['metrics'][0]}@3", **change)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_faults_that_show_only_when_lists_are_there(folder):
    *_, test, _, trainer = prepared(
        Personas, folder, metrics=["TDD"], valid_metric="TDD@3", tdd_tastes="field:tags", tdd_distance="wasserstein"
    )
    with pytest.raises(UserError, match="svd-kmeans"):
        trainer.evaluate(test, load_best_model=False)
    *_, test, _, trainer = prepared(Personas, folder, topk=[100])
    with pytest.raises(UserError, match="only 40 items"):
        trainer.evaluate(test, load_best_model=False)
    *_, test, _, trainer = prepared(Personas, folder, metrics=["TDD"], valid_metric="TDD@3")
    trainer.eval_collector = OurCollector(trainer.config)
    with pytest.raises(UserError, match="data_collect"):
        trainer.evaluate(test, load_best_model=False)
