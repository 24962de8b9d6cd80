"""PeaPOD's users: where their vectors come from, whom they are like, who is new, and what the heads make of it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import upstream_models
from recbole.data.interaction import Interaction
from small_pod import small_pod

from recbole_persona import explain, recommend, run
from recbole_persona.config import Config
from recbole_persona.data.training_part import training_matrix
from recbole_persona.errors import UserError
from recbole_persona.evaluate.faithfulness import faithfulness
from recbole_persona.layers.matrix_factorisation import factorise
from recbole_persona.layers.neighbour_attention import divergence
from recbole_persona.lm.user_vectors import bivae, folded, nearest_to
from recbole_persona.runner.training import load
from recbole_persona.runner.user_vectors import run_vectors

torch.set_num_threads(1)
LAST_TWO = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
SMALL = {
    "use_gpu": False,
    "epochs": 1,
    "metrics": ["NDCG"],
    "topk": [5],
    "valid_metric": "NDCG@5",
    "eval_args": LAST_TWO,
    "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": "*"},
}
PEAPOD = SMALL | {
    "backbone": "scratch:tiny",
    "user_vector_size": 8,
    "n_neighbours": 4,
    "n_heads": 2,
    "n_beams": 7,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return upstream_models.write_tiny(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(data):
    """Runs of other models, made when they are asked for: name -> run folder."""
    made = {}

    def of(name, **settings):
        key = f"{name}{settings}"
        if key not in made:
            place = data.parent / f"run{len(made)}"
            shared = SMALL | {"data_path": str(data.parent), "run_dir": str(place)}
            made[key] = run(name, "tiny", config_dict=shared | settings)["run_dir"]
        return made[key]

    return of


def peapod(data, name, **settings):
    return run(
        "PeaPOD",
        "tiny",
        config_dict=PEAPOD | {"data_path": str(data.parent), "run_dir": str(data.parent / name), **settings},
    )


@pytest.fixture(scope="module")
def trained(data, folder):
    """A run of PeaPOD upon one of BPR."""
    metrics = ["NDCG", "HeadDivergence", "HeadDivergenceStart", "HeadDivergencePermuted"]
    return peapod(
        data, "peapod", user_vectors=folder("BPR", embedding_size=8), epochs=2, metrics=metrics, metric_decimal_place=8
    )


def held_out(loaders, number=6):
    return loaders[2]._dataset[torch.arange(number)]


def training_items(loaded):
    """Items of each user that are neither of the last two, by the table of interactions."""
    dataset = loaded.dataset
    flat = loaded.train_data._dataset.inter_feat.histories.flat
    users, items = flat[dataset.uid_field], flat[dataset.iid_field]
    return {user: items[users == user][:-2] for user in range(1, dataset.user_num)}


# Vectors of other runs


def test_general_models_give_what_they_multiply_with_items(folder):
    bpr = load(folder("BPR", embedding_size=8))
    assert torch.equal(run_vectors(bpr), bpr.model.user_embedding.weight)
    graph = load(folder("LightGCN", embedding_size=8, n_layers=2))
    assert torch.equal(run_vectors(graph), graph.model.forward()[0])
    assert not torch.equal(run_vectors(graph), graph.model.user_embedding.weight)


def test_personas_are_pooled_over_the_training_items(folder):
    loaded = load(folder("AMPCF", embedding_size=6, n_personas=3))
    model, train = loaded.model, loaded.train_data._dataset.inter_feat
    vectors = run_vectors(loaded)
    turned = model.persona_embedding.weight.view(-1, 3, 6).roll(1, dims=1).flatten(1)
    for user in (1, 5, 40):
        items = train["item_id"][train["user_id"] == user]
        weights = model.persona_weights(torch.full_like(items, user), items)
        torch.testing.assert_close(vectors[user], (weights.mean(dim=0) @ model.personas(torch.tensor([user]))[0]))
    model.persona_embedding.weight.data.copy_(turned)
    torch.testing.assert_close(run_vectors(loaded), vectors)  # which persona is the first says nothing


@pytest.mark.parametrize("name", ["UserEncoder", "SASRec", "DIN"])
def test_sequential_models_give_the_state_after_the_training_history(folder, name):
    small = {"hidden_size": 8, "inner_size": 8, "n_heads": 2} if name != "DIN" else {"embedding_size": 8}
    loaded = load(folder(name, train_neg_sample_args=None, **small) if name != "DIN" else folder(name, **small))
    model, vectors = loaded.model, run_vectors(loaded)
    for user, items in training_items(loaded).items():
        sequence = torch.zeros(1, model.max_seq_length, dtype=torch.int64)
        sequence[0, : len(items)] = items
        row = Interaction({model.ITEM_SEQ: sequence, model.ITEM_SEQ_LEN: torch.tensor([len(items)])})
        if name == "SASRec":
            expected = model(sequence, row[model.ITEM_SEQ_LEN])[0]
        elif name == "DIN":
            expected = model.items(items).mean(dim=0)
        else:
            expected = model.user_state(row)[0]
        torch.testing.assert_close(vectors[user], expected, rtol=1e-4, atol=1e-5)


def test_a_run_upon_a_run(data, folder, trained):
    loaded = load(trained["run_dir"])
    source = load(folder("BPR", embedding_size=8))
    own, other = loaded.dataset.field2token_id["user_id"], source.dataset.field2token_id["user_id"]
    for token in ("u1", "u17", "u40"):
        expected = torch.nn.functional.normalize(source.model.user_embedding.weight[other[token]], dim=0)
        torch.testing.assert_close(loaded.model.user_vectors[own[token]], expected)
    stored = json.loads((data.parent / "peapod" / "result.json").read_text())["test"]
    assert 0 < stored["headdivergence"] < 1 and stored["headdivergencestart"] != stored["headdivergence"]
    assert stored["headdivergencepermuted"] != stored["headdivergence"]


def test_a_run_is_read_again_without_the_one_it_was_built_upon(data, folder, trained):
    source = Path(folder("BPR", embedding_size=8))
    source.rename(data.parent / "away")
    try:
        assert load(trained["run_dir"]).model.user_vectors.any()
    finally:
        (data.parent / "away").rename(source)


# Mistakes


def test_a_mistake_about_users_is_one_sentence(data, folder):
    other = {**LAST_TWO, "split": {"RS": [0.6, 0.2, 0.2]}}
    for settings, sentence in (
        ({"user_vectors": folder("BPR", embedding_size=8, eval_args=other)}, "another split"),
        ({"user_vectors": str(data)}, "not the folder of a run"),
        ({"user_vectors": "lightgcn"}, "there is no folder 'lightgcn'"),
        ({"user_vectors": folder("Pop")}, "Pop has no vectors of users"),
        ({"user_vectors": folder("BERT4Rec", hidden_size=8, train_neg_sample_args=None)}, "BERT4Rec has no vectors"),
        ({"user_vectors": folder("BPR", embedding_size=8), "n_heads": 3}, "n_heads divides"),
    ):
        with pytest.raises(UserError, match=sentence):
            peapod(data, "never", **settings)
        assert not (data.parent / "never" / "result.json").is_file()
    for settings, sentence in (
        ({"control": "none"}, "control is one of"),
        ({"n_neighbours": 0}, "n_neighbours must be a whole number"),
        ({"n_heads": 2.0}, "n_heads must be a whole number"),
        ({"user_vectors": 5}, "user_vectors must be a name"),
        ({"user_vectors": "some/run"}, "recbole_persona.run"),
    ):
        with pytest.raises(UserError, match=sentence):
            small_pod(data, **settings)


def test_cornac_is_named_where_it_is_missing(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "cornac.data", None)
    monkeypatch.setitem(sys.modules, "cornac", None)
    with pytest.raises(UserError, match=r"recbole_persona\[cornac\]"):
        small_pod(data, user_vectors="bivae")


# BiVAE


def test_bivae_knows_users_by_their_ids_and_leaves_the_seed_alone(data):
    pytest.importorskip("cornac")
    model, loaders = small_pod(data, user_vectors="bivae")
    chosen = training_matrix(loaders[0]._dataset, np.float32)
    state = torch.get_rng_state()
    again = bivae(chosen, 8, seed=2020)  # the default split_seed
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.user_vectors, torch.nn.functional.normalize(again, dim=1).double())
    assert not again[0].any() and (model.neighbours[1:] > 0).all()


# The training part alone


def test_choices_are_those_of_the_training_part(data):
    _, loaders = small_pod(data)
    train, held = loaders[0]._dataset, [loader._dataset.inter_feat for loader in loaders[1:]]
    met = training_matrix(train).toarray()
    flat = train.inter_feat.histories.flat
    assert met.sum() == len(flat["user_id"]) - sum(len(part) for part in held)
    for part in held:
        assert not met[part["user_id"].numpy(), part["item_id"].numpy()].any()


# The context


@torch.no_grad()
def test_the_context_is_made_of_neighbours(data):
    model, loaders = small_pod(data)
    rows = held_out(loaders)
    before = model.context(rows, "sequential")
    assert before.shape == (6, 6, 64)
    torch.testing.assert_close(before[:, :3], model.task_prompts[0].expand(6, -1, -1))
    user = int(rows["user_id"][0])
    stranger = next(u for u in range(1, len(model.user_vectors)) if u not in [user, *model.neighbours[user].tolist()])
    model.user_vectors[stranger] = 1.0
    torch.testing.assert_close(model.context(rows, "sequential")[0], before[0])
    model.user_vectors[model.neighbours[user][0]] = 1.0
    assert not torch.allclose(model.context(rows, "sequential")[0], before[0])


@pytest.mark.parametrize("name", ["POD", "PeaPOD"])
def test_there_need_be_no_prompt_of_the_task(data, name):
    model, loaders = small_pod(data, name, task_tokens=0)
    rows = held_out(loaders)
    assert model.context(rows, "sequential").shape == (6, 0 if name == "POD" else 3, 64)
    loss = model.calculate_loss(next(iter(loaders[0])))
    loss.backward()
    torch.optim.Adam(model.parameters()).step()
    assert loss.isfinite() and model.full_sort_predict(rows).view(6, -1).max().isfinite()


@torch.no_grad()
def test_controls(data):
    plain, loaders = small_pod(data)
    rows = held_out(loaders)
    mean, _ = small_pod(data, control="mean")
    weights = mean.attended(rows).weights
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 4))
    assert mean.head_divergence() == 0 and torch.equal(mean.neighbours, plain.neighbours)
    strangers, _ = small_pod(data, control="random_neighbours")
    assert not torch.equal(strangers.neighbours, plain.neighbours)
    assert torch.equal(strangers.user_vectors, plain.user_vectors) and (strangers.neighbours[1:] > 0).all()
    blind, _ = small_pod(data, control="random_vectors")
    met = training_matrix(loaders[0]._dataset, np.float32)
    cosine = (plain.user_vectors[1:] @ plain.user_vectors[1:].T).numpy()
    shared = (met[1:] @ met[1:].T).toarray()
    known = np.triu_indices(40, 1)
    assert np.corrcoef(cosine[known], shared[known])[0, 1] > 0.5
    cosine = (blind.user_vectors[1:] @ blind.user_vectors[1:].T).numpy()
    assert abs(np.corrcoef(cosine[known], shared[known])[0, 1]) < 0.15


# New users


def test_a_folded_vector_is_the_one_that_the_fit_would_give():
    rng = np.random.default_rng(0)
    met = (rng.random((30, 20)) < 0.3).astype(np.float32)
    met[:, 0] = met[0] = 0
    users, items = factorise(sp.csr_array(met), 4, steps=8)
    users = torch.nn.functional.normalize(users, dim=1)
    longest = int(met.sum(axis=1).max())
    histories = torch.zeros(30, longest + 2, dtype=torch.int64)
    for user in range(30):
        chosen = torch.from_numpy(np.flatnonzero(met[user]))
        histories[user, : len(chosen)] = chosen
    lengths = torch.from_numpy(met.sum(axis=1)).long()
    twice = histories[:, :1].repeat(1, 1)
    found = folded(histories, lengths, items, solves=True)
    some = lengths > 0
    assert (found * users).sum(dim=1)[some].min() > 0.98  # the fit's items moved a last time after its users
    assert not found[~some].any() and not some[0]
    repeated = folded(torch.cat([twice, histories], dim=1), lengths + 1, items, solves=True)
    torch.testing.assert_close(repeated, found)  # a choice counts once
    mean = folded(histories, lengths, items, solves=False)
    expected = torch.nn.functional.normalize(torch.from_numpy(met) @ items, dim=1)
    torch.testing.assert_close(mean, expected)


def test_neighbours_of_new_users_are_those_of_all_pairs():
    vectors = torch.nn.functional.normalize(torch.randn(30, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    vectors[[0, 7]] = 0
    asked = torch.cat([vectors[3:6], torch.zeros(1, 5)])
    near = nearest_to(asked, vectors, 4)
    expected = (asked[:3] @ vectors.T).index_fill(1, torch.tensor([0, 7]), -2).topk(4).indices
    assert torch.equal(near[:3], expected) and not near[3].any()
    assert (nearest_to(asked[:1], vectors[:3], 5) > 0).sum() == 2


@pytest.mark.parametrize("control", [None, "random_neighbours", "random_vectors"])
@torch.no_grad()
def test_who_is_not_known_is_known_by_the_history(data, control):
    model, loaders = small_pod(data, control=control)
    rows = Interaction(
        {name: held_out(loaders)[name] for name in ("user_id", "item_id", "item_id_list", "item_length")}
    )
    known = model.full_sort_predict(rows).view(6, -1)
    columns = {name: value for name, value in rows.interaction.items() if name != "user_id"}
    nameless = model.context(Interaction(columns), "sequential")
    stranger = Interaction({**columns, "user_id": torch.zeros_like(rows["user_id"])})
    torch.testing.assert_close(model.context(stranger, "sequential"), nameless)
    assert (model.attended(stranger).neighbours > 0).all()
    assert not torch.allclose(model.full_sort_predict(stranger).view(6, -1), known)
    near = model.attended(stranger).neighbours
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.float().attended(stranger)
    assert torch.equal(low.neighbours, near) and low.weights.isfinite().all()
    empty = Interaction({**columns, "item_length": torch.zeros_like(columns["item_length"])})
    bias = model.user_prompt.bias.view(1, 3, -1).expand(6, -1, -1)
    torch.testing.assert_close(model.context(empty, "sequential")[:, 3:], bias)


def test_recommend_to_and_explain_for_a_new_user(trained):
    table = recommend(trained["run_dir"], history=["i1", "i2", "i3"], topk=4)
    assert len(table) == 4 and not {"i1", "i2", "i3"} & set(table["item"])
    for topk in (7, 9):  # no beam is spent on what is known, and there are as many as places
        assert (recommend(trained["run_dir"], topk=topk).groupby("user")["item"].nunique() == topk).all()
    (first, *_) = explain(trained["run_dir"], history=["i1", "i2", "i3"], topk=2)
    assert first["user"] == "new user" and len(first["neighbours"]) == 4


# Explanations


@torch.no_grad()
def test_an_explanation_is_what_made_the_score(data):
    model, loaders = small_pod(data)
    rows = held_out(loaders)
    explanation, attended = model.explain(rows), model.attended(rows)
    assert explanation.kind == "neighbour" and explanation.normalised
    torch.testing.assert_close(explanation.weights, attended.weights.mean(dim=1))
    torch.testing.assert_close(explanation.weights.sum(dim=1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(model.score_pooled(rows, explanation.pooled), model.predict(rows))
    rows = Interaction({name: rows[name] for name in ("user_id", "item_id", "item_id_list", "item_length")})
    rows["user_id"][0] = rows["item_length"][0] = 0
    alone = model.explain(rows)
    assert not alone.normalised and not alone.weights[0].any()
    torch.testing.assert_close(model.score_pooled(rows, alone.pooled), model.predict(rows))


def test_neighbours_are_taken_away_one_by_one(data):
    model, loaders = small_pod(data)
    with torch.no_grad():
        model.user_prompt.weight.mul_(10)
    rows = held_out(loaders)
    table = faithfulness(model, rows, top=2, draws=2)
    assert table["pairs"].tolist() == [6, 6, 6] and table["drop"].notna().all()
    explanation = model.explain(rows)
    heaviest = explanation.weights.argmax(dim=1)
    part = explanation.weights[torch.arange(6), heaviest, None] * explanation.parts[torch.arange(6), heaviest]
    drop = model.predict(rows) - model.score_pooled(rows, explanation.pooled - part)
    assert table["drop"][0] == pytest.approx(drop.mean().item())


def test_metrics_of_heads_are_refused_where_there_are_none():
    with pytest.raises(
        UserError, match="HeadDivergence needs a model that attends to neighbours, PeaPOD; POD does not"
    ):
        Config("POD", "ml-100k", config_dict={"metrics": ["NDCG", "HeadDivergence"]})


def test_the_reasons_name_neighbours_and_what_they_chose(data, trained):
    reasons = explain(trained["run_dir"], user="u3", topk=3)
    loaded = load(trained["run_dir"])
    met, ids = training_matrix(loaded.train_data._dataset), loaded.dataset.field2token_id
    for reason in reasons:
        shares = [one["weight"] for one in reason["neighbours"]]
        assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
        chosen = []
        for one in reason["neighbours"]:
            user = ids["user_id"][one["user"]]
            assert np.mean(one["heads"]) == pytest.approx(one["weight"])
            assert all(met[user, ids["item_id"][item["item"]]] for item in one["chose"])
            chosen += [one["user"]] if met[user, ids["item_id"][reason["item"]]] else []
        assert [one["user"] for one in reason["because"]] == chosen
        assert reason["share"] == pytest.approx(sum(one["weight"] for one in reason["because"]))


def test_the_difference_of_heads_is_that_of_slow_loops():
    weights = torch.rand(3, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    weights[:, :, 4] = 0
    weights = weights / weights.sum(dim=2, keepdim=True)

    def bits(p, q):
        return sum(float(a * torch.log2(a / b)) for a, b in zip(p, q) if a > 0)

    for row in range(3):
        pairs = [(weights[row, a], weights[row, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        expected = [(bits(p, (p + q) / 2) + bits(q, (p + q) / 2)) / 2 for p, q in pairs]
        assert divergence(weights)[row].item() == pytest.approx(np.mean(expected))
    apart = torch.eye(4).unsqueeze(0)
    assert divergence(apart).item() == pytest.approx(1) and not divergence(apart[:, :1]).any()
