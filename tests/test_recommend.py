"""Recommendations for people: ids and masks, batches, new users, any model, the command line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recbole
import torch
from recbole.utils.case_study import full_sort_scores

import recbole_persona
from recbole_persona.cli import main
from recbole_persona.cli.recommend import listed, read_users
from recbole_persona.data.latest_rows import next_rows
from recbole_persona.errors import UserError
from recbole_persona.runner import ranking

torch.set_num_threads(1)
DATA = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
SEQUENTIAL = {"train_neg_sample_args": None, "embedding_size": 8, "hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 5}


def rows_of(file):
    with open(file, encoding="utf-8") as lines:
        return list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


@pytest.fixture(scope="module")
def interactions():
    """{user: items}, external ids, read without RecBole."""
    known = {}
    for user, item, *_ in rows_of(DATA / "ml-100k.inter"):
        known.setdefault(user, set()).add(item)
    return known


@pytest.fixture(scope="module")
def bpr(tmp_path_factory):
    settings = {"epochs": 1, "train_batch_size": 8192, "run_dir": str(tmp_path_factory.mktemp("bpr"))}
    return recbole_persona.run("BPR", "ml-100k", config_dict=settings)["run_dir"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a data set of 30 users: u0 with one interaction, the others with 8 to 12 in the order of time."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny").mkdir()
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", "u0\ti3\t1"]
    for user in range(1, 30):
        chosen = rng.choice(40, size=rng.integers(8, 13), replace=False)
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(chosen)]
    (folder / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def small(tiny, tmp_path_factory):
    """{model: run folder} on the tiny data set."""
    settings = {"embedding_size": 4, "train_batch_size": 64}
    return {name: run_tiny(name, tiny, tmp_path_factory.mktemp(name), **settings) for name in ("AMPCF", "BPR", "NeuMF")}


def run_tiny(model, folder, run_dir, **settings):
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    settings = {"data_path": str(folder), "load_col": columns, "epochs": 2, "run_dir": str(run_dir), **settings}
    return recbole_persona.run(model, "tiny", config_dict=settings)["run_dir"]


def test_the_table(ampcf, bpr):
    table = recbole_persona.recommend(ampcf, [196, "186"], topk=7)
    assert list(table.columns) == ["user", "rank", "item", "title", "score", "persona", "share"]
    assert list(table["user"]) == ["196"] * 7 + ["186"] * 7 and list(table["rank"]) == [*range(1, 8)] * 2
    titles = {row[0]: row[1] for row in rows_of(DATA / "ml-100k.item")}
    assert list(table["title"]) == [titles[item] for item in table["item"]]
    assert all(scores.is_monotonic_decreasing for _, scores in table.groupby("user")["score"])
    assert table["persona"].isin(range(3)).all() and table["share"].between(1 / 3, 1).all()
    assert list(recbole_persona.recommend(bpr, "196").columns) == ["user", "rank", "item", "title", "score"]


@pytest.mark.parametrize("model", ["ampcf", "bpr"])
def test_scores_are_those_of_the_external_ids(model, request):
    run_dir = request.getfixturevalue(model)
    table = recbole_persona.recommend(run_dir, ["405", "13"], topk=5)
    loaded = recbole_persona.load(run_dir)
    pairs = {
        "user_id": torch.tensor([loaded.dataset.token2id("user_id", user) for user in table["user"]]),
        "item_id": torch.tensor([loaded.dataset.token2id("item_id", item) for item in table["item"]]),
    }
    with torch.no_grad():
        assert np.allclose(loaded.model.predict(pairs), table["score"], atol=1e-5)


def test_what_is_known_is_left_out(ampcf, interactions):
    everything = recbole_persona.recommend(ampcf, ["13"], topk=10**6)
    assert list(recbole_persona.recommend(ampcf, ["13"], topk=1)["item"]) == list(everything["item"][:1])
    assert set(everything["item"]) == set().union(*interactions.values()) - interactions["13"]
    again = recbole_persona.recommend(ampcf, ["13"], topk=10**6, mask_history=False)
    assert set(again["item"]) == set().union(*interactions.values())


def test_agrees_with_the_case_study_of_recbole(bpr):
    loaded = recbole_persona.load(bpr)
    users = loaded.dataset.token2id("user_id", ["196", "186", "22"])
    scores = full_sort_scores(users, loaded.model, loaded.test_data).detach()  # without training and validation items
    tested = loaded.test_data._dataset.inter_matrix(form="csr")[users].nonzero()
    scores[tested] = -torch.inf
    items = loaded.dataset.id2token("item_id", scores.topk(10).indices)
    table = recbole_persona.recommend(bpr, ["196", "186", "22"])
    assert table["item"].to_numpy().reshape(3, 10).tolist() == items.tolist()


def test_batches_do_not_matter(ampcf, monkeypatch):
    whole = recbole_persona.recommend(ampcf, topk=3)
    assert whole["user"].nunique() == 943
    monkeypatch.setattr(ranking, "CELLS", 1683 * 50)
    parts = recbole_persona.recommend(ampcf, topk=3)
    numbers = ["score", "share"]
    pd.testing.assert_frame_equal(whole.drop(columns=numbers), parts.drop(columns=numbers))
    assert np.allclose(whole[numbers], parts[numbers], atol=1e-5)


def test_a_new_user(small):
    run_dir = small["AMPCF"]
    table = recbole_persona.recommend(run_dir, history=["i5", "i18", "i17"], topk=20)
    assert set(table["user"]) == {"new user"} and not set(table["item"]) & {"i5", "i18", "i17"} and len(table) == 20
    skipped = recbole_persona.recommend(run_dir, history=["i5", "nothing", "i18", "i17"], topk=20, skip_unknown=True)
    pd.testing.assert_frame_equal(table, skipped)


def test_folding_in_agrees_with_training(ampcf):
    """From their training history alone, users get personas that recommend what those learned in training recommend."""
    loaded = recbole_persona.load(ampcf)
    train = loaded.train_data._dataset.inter_matrix(form="csr")
    users = np.arange(1, 943, 47)
    seen = train[users].nonzero()
    with torch.no_grad():
        folded = loaded.model.score_all(loaded.model.fold_in([train[user].indices for user in users]))
        trained = loaded.model.score_all(loaded.model.personas(torch.tensor(users)))
    popular = torch.tensor(train.sum(axis=0)).float().repeat(len(users), 1)

    def best(scores):
        scores[:, 0] = -torch.inf
        return ranking.top_items(scores, seen, 10).indices.numpy()

    def overlap(one, other):
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(one, other)])

    trained, folded, popular = best(trained), best(folded), best(popular)
    assert overlap(folded, trained) > max(0.5, overlap(popular, trained) + 0.2)


def test_a_model_without_full_sort_scores(small):
    table = recbole_persona.recommend(small["NeuMF"], ["u3", "u4"], topk=5)
    loaded = recbole_persona.load(small["NeuMF"])
    assert list(table.columns) == ["user", "rank", "item", "score"]  # no .item file, no titles
    users = torch.tensor([loaded.dataset.token2id("user_id", user) for user in table["user"]])
    items = torch.tensor([loaded.dataset.token2id("item_id", item) for item in table["item"]])
    assert np.allclose(loaded.model.predict({"user_id": users, "item_id": items}).detach(), table["score"], atol=1e-6)


def test_a_sequential_model_reads_the_history_to_its_end(tiny, tmp_path):
    run_dir = run_tiny("GRU4Rec", tiny, tmp_path, **SEQUENTIAL)
    loaded = recbole_persona.load(run_dir)
    valid, test = loaded.valid_data._dataset.inter_feat, loaded.test_data._dataset.inter_feat
    place = {user: row for row, user in enumerate(test["user_id"].tolist())}
    test = test[torch.tensor([place[user] for user in valid["user_id"].tolist()])]
    following = next_rows(loaded.dataset, valid[torch.arange(len(valid))].gathered())
    for field in ("item_id_list", "timestamp_list", "item_length"):
        assert torch.equal(following[field], test[field])

    table = recbole_persona.recommend(run_dir, topk=100)
    assert set(table["user"]) == {f"u{user}" for user in range(30)}
    known = {}
    for user, item, _ in rows_of(tiny / "tiny" / "tiny.inter"):
        known.setdefault(user, []).append(item)
    n_items = len(set().union(*known.values()))
    for user, rows in table.groupby("user"):
        assert not set(rows["item"]) & set(known[user]) and len(rows) == n_items - len(known[user])

    # the same history, brought by somebody new, in the same order; u0 has one interaction
    for user in ("u5", "u0"):
        new = loaded.recommend(history=known[user], topk=100)
        old = table[table["user"] == user]
        assert list(new["item"]) == list(old["item"]) and np.allclose(new["score"], old["score"], atol=1e-6)


def test_users_without_interactions(tiny, tmp_path, caplog):
    """A sequential model has nothing to read of them; the others get their answers."""
    users = ["user_id:token", "nobody", *(f"u{user}" for user in range(30))]
    (tmp_path / "tiny").mkdir()
    shutil.copy(tiny / "tiny" / "tiny.inter", tmp_path / "tiny")
    (tmp_path / "tiny" / "tiny.user").write_text("\n".join(users) + "\n")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id"]}
    loaded = recbole_persona.load(run_tiny("GRU4Rec", tmp_path, tmp_path / "run", load_col=columns, **SEQUENTIAL))
    table = loaded.recommend(["u1", "nobody", "u0"], topk=3)
    assert list(table["user"].unique()) == ["u1", "u0"]
    assert "no interaction for GRU4Rec to read: user 'nobody'" in caplog.text
    pd.testing.assert_frame_equal(table, loaded.recommend(["u1", "u0"], topk=3))
    assert list(loaded.score(["u1", "nobody"], "i3")["user"]) == ["u1"]
    for ask in (loaded.recommend, lambda user: loaded.score(user, "i3")):
        with pytest.raises(UserError, match="no interaction of user 'nobody' for GRU4Rec to read"):
            ask("nobody")


def test_a_user_who_is_held_out_entirely(tiny, tmp_path):
    """Whoever has interactions, but none in training, gets what the same history gets."""
    loaded = recbole_persona.load(run_tiny("AMPCF", tiny, tmp_path, held_out_users=0.3, embedding_size=4))
    tested = loaded.test_data._dataset.inter_feat["user_id"]
    held_out, other = loaded.dataset.id2token("user_id", int(tested[0])), "u0"
    history = [item for user, item, _ in rows_of(tiny / "tiny" / "tiny.inter") if user == held_out]
    table, new = loaded.recommend([other, held_out], topk=50), loaded.recommend(history=history, topk=50)
    own = table[table["user"] == held_out].reset_index(drop=True)
    assert list(own["item"]) == list(new["item"]) and list(own["persona"]) == list(new["persona"])
    numbers = ["score", "share"]
    np.testing.assert_allclose(own[numbers], new[numbers], atol=1e-5)
    pd.testing.assert_frame_equal(table[table["user"] == other], loaded.recommend(other, topk=50))
    scores = loaded.score([other, held_out], own["item"][0])["score"]
    assert scores[1] == pytest.approx(own["score"][0], abs=1e-5)
    assert scores[0] == pytest.approx(loaded.score(other, own["item"][0])["score"][0], abs=1e-6)
    said, of_history = loaded.explain(held_out, topk=3), loaded.explain(history=history, topk=3)
    assert [r["because"] for r in said] == [r["because"] for r in of_history] and said[0]["because"]
    with pytest.raises(UserError, match="learned from the history, after training"):
        loaded.check_explanations(held_out, [said[0]["item"]])


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        ("AMPCF", {"users": ["u99"]}, "tiny has no user 'u99'; the nearest are 'u9', "),
        ("AMPCF", {"users": [5]}, "tiny has no user '5'; "),
        ("AMPCF", {"users": []}, "No user of tiny is named"),
        ("AMPCF", {"users": ["[PAD]"]}, r"no user '\[PAD\]'"),
        ("AMPCF", {"history": ["i5", "zz", "yy"]}, "tiny has no item 'zz', 'yy'; it has "),
        ("AMPCF", {"history": ["zz"], "skip_unknown": True}, "No item of tiny is named"),
        ("AMPCF", {"history": []}, "No item of tiny is named"),
        ("AMPCF", {"users": ["u1"], "history": ["i5"]}, "users or a history, not both"),
        ("AMPCF", {"users": ["u1"], "topk": 0}, "topk is a number of items, 1 or more"),
        ("AMPCF", {"users": ["u1"], "topk": 2.5}, "topk is a number of items, 1 or more, not 2.5"),
        ("AMPCF", {"users": ["u1"], "topk": "3"}, "topk is a number of items, 1 or more, not '3'"),
        ("AMPCF", {"history": "i99"}, "tiny has no item 'i99'"),
        ("AMPCF", {"users": ["u1"], "title_field": "heading"}, "tiny.item has no column 'heading'"),
        ("BPR", {"history": ["i5"]}, "BPR can recommend only to users that it was trained on"),
    ],
)
def test_mistakes(model, arguments, sentence, small):
    with pytest.raises(UserError, match=sentence):
        recbole_persona.recommend(small[model], **arguments)


def test_the_command(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run_dir = small["AMPCF"]
    assert main(["recommend", f"--run={run_dir}", "--user=u1,u2", "--topk=3"]) == 0
    shown = capsys.readouterr().out
    assert "user u1" in shown and "user u2" in shown and max(map(len, shown.splitlines())) <= 80

    expected = recbole_persona.recommend(run_dir, ["u1", "u2"], topk=3)
    users = tmp_path / "users.tsv"
    users.write_text("user_id:token\tage:token\nu1\t30\nu2\t40\n\n")
    out = tmp_path / "best.csv"
    assert main(["recommend", f"--run={run_dir}", f"--users={users}", "--topk=3", f"--out={out}"]) == 0
    table = pd.read_csv(out, dtype={"user": str, "item": str})
    pd.testing.assert_frame_equal(table, expected)
    assert main(["recommend", f"--run={run_dir}", "--user=u1,u2", "--topk=3", "--format=jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == expected.to_dict("records")

    before = out.read_bytes()
    assert main(["recommend", f"--run={run_dir}", "--user=u1,nobody", f"--out={out}"]) == 2
    message = capsys.readouterr().err
    assert "no user 'nobody'" in message and message.count("\n") == 1
    assert out.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["best.csv", "users.tsv"]


@pytest.mark.parametrize(
    "text", ["196\n186\n", "user\n196\n186", "196,30\r\n186,40\r\n", "\ufeff196\t5\n\n186\t3\n", " 196 \n186"]
)
def test_files_of_users(text, tmp_path):
    file = tmp_path / "users"
    file.write_bytes(text.encode())
    assert read_users(file) == ["196", "186"]


def test_ids_with_blanks(tmp_path):
    assert listed('" lead", "trail ",u1') == [" lead", "trail ", "u1"] and listed(" u1 , u2 ") == ["u1", "u2"]
    file = tmp_path / "users"
    file.write_text('" lead"\n"trail "\n u1\n')
    assert read_users(file) == [" lead", "trail ", "u1"]
    file.write_text("user_id:token\tage:token\n lead\t3\ntrail \t4\n")  # an atomic file
    assert read_users(file) == [" lead", "trail "]


def test_ids_with_commas(tmp_path, capsys):
    """In a list of ids, in files, and in the columns of a command's answer."""
    names = ['Smith, "J."', "u2", "Ørsted,H"]
    (tmp_path / "tiny").mkdir()
    lines = [f"{name}\tx,{3 * n + item}\t{item}" for n, name in enumerate(names) for item in range(6)]
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *lines]
    (tmp_path / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n")
    run_dir = run_tiny("AMPCF", tmp_path, tmp_path / "run", embedding_size=4)
    ask = ["recommend", f"--run={run_dir}", "--topk=1", "--format=jsonl"]

    def users():
        return [json.loads(line)["user"] for line in capsys.readouterr().out.splitlines()]

    assert main([*ask, '--user="Smith, ""J.""",Ørsted,H']) == 2
    assert "no user 'Ørsted', 'H'" in capsys.readouterr().err
    assert main([*ask, '--user="Smith, ""J.""", "Ørsted,H"']) == 0
    assert users() == [names[0], names[2]]
    file = tmp_path / "users"
    for text in ('user_id\n"Smith, ""J."""\n"Ørsted,H",30\n', 'user\tage\nSmith, "J."\t1\nØrsted,H\t2\n'):
        file.write_text(text)
        assert main([*ask, f"--users={file}"]) == 0
        assert users() == [names[0], names[2]]
    assert main([*ask, '--history="x,1","x,2"']) == 0
    assert main(["explain", f"--run={run_dir}", "--user=Ørsted,H", '--items="x,7","x,1"', "--json"]) == 0
    assert [reason["item"] for reason in json.loads(capsys.readouterr().out.partition("\n")[2])] == ["x,7", "x,1"]
    assert main([*ask, '--user="Smith, J.']) == 2
    assert "an id with a comma stands in double quotes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "names no user"), (b"user_id\n", "names no user"), (b"\xff\xfe1", "UTF-8")]
)
def test_files_that_name_no_user(content, sentence, tmp_path):
    file = tmp_path / "users"
    file.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_users(file)
    with pytest.raises(UserError, match="There is no file of users"):
        read_users(tmp_path / "none")
