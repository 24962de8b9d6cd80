"""A loaded run: many calls, the answers of the commands, and nothing read twice."""

import json
import shutil
import sys

import faiss
import numpy as np
import pandas as pd
import pytest
import torch
from conformance import write_data

import recbole_persona
from recbole_persona.cli import main
from recbole_persona.errors import UserError

torch.set_num_threads(1)
MODELS = {
    "AMPCF": {"embedding_size": 8},
    "BPR": {"embedding_size": 8},
    "LightGCN": {"embedding_size": 8},
    "SASRec": {"train_neg_sample_args": None, "hidden_size": 8, "inner_size": 8, "n_layers": 1},
    "UserEncoder": {"embedding_size": 8},
    "PeaPOD": {
        "backbone": "scratch:tiny",
        "tasks": ["sequential"],
        "user_vector_size": 8,
        "n_neighbours": 4,
        "n_heads": 2,
        "n_beams": 5,
        "vocabulary_size": 200,
        "MAX_ITEM_LIST_LENGTH": 5,
    },
}
EXPLAINS = ("AMPCF", "UserEncoder", "PeaPOD")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def runs(place):
    """{model: run folder}, trained when it is asked for."""

    class Runs(dict):
        def __missing__(self, model):
            settings = {
                "data_path": str(place),
                "run_dir": str(place / model),
                "epochs": 1,
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "metrics": ["NDCG"],
                "topk": [5],
                "valid_metric": "NDCG@5",
            }
            self[model] = recbole_persona.run(model, "small", config_dict=settings | MODELS[model])["run_dir"]
            return self[model]

    return Runs()


@pytest.mark.parametrize("model", ["BPR", "SASRec", *EXPLAINS])
def test_calls_read_nothing_and_give_what_the_commands_give(model, runs, place, tmp_path, capfd):
    run_dir, wide = runs[model], {"topk": 8}
    capfd.readouterr()
    loaded = recbole_persona.load(run_dir)
    assert capfd.readouterr() == ("", "")
    users = ["u3", "u1"]
    expected = recbole_persona.recommend(run_dir, users, topk=3), recbole_persona.recommend(run_dir, users, **wide)
    reasons = recbole_persona.explain(run_dir, "u3", topk=3) if model in EXPLAINS else None

    shutil.move(place / "small", tmp_path / "away")
    shutil.move(run_dir, tmp_path / "run")
    try:
        for _ in range(2):  # more places do not change the answer to the next call
            pd.testing.assert_frame_equal(loaded.recommend(users, topk=3), expected[0])
            pd.testing.assert_frame_equal(loaded.recommend(users, **wide), expected[1])
        assert "title" in expected[0] and (expected[0]["title"].str.startswith("The ")).all()
        if reasons:
            assert loaded.explain("u3", topk=3) == reasons
        else:
            with pytest.raises(UserError, match="to explain with"):
                loaded.explain("u3")
        scores = loaded.score(expected[0]["user"], expected[0]["item"])
        assert list(scores.columns) == ["user", "item", "score"]
        pd.testing.assert_frame_equal(scores[["user", "item"]], expected[0][["user", "item"]])
        np.testing.assert_allclose(scores["score"], expected[0]["score"], rtol=1e-4, atol=1e-5)
    finally:
        shutil.move(tmp_path / "away", place / "small")
        shutil.move(tmp_path / "run", run_dir)


def test_it_unpacks_as_the_tuple_of_recbole(runs, elsewhere):
    loaded = recbole_persona.load(runs["BPR"])
    config, model, dataset, train, valid, test = loaded
    assert len(loaded) == 6 and (config, model, dataset) == loaded[:3] and test is loaded.test_data
    assert loaded._fields == ("config", "model", "dataset", "train_data", "valid_data", "test_data")
    assert not model.training and len(train) and len(valid)


@pytest.mark.parametrize("model", ["AMPCF", "SASRec"])
def test_scores(model, runs):
    loaded = recbole_persona.load(runs[model])
    each = {(u, i): loaded.score(u, i)["score"][0] for u in ("u1", "u2") for i in ("i4", "i9")}
    pairs = loaded.score(["u1", "u2", "u1"], ["i4", "i9", "i9"])
    assert list(pairs["user"]) == ["u1", "u2", "u1"] and list(pairs["item"]) == ["i4", "i9", "i9"]
    np.testing.assert_allclose(pairs["score"], [each["u1", "i4"], each["u2", "i9"], each["u1", "i9"]], atol=1e-6)
    assert loaded.score("u2", ["i9", "i4"])["score"][1] == pytest.approx(each["u2", "i4"], abs=1e-6)
    assert loaded.score(["u2", "u1"], "i9")["score"][0] == pytest.approx(each["u2", "i9"], abs=1e-6)
    history = ["i5", "i18", "i17"]
    new, best = loaded.score(items=["i3", "i4"], history=history), loaded.recommend(history=history, topk=57)
    for item, score in zip(new["item"], new["score"]):
        assert score == pytest.approx(float(best.loc[best["item"] == item, "score"].iloc[0]), abs=1e-5)


