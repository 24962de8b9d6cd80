"""Explanations for people: what they say is what the model did; names, titles, the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import recbole
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_persona
from recbole_persona.cli import main
from recbole_persona.cli.explain import print_reasons
from recbole_persona.data.titles import item_texts
from recbole_persona.errors import UserError
from recbole_persona.runner.naming import class_scores, history_parts, persona_names

torch.set_num_threads(1)
DATA = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
REASON = {"user", "rank", "item", "title", "score", "persona", "name", "share", "personas", "verb", "because"}
ITEMS = ("item_id:token\ttitle:token_seq\tgenres:token_seq", "Action Comedy Drama War".split())


@pytest.fixture(scope="module")
def reasons(ampcf):
    return recbole_persona.explain(ampcf, 196, topk=8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a data set of 20 users and 24 items with titles and genres."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny").mkdir()
    rng = np.random.default_rng(1)
    lines = ["user_id:token\titem_id:token"]
    lines += [f"u{user}\ti{item}" for user in range(20) for item in rng.choice(24, size=10, replace=False)]
    (folder / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n")
    genres = [" ".join(rng.choice(ITEMS[1], size=2, replace=False)) for _ in range(24)]
    titles = [f'i{item}\t[{item}] "quoted\t{genre}' for item, genre in enumerate(genres)]
    (folder / "tiny" / "tiny.item").write_text("\n".join([ITEMS[0], *titles]) + "\n")
    return folder


def run_tiny(folder, run_dir, model="AMPCF", **settings):
    settings = {"embedding_size": 4, "epochs": 2, "run_dir": str(run_dir), "data_path": str(folder), **settings}
    settings["load_col"] = {"inter": ["user_id", "item_id"]}
    return recbole_persona.run(model, "tiny", config_dict=settings)["run_dir"]


def test_the_data(reasons, ampcf):
    assert json.loads(json.dumps(reasons)) == reasons
    assert [reason["rank"] for reason in reasons] == [*range(1, 9)]
    assert recbole_persona.explain(ampcf, 196, topk=1) == reasons[:1]
    table = recbole_persona.recommend(ampcf, 196, topk=8)
    for reason, row in zip(reasons, table.to_dict("records")):
        assert set(reason) == REASON and reason["user"] == "196" and reason["verb"] == "watched"
        assert {key: reason[key] for key in ("item", "title", "persona")} == {
            k: row[k] for k in ("item", "title", "persona")
        }
        assert reason["score"] == pytest.approx(row["score"], abs=1e-5)
        weights = [persona["weight"] for persona in reason["personas"]]
        assert (
            sum(weights) == pytest.approx(1, abs=1e-5) and reason["share"] == max(weights) == weights[reason["persona"]]
        )
        assert reason["share"] == pytest.approx(row["share"], abs=1e-5)
        assert [persona["persona"] for persona in reason["personas"]] == [0, 1, 2]
        names = [persona["name"] for persona in reason["personas"]]
        assert len(set(names)) == 3 and reason["name"] == names[reason["persona"]]


def test_the_weights_make_the_score(reasons, ampcf):
    """Every number of a reason, computed again from the parameters of the model in a slow loop."""
    loaded = recbole_persona.load(ampcf)
    ids = loaded.dataset.field2token_id
    user = ids["user_id"]["196"]
    personas = loaded.model.persona_embedding.weight[user].detach().double().view(3, -1)
    item_vectors = loaded.model.item_embedding.weight.detach().double()
    biases = loaded.model.item_bias.detach().double()

    def weights_of(item):
        exponents = [float(torch.exp(personas[k] @ item_vectors[item])) for k in range(3)]
        return np.array(exponents) / sum(exponents)

    train = loaded.train_data._dataset.inter_feat
    history = [int(i) for u, i in zip(train["user_id"], train["item_id"]) if u == user]
    shares = np.array([weights_of(item) for item in history])
    for reason in reasons:
        item = ids["item_id"][reason["item"]]
        weights = [persona["weight"] for persona in reason["personas"]]
        assert np.allclose(weights, weights_of(item), atol=1e-5)
        pooled = sum(weights[k] * personas[k] for k in range(3))
        assert reason["score"] == pytest.approx(float(pooled @ item_vectors[item] + biases[item]), abs=1e-4)
        k = reason["persona"]
        best = np.argsort(-shares[:, k])[:3]
        assert {b["item"] for b in reason["because"]} == {
            loaded.dataset.id2token("item_id", history[row]) for row in best
        }
        assert np.allclose([b["weight"] for b in reason["because"]], shares[best, k], atol=1e-5)
        counts = [int((shares.argmax(axis=1) == j).sum()) for j in range(3)]
        assert [persona["history"] for persona in reason["personas"]] == counts and sum(counts) == len(history)


def test_named_items(reasons, ampcf):
    items = [reasons[4]["item"], reasons[0]["item"]]
    again = recbole_persona.explain(ampcf, "196", items=items)
    assert [reason["item"] for reason in again] == items and [reason["rank"] for reason in again] == [5, 1]
    assert again[1]["personas"] == reasons[0]["personas"] and again[1]["because"] == reasons[0]["because"]


def test_a_new_user(tiny, tmp_path):
    run_dir, history = run_tiny(tiny, tmp_path), ["i5", "i18", "i17", "i3", "i2"]
    reasons = recbole_persona.explain(run_dir, history=history, topk=4)
    table = recbole_persona.recommend(run_dir, history=history, topk=4)
    assert len(table) == 4
    assert [reason["item"] for reason in reasons] == list(table["item"])
    for reason, score in zip(reasons, table["score"]):
        assert reason["user"] == "new user" and reason["score"] == pytest.approx(score, abs=1e-5)
        assert sum(persona["weight"] for persona in reason["personas"]) == pytest.approx(1, abs=1e-5)
        assert sum(persona["history"] for persona in reason["personas"]) == 5
        assert {item["item"] for item in reason["because"]} <= set(history)


SWITCHES = [*({"attention": kind} for kind in ("learned", "argmax", "uniform", "fixed")), {"variant": "conference"}]


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: next(iter(switch.values())))
@pytest.mark.parametrize("n_personas", [1, 3])
def test_every_attention_is_explained(switch, n_personas, tiny, tmp_path, capsys):
    folder = run_tiny(tiny, tmp_path, n_personas=n_personas, **switch)
    reasons = recbole_persona.explain(folder, "u1", topk=5)
    pooled = recbole_persona.recommend(folder, "u1", topk=5)
    assert len(reasons) == 5 and np.allclose([r["score"] for r in reasons], pooled["score"], atol=1e-5)
    for reason in reasons:
        assert len(reason["personas"]) == n_personas
        assert sum(persona["weight"] for persona in reason["personas"]) == pytest.approx(1, abs=1e-5)
        assert len({persona["name"] for persona in reason["personas"]}) == n_personas
    assert main(["explain", f"--run={folder}", "--user=u1", "--topk=2", "--faithfulness"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "because you chose “[" in words or "no item of the history is its own" in words


def test_mistakes(tiny, tmp_path):
    bpr, run_dir = run_tiny(tiny, tmp_path / "bpr", model="BPR"), run_tiny(tiny, tmp_path / "ampcf")
    with pytest.raises(UserError, match="BPR has no personas to explain with; a run of AMPCF has"):
        recbole_persona.explain(bpr, "u1")
    with pytest.raises(UserError, match="Name one user"):
        recbole_persona.explain(run_dir)
    with pytest.raises(UserError, match="Name one user"):
        recbole_persona.explain(run_dir, "u1", history=["i5"])
    with pytest.raises(UserError, match="tiny has no item 'zz'"):
        recbole_persona.explain(run_dir, "u1", items=["zz"])
    with pytest.raises(UserError, match="no column 'kind'"):
        recbole_persona.explain(run_dir, "u1", class_field="kind")


def test_the_command(reasons, ampcf, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["explain", f"--run={ampcf}", "--user=196", "--topk=8"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == reasons
    assert main([*arguments, "--faithfulness"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    for reason in reasons:
        assert reason["title"] in words and f"{reason['score']:.3f}" in words
        assert f"{reason['share']:.0%} {reason['name']}" in words
        assert "because you watched “" in words
    assert "the persona that is named" in words
    monkeypatch.setenv("COLUMNS", "50")
    print_reasons(reasons)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 50


# Names


def test_names_are_over_represented_classes():
    weights = np.repeat([[0.9, 0.1], [0.2, 0.8]], 10, axis=0)
    classes = [("War", "Drama")] * 10 + [("Comedy", "Drama")] * 10
    assert persona_names(weights, classes, ["-"] * 20) == ["War", "Comedy"]
    without = persona_names(weights, [()] * 20, [f"title {row}" for row in range(20)])
    assert without == ["like title 0", "like title 10"]


def test_class_scores_against_the_equations():
    rng = np.random.default_rng(0)
    parts, has = np.eye(3)[rng.integers(3, size=30)], (rng.random((30, 4)) < 0.4).astype(float)
    scores = class_scores(parts, has)
    total = has.sum()
    for k in range(3):
        own, others = has[parts[:, k] == 1], has[parts[:, k] == 0]
        for c in range(4):
            prior, priors = 4 * has[:, c].sum() / total, 4.0
            odds = [
                (counts[:, c].sum() + prior) / (counts.sum() + priors - counts[:, c].sum() - prior)
                for counts in (own, others)
            ]
            variance = 1 / (own[:, c].sum() + prior) + 1 / (others[:, c].sum() + prior)
            assert scores[k, c] == pytest.approx(np.log(odds[0] / odds[1]) / np.sqrt(variance), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n_history=st.integers(0, 12), n_personas=st.integers(1, 6))
def test_names_differ(data, n_history, n_personas):
    rows = st.lists(st.floats(0, 1), min_size=n_personas, max_size=n_personas)
    weights = np.array([data.draw(rows) for _ in range(n_history)]).reshape(n_history, n_personas)
    classes = [tuple(data.draw(st.sets(st.sampled_from("ABC")))) for _ in range(n_history)]
    titles = [data.draw(st.sampled_from(["one", "two & three", "A"])) for _ in range(n_history)]
    names = persona_names(weights, classes, titles)
    assert len(set(names)) == n_personas and all(names)
    assert history_parts(weights).sum() == n_history


# Titles


def config(folder, **keys):
    return {
        "data_path": str(folder),
        "dataset": "d",
        "ITEM_ID_FIELD": "item_id",
        "field_separator": "\t",
        "seq_separator": " ",
        "encoding": None,
        **keys,
    }


def test_titles_of_ml_100k():
    texts = item_texts(config(DATA, dataset="ml-100k"))
    with open(DATA / "ml-100k.item", encoding="utf-8") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    assert texts.titles.to_dict() == {row[0]: row[1] for row in rows} and texts.verb == "watched"
    assert texts.classes.to_dict() == {row[0]: tuple(row[3].split()) for row in rows}
    assert texts.titles_of(["1", "none"]) == ["Toy Story", "none"] and texts.classes_of(["none"]) == [()]


def test_titles_of_other_files(tmp_path):
    assert item_texts(config(tmp_path)).titles_of(["x"]) == ["x"]  # no .item file
    file = tmp_path / "d.item"
    file.write_text('item_id:token,brand:token,headline:token_seq\na,X,NA\nb,Y_Z," half a quote\nb,Y,again\n')
    texts = item_texts(config(tmp_path, field_separator=","))
    assert texts.titles.to_dict() == {"a": "NA", "b": '" half a quote'} and texts.verb == "read"
    assert texts.classes_of(["a"]) == [()]
    assert item_texts(config(tmp_path, field_separator=","), title_field="brand").titles["b"] == "Y_Z"
    assert item_texts(config(tmp_path, field_separator=","), class_field="brand").classes["b"] == ("Y Z",)
    with pytest.raises(UserError, match="no column 'class'; its columns are item_id, brand, headline"):
        item_texts(config(tmp_path, field_separator=","), class_field="class")
    file.write_text('item_id:token\ttitle:token_seq\na\t"""So"" she said"\nb\tmore\n')
    assert item_texts(config(tmp_path)).titles.to_dict() == {"a": '"So" she said', "b": "more"}
    file.write_text('item_id:token\ttitle:token\tgenre:token_seq\n"""z"""\tLast\t"""new"" old"\n')  # an id in quotes
    texts = item_texts(config(tmp_path))
    assert texts.titles_of(['"z"']) == ["Last"] and texts.classes_of(['"z"']) == [('"new"', "old")]
    file.write_bytes(b"item_id:token\ttitle:token\na\t\xff\xfe\n")
    with pytest.raises(UserError, match="cannot be read for titles"):
        item_texts(config(tmp_path))
    assert item_texts(config(tmp_path, encoding="latin-1")).titles["a"] == "ÿþ"
