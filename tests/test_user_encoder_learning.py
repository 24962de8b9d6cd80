"""UserEncoder as a whole: it learns, its runs are reliable, and it says why, also to somebody new."""

import json
from itertools import pairwise

import numpy as np
import pytest
import resume_runs
import torch
from conformance import Conformance, write_data

import recbole_persona
from recbole_persona.cli import main
from recbole_persona.errors import UserError
from recbole_persona.evaluate.collector import with_items
from recbole_persona.evaluate.faithfulness import faithfulness

torch.set_num_threads(1)
SIZES = {"hidden_size": 16, "inner_size": 32, "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1}


class TestUserEncoder(Conformance):
    model = "UserEncoder"
    settings = SIZES
    against_pop = None  # Pop is ranked for other cases; see below


class TestUserEncoderWithFeatures(Conformance):
    model = "UserEncoder"
    settings = {
        **SIZES,
        "features": ["class", "rating"],
        "feature_size": 8,
        "time_gaps": True,
        "tie": "fused",
        "norm": "pre",
        "sampled": 30,
        "window_stride": 5,
        "MAX_ITEM_LIST_LENGTH": 10,
    }
    against_pop = None


def test_a_stopped_run_continues_to_the_same_bits(tmp_path):
    assert resume_runs.compare(["UserEncoder"], tmp_path) == {"UserEncoder": None}


# People


N_ITEMS = 30


def write_walks(folder):
    """Data set ``walk``: 80 users, each of whom begins somewhere and goes from an item to the next, around a circle."""
    (folder / "walk").mkdir()
    random = np.random.default_rng(1)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(80):
        start = random.integers(N_ITEMS)
        lines += [f"u{user}\ti{(start + k) % N_ITEMS}\t{random.integers(1, 6)}\t{100 * k}" for k in range(9)]
    (folder / "walk/walk.inter").write_text("\n".join(lines) + "\n")
    items = [f"i{item}\tThe {item}th\tleft {item % 3}" for item in range(N_ITEMS)]
    (folder / "walk/walk.item").write_text(
        "\n".join(["item_id:token\ttitle:token_seq\tclass:token_seq", *items]) + "\n"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run that reads classes and ratings."""
    folder = tmp_path_factory.mktemp("people")
    write_walks(folder)
    settings = {
        **SIZES,
        "data_path": str(folder),
        "run_dir": str(folder / "run"),
        "epochs": 20,
        "eval_step": 20,
        "train_batch_size": 64,
        "learning_rate": 0.01,
        "features": ["class", "rating"],
        "time_gaps": True,
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "class"]},
    }
    return recbole_persona.run("UserEncoder", "walk", config_dict=settings)["run_dir"]


def test_a_new_history_is_scored_without_training(trained):
    for last in (3, 17, 29):
        history = [f"i{(last - back) % N_ITEMS}" for back in (3, 2, 1, 0)]
        table = recbole_persona.recommend(trained, history=history, topk=5)
        assert table["item"][0] == f"i{(last + 1) % N_ITEMS}" and not set(table["item"]) & set(history)
        turned = recbole_persona.recommend(trained, history=history[::-1], topk=5)
        assert turned["item"][0] != table["item"][0]  # order counts
    with pytest.raises(UserError, match="walk has no item 'i99'"):
        recbole_persona.recommend(trained, history=["i1", "i99"])


@pytest.mark.parametrize("who", [{"user": "u3"}, {"history": ["i1", "i2", "i3", "i4"]}])
def test_reasons_are_items_of_the_history(trained, who):
    reasons = recbole_persona.explain(trained, topk=4, **who)
    assert json.loads(json.dumps(reasons)) == reasons and [reason["rank"] for reason in reasons] == [1, 2, 3, 4]
    table = recbole_persona.recommend(trained, who.get("user"), who.get("history"), topk=4)
    assert table["item"].tolist() == [reason["item"] for reason in reasons]
    for reason, score in zip(reasons, table["score"]):
        weights = [past["weight"] for past in reason["history"]]
        assert reason["score"] == pytest.approx(score, abs=1e-5) == pytest.approx(sum(weights), abs=1e-4)
        assert not reason["normalised"] and reason["title"].startswith("The ")
        assert [past["weight"] for past in reason["because"]] == [w for w in sorted(weights)[::-1][:3] if w > 0]
        if "history" in who:
            assert [past["item"] for past in reason["history"]] == who["history"]
    assert reasons[0]["because"][0] == reasons[0]["history"][-1]  # the next item follows the newest
    named = recbole_persona.explain(trained, items=[reasons[2]["item"]], **who)
    assert named[0]["rank"] == 3
    for one, other in zip(named[0]["history"], reasons[2]["history"], strict=True):
        assert one["item"] == other["item"] and one["weight"] == pytest.approx(other["weight"], abs=1e-5)


def test_the_command_line_prints_reasons(trained, capsys):
    assert main(["explain", f"--run={trained}", "--history=i1,i2,i3,i4", "--topk=2"]) == 0
    printed = capsys.readouterr().out
    assert "new user, 4 items of history read" in printed and "because you chose “The " in printed
    assert main(["explain", f"--run={trained}", "--user=u3", "--topk=2", "--faithfulness"]) == 0
    assert "the item that is named" in capsys.readouterr().out


@torch.no_grad()
def test_the_named_items_carry_the_score(trained):
    loaded = recbole_persona.load(trained)
    rows = next(iter(loaded.test_data))[0]
    best = loaded.model.full_sort_predict(rows).view(len(rows), -1)[:, 1:].topk(1, dim=1).indices + 1
    table = faithfulness(loaded.model, with_items(rows, best, "item_id", loaded.dataset.item_feat))
    top, random, other = table["drop"]
    assert top > max(0, random, other)


def test_other_sequential_models_score_a_new_history_and_explain_nothing(tmp_path):
    write_data(tmp_path)
    for model in ("SASRec", "GRU4Rec"):
        settings = {"epochs": 1, "data_path": str(tmp_path), "run_dir": str(tmp_path / model), "load_col": None}
        settings |= {"train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": 10}
        run_dir = recbole_persona.run(model, "small", config_dict=settings)["run_dir"]
        assert len(recbole_persona.recommend(run_dir, history=["i1", "i2"], topk=5)) == 5
        with pytest.raises(UserError, match=f"{model} has no personas to explain with"):
            recbole_persona.explain(run_dir, history=["i1", "i2"])


@pytest.mark.slow
def test_it_learns_on_ml_100k(tmp_path):
    settings = {"epochs": 4, "run_dir": str(tmp_path / "own"), "metrics": ["NDCG"], "valid_metric": "NDCG@10"}
    own = recbole_persona.run("UserEncoder", "ml-100k", config_dict=settings)
    losses = recbole_persona.upstream.files.load_tree(tmp_path / "own/state/last.safetensors")["progress"]
    losses = list(losses["train_loss_dict"].values())
    assert all(later < earlier for earlier, later in pairwise(losses))
    # Pop, ranked for the same cases
    loaded = recbole_persona.load(own["run_dir"])
    popular = torch.bincount(loaded.train_data._dataset.inter_feat["item_id"], minlength=loaded.dataset.item_num)
    rank = 1 + (popular > popular[loaded.test_data._dataset.inter_feat["item_id"]].unsqueeze(1)).sum(dim=1)
    pop = torch.where(rank <= 10, 1 / torch.log2(rank + 1.0), 0.0).mean()
    assert own["test_result"]["ndcg@10"] > 1.3 * pop
