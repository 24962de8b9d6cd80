"""Re-ranking against slow loops, and re-ranked runs on ml-100k."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction

import recbole_persona
from recbole_persona.errors import UserError
from recbole_persona.evaluate.reranking import blended, calibrated, mmr, proportional
from recbole_persona.runner import load, reranked
from recbole_persona.runner.reranked import rerank_run
from recbole_persona.runs import RunFolder

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


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_proportional_against_slow_loops(weight, ties):
    scores, _, weights, shares = candidates(int(weight * 10), ties)
    order = proportional(scores, weights, shares, weight, PLACES)
    for user in range(USERS):

        def value(_, n, chosen, y=scores[user], a=weights[user], s=shares[user]):
            claim = 0.0
            for k in range(7 if s.any() else 0):
                held = sum(a[m][k] for m in chosen)
                claim += a[n][k] * math.log(((len(chosen) + 1) * s[k] + 0.5) / (held + 0.5))
            return (1 - weight) * (y[n] if math.isfinite(y[n]) else 0.0) + weight * claim

        assert order[user].tolist() == greedy(scores[user], value, PLACES), user


def test_places_are_shared_out_in_proportion():
    weights = np.repeat(np.eye(3), 10, axis=0)[None]  # (1, 30, 3): ten candidates of each of three personas
    scores = np.arange(30, 0, -1.0)[None]
    order = proportional(scores, weights, np.array([[0.5, 0.3, 0.2]]), 1.0, 10)
    assert weights[0, order[0]].sum(0).tolist() == [5, 3, 2]


@pytest.mark.parametrize("ties", [False, True])
def test_weight_0_and_users_of_whom_nothing_is_known_keep_the_models_order(ties):
    scores, vectors, tastes, target = candidates(3, ties, short=False)
    same = np.tile(np.arange(PLACES), (USERS, 1))
    np.testing.assert_array_equal(mmr(scores, vectors, 0.0, PLACES), same)
    np.testing.assert_array_equal(calibrated(scores, tastes, target, 0.0, PLACES), same)
    np.testing.assert_array_equal(calibrated(scores, tastes, target, 0.9, PLACES)[4], same[4])
    np.testing.assert_array_equal(mmr(scores, np.zeros_like(vectors), 0.9, PLACES), same)
    np.testing.assert_array_equal(proportional(scores, tastes, target, 0.0, PLACES), same)
    np.testing.assert_array_equal(proportional(scores, tastes, target, 0.9, PLACES)[4], same[4])


def test_every_candidate_once_and_seen_ones_last():
    scores, vectors, tastes, target = candidates(5)
    known = (scores, tastes, target, 0.7, CANDIDATES)
    for order in (mmr(scores, vectors, 0.7, CANDIDATES), calibrated(*known), proportional(*known)):
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


SETTINGS = {
    "epochs": 6,
    "eval_step": 6,
    "learning_rate": 0.005,
    "eval_batch_size": 500_000,
    "metrics": ["NDCG", "TDD", "ILD", "ItemCoverage"],
    "topk": [5, 10],
    "valid_metric": "NDCG@10",
}
SMALL = {
    "epochs": 2,
    "embedding_size": 8,
    "metrics": ["NDCG", "ILD", "GAUC", "LogLoss"],
    "topk": [3, 7],
    "valid_metric": "NDCG@3",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
}


@pytest.fixture(scope="module")
def bpr(tmp_path_factory):
    """A short run of BPR on ml-100k, to be read only: ``(its folder, its result)``."""
    run_dir = str(tmp_path_factory.mktemp("bpr"))
    return run_dir, recbole_persona.run("BPR", "ml-100k", config_dict={**SETTINGS, "run_dir": run_dir})["result"]


@pytest.fixture(scope="module", params=["BPR", "GRU4Rec"])
def small(folder, request, tmp_path_factory):
    """The same on the small data set, of a general and of a sequential model, with metrics of two types."""
    out = tmp_path_factory.mktemp(request.param)
    settings = {**SMALL, "data_path": str(folder), "run_dir": str(out / "run")}
    if request.param == "GRU4Rec":
        settings |= {"train_neg_sample_args": None, "hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        return settings["run_dir"], recbole_persona.run(request.param, "small", config_dict=settings)["result"]


@pytest.fixture(scope="module", params=["mmr", "calibrated"])
def frontier(bpr, request, tmp_path_factory):
    """``(method, out_dir, result)`` of a choice among five weights."""
    out = tmp_path_factory.mktemp(request.param)
    weights = [0.1, 0.3, 0.6, 0.9]
    return request.param, out, rerank_run(bpr[0], request.param, weights, 0.95, out, all_on_test=True)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_blended_against_slow_loops(weight):
    scores, vectors, *_ = candidates(7)
    others = vectors[..., 0].copy()
    others[5, 3] = -np.inf
    order = blended(scores, others, weight, PLACES)
    for user in range(USERS):
        known = others[user][np.isfinite(others[user])]
        theirs = np.where(np.isfinite(others[user]), (others[user] - known.min()) / np.ptp(known), 0.0)
        expected = greedy(
            scores[user], lambda own, n, _, theirs=theirs: (1 - weight) * own + weight * theirs[n], PLACES
        )
        assert order[user].tolist() == expected


def test_another_model_re_ranks_the_candidates(small, folder, tmp_path):
    """Of all items, with weight 1, its lists are its own; of a few, they hold nothing that the first stage left out."""
    run_dir, result = small
    settings = RunFolder(run_dir).config().external_config_dict | {"run_dir": str(tmp_path / "other"), "seed": 7}
    other = recbole_persona.run(result["model"], "small", config_dict=settings)["result"]
    everything = load(run_dir).dataset.item_num
    found = rerank_run(run_dir, "model", [1.0], 1e-9, tmp_path / "all", candidates=everything, by=tmp_path / "other")
    assert found["rerank"]["by"] == str(tmp_path / "other")
    for metric in ("ndcg@3", "ndcg@7", "ild@7"):
        assert found["test"][metric] == pytest.approx(other["test"][metric], abs=1e-9)
    few = rerank_run(run_dir, "model", [1.0], 1e-9, tmp_path / "few", candidates=7, by=tmp_path / "other")
    assert few["test"]["ild@7"] == pytest.approx(result["test"]["ild@7"])  # the same seven in another order
    with pytest.raises(UserError, match="by is the folder of the run that re-ranks"):
        rerank_run(run_dir, "model", [1.0], None, tmp_path / "none")
    if result["model"] == "BPR":
        settings |= {"run_dir": str(tmp_path / "split"), "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}}}
        recbole_persona.run("BPR", "small", config_dict=settings)
        with pytest.raises(UserError, match="is of another split"):
            rerank_run(run_dir, "model", [1.0], None, tmp_path / "none", by=tmp_path / "split")


def test_weight_0_is_the_run_itself(bpr, tmp_path):
    run_dir, result = bpr
    found = rerank_run(run_dir, "calibrated", [0], None, tmp_path)
    assert found["test"] == result["test"] and found["best_valid"] == result["best_valid"]
    assert found["best_valid_score"] == result["best_valid_score"] and found["protocol"] == result["protocol"]
    pd.testing.assert_frame_equal(RunFolder(tmp_path).per_user(), RunFolder(run_dir).per_user())


def test_personas_get_places_in_proportion(ampcf, tmp_path):
    loaded = load(ampcf)
    personas = reranked.METHODS["personas"](loaded, None)
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 944, 5), rng.integers(1, 1683, (5, 4))
    weights, shares = personas.knowledge(items, Interaction({"user_id": torch.as_tensor(users)}))
    for row, user in enumerate(users):
        met = loaded.train_data._dataset.inter_feat
        met = met["item_id"][met["user_id"] == int(user)]
        mine = loaded.model.persona_weights(torch.full_like(met, int(user)), met).double()
        np.testing.assert_allclose(shares[row], mine.mean(0).detach(), atol=1e-6)
        own = loaded.model.persona_weights(torch.full((4,), int(user)), torch.as_tensor(items[row])).detach()
        np.testing.assert_allclose(weights[row], own, atol=1e-6)
    result = rerank_run(ampcf, "personas", [0.3, 0.9], None, tmp_path)
    points = result["rerank"]["frontier"]
    assert points[0]["valid"] == RunFolder(ampcf).result()["best_valid"] != points[1]["valid"]
    assert [point["weight"] for point in points] == [0.0, 0.3, 0.9]


def test_personas_need_a_model_that_has_some(small, tmp_path):
    with pytest.raises(UserError, match=f"such as AMPCF; {small[1]['model']} has none"):
        rerank_run(small[0], "personas", [0.5], None, tmp_path)


def test_the_frontier_falls_as_it_should(bpr, frontier):
    method, _, result = frontier
    assert result["rerank"]["frontier"][0]["valid"] == bpr[1]["best_valid"]
    assert result["rerank"]["on_test"]["frontier"][0]["test"] == bpr[1]["test"]
    metric, sign = ("ild@10", 1) if method == "mmr" else ("tdd@10", -1)
    for points, part in (
        (result["rerank"]["frontier"], "valid"),
        (result["rerank"]["on_test"]["frontier"], "test"),
    ):
        assert [point["weight"] for point in points] == [0.0, 0.1, 0.3, 0.6, 0.9]
        aim = [sign * point[part][metric] for point in points]
        assert aim == sorted(aim) and aim[-1] - aim[0] > 0.1
        assert points[-1][part]["ndcg@10"] < points[0][part]["ndcg@10"]


def test_the_choice_is_made_on_validation(frontier):
    method, _, result = frontier
    rerank = result["rerank"]
    valid = {point["weight"]: point["valid"] for point in rerank["frontier"]}
    limit = 0.95 * valid[0.0]["ndcg@10"]
    assert rerank["weight"] == max(weight for weight in valid if valid[weight]["ndcg@10"] >= limit) > 0
    assert result["best_valid"] == valid[rerank["weight"]]
    on_test = {point["weight"]: point["test"] for point in rerank["on_test"]["frontier"]}
    assert result["test"] == on_test[rerank["weight"]] and rerank["on_test"]["used_to_choose"] is False
    assert (rerank["method"], rerank["keep"], rerank["candidates"]) == (method, 0.95, 100)


def test_the_test_part_is_touched_once_and_after_the_choice(small, tmp_path, monkeypatch):
    events, choose, collate = [], reranked._choose, FullSortEvalDataLoader.collate_fn

    def spy(loader, index):
        events.append(loader._sampler.phase)
        return collate(loader, index)

    monkeypatch.setattr(FullSortEvalDataLoader, "collate_fn", spy)
    monkeypatch.setattr(reranked, "_choose", lambda *known: (events.append("choice"), choose(*known))[1])
    rerank_run(small[0], "mmr", [0.1, 0.5], None, tmp_path)
    batches = events.index("choice")
    assert events == ["valid"] * batches + ["choice"] + ["test"] * (len(events) - batches - 1)
    assert len(events) - batches - 1 in (
        batches - 1,
        batches,
        batches + 1,
    )  # every batch is scored once for all weights


def test_items_that_were_seen_do_not_come_back(bpr, frontier):
    loaded = load(bpr[0])
    seen = set()
    for part in (loaded.train_data, loaded.valid_data):
        feat = part._dataset.inter_feat
        seen |= set(zip(*(loaded.dataset.id2token(field, feat[field]) for field in ("user_id", "item_id"))))
    table = RunFolder(frontier[1]).per_user()
    shown = [(user, item) for user, row in zip(table["user"], table["items"]) for item in json.loads(row)]
    assert len(shown) == 10 * len(table) == len(set(shown)) and not seen & set(shown)


def test_the_folder_reads_like_that_of_a_run(bpr, frontier):
    _, out, result = frontier
    folder = RunFolder(out)
    assert folder.result() == json.loads(json.dumps(result)) and folder.complete
    assert folder.config()["run_dir"] == str(out) and folder.description()["config_hash"] == result["config_hash"]
    assert folder.ids() == RunFolder(bpr[0]).ids() and result["split_hash"] == bpr[1]["split_hash"]
    table = folder.per_user()
    for metric in ("ndcg@10", "ndcg@5", "tdd@10", "ild@5"):
        assert table[metric].mean() == pytest.approx(result["test"][metric], abs=0.51e-4)
    assert not folder.model_file.exists()


def test_a_folder_of_re_ranked_lists_is_written_again_and_another_is_not(small, tmp_path):
    first = rerank_run(small[0], "mmr", [0.2], 0.01, tmp_path)
    RunFolder(tmp_path).result_file.unlink()  # as when it is killed just before its end
    again = rerank_run(small[0], "mmr", [0.2], 0.01, tmp_path)
    assert again["test"] == first["test"] and again["rerank"] == first["rerank"] and first["rerank"]["weight"] == 0.2
    for out, sentence in ((small[0], "a folder of its own"), (tmp_path / "other", "holds another run")):
        if out != small[0]:
            shutil.copytree(small[0], out)
        with pytest.raises(UserError, match=sentence):
            rerank_run(small[0], "mmr", [0.2], None, out)
        assert RunFolder(out).result() == small[1]
    RunFolder(out).result_file.unlink()  # a run that can be resumed
    with pytest.raises(UserError, match="holds another run"):
        rerank_run(small[0], "mmr", [0.2], None, out)
    assert RunFolder(out).state_file.is_file()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        rerank_run(tmp_path, "mmr", [0.2], None, tmp_path / "twice")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "mrr"}, "one of mmr, calibrated, personas, model, not 'mrr'"),
        ({"weights": [0.5, 1.5]}, "between 0 and 1; these are 0.0, 0.5, 1.5"),
        ({"weights": [-0.1]}, "between 0 and 1"),
        ({"weights": [float("nan"), 0.5]}, "between 0 and 1"),
        ({"keep": 99}, "keep is the share"),
        ({"candidates": 5}, "A list of 7 cannot be chosen from 5 candidates"),
        ({"config_dict": {"eval_args": {**SMALL["eval_args"], "mode": "uni50"}}}, "needs a ranking of all items"),
        ({"config_dict": {"valid_metric": "LogLoss"}}, "is chosen by logloss, which"),
    ],
)
def test_mistakes_are_told(small, tmp_path, changes, sentence):
    asked = {"method": "mmr", "weights": [0.5], "keep": None, "out_dir": tmp_path / "out", **changes}
    with pytest.raises(UserError, match=sentence):
        rerank_run(small[0], **asked)
    assert not RunFolder(tmp_path / "out").started


def test_the_weight_that_is_chosen():
    valid = {
        0.0: {"ndcg@5": 0.5},
        0.1: {"ndcg@5": 0.6},
        0.2: {"ndcg@5": 0.6},
        0.3: {"ndcg@5": 0.46},
        1.0: {"ndcg@5": 0},
    }
    config = {"valid_metric": "NDCG@5", "valid_metric_bigger": True}
    assert [reranked._choose(valid, config, keep) for keep in (None, 1.0, 0.92, 0.93)] == [0.1, 0.2, 0.3, 0.2]
    valid = {0.0: {"tdd@5": 0.5}, 0.4: {"tdd@5": 0.4}, 0.6: {"tdd@5": 0.51}}
    config = {"valid_metric": "TDD@5", "valid_metric_bigger": False}
    assert [reranked._choose(valid, config, keep) for keep in (None, 1.0, 0.95)] == [0.4, 0.4, 0.6]


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_lists_stand_above_all_other_items(scale):
    generator = torch.Generator().manual_seed(0)
    scores = scale * torch.randn(5, 30, generator=generator).round(decimals=1)  # with ties
    scores[:, 0], scores[2, 3:], scores[4] = -torch.inf, -torch.inf, -torch.inf
    candidates = scores.topk(12).indices
    order = np.stack([np.random.default_rng(user).permutation(12)[:6] for user in range(5)])
    order[2] = [1, 0, 2, 3, 4, 5]  # two items can be recommended to this user, none to the last
    ranked = reranked._with_lists(scores, candidates, order)
    for user in range(5):
        wanted = [item for item in candidates[user][order[user]].tolist() if scores[user, item] > -torch.inf]
        assert ranked[user].topk(6).indices.tolist()[: len(wanted)] == wanted
        rest = [item for item in range(30) if item not in wanted]
        assert torch.equal(ranked[user, rest], scores[user, rest].double())


@pytest.mark.parametrize("method", ["mmr", "calibrated"])
def test_sequential_models_and_metrics_of_two_types(small, method, tmp_path):
    run_dir, result = small
    found = rerank_run(run_dir, method, [0.5], 0.01, tmp_path, all_on_test=True)
    own, changed = (point["test"] for point in found["rerank"]["on_test"]["frontier"])
    assert own == {key: value for key, value in result["test"].items() if key != "logloss"}
    assert changed != own and found["test"] == changed
    assert changed["gauc"] == pytest.approx(own["gauc"], abs=0.1)  # items behind the list keep their places
    table = RunFolder(tmp_path).per_user()
    assert table["user"].tolist() == RunFolder(run_dir).per_user()["user"].tolist()
    assert table["ild@7"].mean() == pytest.approx(changed["ild@7"], abs=0.51e-4)