def test_a_text_or_a_number_is_one_id(runs, capsys):
    loaded = recbole_persona.load(runs["AMPCF"])
    for option in ("--item=i14", "--items=i14"):
        assert main(["explain", f"--run={runs['AMPCF']}", "--user=u1", option, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == loaded.explain("u1", items="i14")
    pd.testing.assert_frame_equal(loaded.recommend(history="i5", topk=3), loaded.recommend(history=["i5"], topk=3))
    assert loaded.explain("u1", items="i14") == loaded.explain("u1", items=["i14"])
    assert loaded.explain(history="i5", topk=2) == loaded.explain(history=["i5"], topk=2)
    with pytest.raises(UserError, match=r"One user is explained at a time, and user is \['u1', 'u2'\]"):
        loaded.explain(["u1", "u2"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"users": "u1"}, "Name items to score, and users or a history"),
        ({"items": "i1"}, "Name items to score, and users or a history"),
        ({"users": "u1", "items": "i1", "history": ["i2"]}, "Name items to score, and users or a history"),
        ({"users": ["u1", "u2"], "items": ["i1", "i2", "i3"]}, "2 users and 3 items are named"),
        ({"users": "u99", "items": "i1"}, "no user 'u99'"),
        ({"users": "u1", "items": "i99"}, "no item 'i99'"),
        ({"items": "i1", "history": ["i2"]}, "BPR can recommend only to users that it was trained on"),
    ],
)
def test_mistakes(arguments, sentence, runs):
    with pytest.raises(UserError, match=sentence):
        recbole_persona.load(runs["BPR"]).score(**arguments)


# Vectors


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "SASRec", "UserEncoder"])
def test_exported_vectors_make_the_scores(model, runs, tmp_path):
    loaded = recbole_persona.load(runs[model])
    files = loaded.export(tmp_path / "out")
    assert [file.name for file in files] == ["about.json", "items.faiss", "vectors.npz"]
    assert sorted(tmp_path.rglob("*")) == sorted([tmp_path / "out", *files])
    about = json.loads((tmp_path / "out/about.json").read_text(encoding="utf-8"))
    assert about["model"] == model and about["score"] == "user . item" and about["personas"] is None
    with np.load(tmp_path / "out/vectors.npz", allow_pickle=False) as arrays:
        user_ids, users, item_ids, items = (
            arrays[name] for name in ("user_ids", "user_vectors", "item_ids", "item_vectors")
        )
        assert users.dtype == items.dtype == np.float32 and "persona_vectors" not in arrays
    assert set(user_ids) == {f"u{n}" for n in range(40)} and set(item_ids) == {f"i{n}" for n in range(60)}
    for user in ("u3", "u17"):
        own = users[list(user_ids).index(user)]
        scores = loaded.score(user, list(item_ids))["score"]
        np.testing.assert_allclose(items @ own, scores, rtol=1e-4, atol=1e-5)
        index = faiss.read_index(str(tmp_path / "out/items.faiss"))
        found = item_ids[index.search(own[None], 7)[1][0]]
        assert list(found) == list(loaded.recommend(user, topk=7, mask_history=False)["item"])


def test_exported_personas(runs, tmp_path, capsys):
    run_dir = runs["AMPCF"]
    assert main(["export", f"--run={run_dir}", f"--out={tmp_path / 'out'}"]) == 0
    names = ["about.json", "items.faiss", "vectors.npz"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "out" / name) for name in names]
    loaded = recbole_persona.load(run_dir)
    with np.load(tmp_path / "out/vectors.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    personas = found["persona_vectors"][list(found["user_ids"]).index("u3")]  # (K, d)
    every = personas @ found["item_vectors"].T + found["item_bias"]  # (K, I)
    reasons = loaded.explain("u3", items=["i4", "i50"])
    for reason in reasons:
        own = every[:, list(found["item_ids"]).index(reason["item"])]
        weights = [persona["weight"] for persona in reason["personas"]]
        assert reason["score"] == pytest.approx(float(weights @ own), abs=1e-5)
    index = faiss.read_index(str(tmp_path / "out/items.faiss"))
    asked = np.concatenate([personas, np.ones((len(personas), 1), np.float32)], axis=1)
    np.testing.assert_allclose(index.search(asked, 3)[0], np.sort(every)[:, :-4:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["AMPCF", "SASRec"])
def test_parquet(model, runs, tmp_path):
    pytest.importorskip("pyarrow")
    loaded = recbole_persona.load(runs[model])
    loaded.export(tmp_path / "npz")
    loaded.export(tmp_path / "parquet", "parquet")
    users, items = (pd.read_parquet(tmp_path / f"parquet/{name}.parquet") for name in ("users", "items"))
    with np.load(tmp_path / "npz/vectors.npz", allow_pickle=False) as arrays:
        assert list(users["user_id"]) == list(arrays["user_ids"]) and list(items["item_id"]) == list(arrays["item_ids"])
        assert np.array_equal(np.stack(users["vector"]), arrays["user_vectors"])
        assert np.array_equal(np.stack(items["vector"]), arrays["item_vectors"])
        assert users["vector"][0].dtype == np.float32
        if model == "AMPCF":
            assert np.array_equal(items["bias"], arrays["item_bias"])
            assert np.array_equal(np.stack(users["personas"].map(np.stack)), arrays["persona_vectors"])


def test_what_cannot_be_exported(runs, tmp_path, monkeypatch):
    loaded = recbole_persona.load(runs["BPR"])
    with pytest.raises(UserError, match="format is one of npz, parquet, not 'csv'"):
        loaded.export(tmp_path / "out", "csv")
    with pytest.raises(UserError, match="PeaPOD has no vectors of users"):
        recbole_persona.export(runs["PeaPOD"], tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install recbole_persona\[parquet\]"):
        loaded.export(tmp_path / "out", "parquet")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert [file.name for file in loaded.export(tmp_path / "out")] == ["about.json", "vectors.npz"]
    with pytest.raises(UserError, match="is there already"):
        loaded.export(tmp_path / "out")
