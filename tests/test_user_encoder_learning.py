"""UserEncoder as a whole: it learns, its runs are reliable, and it says why, also to somebody new."""

import json
from itertools import pairwise

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
    against_pop = {"epochs": 10, "hidden_size": 64, "inner_size": 64}


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
    explains = True


def test_a_stopped_run_continues_to_the_same_bits(tmp_path):
    assert resume_runs.compare(["UserEncoder"], tmp_path) == {"UserEncoder": None}


# People


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run that reads classes and ratings."""
    folder = tmp_path_factory.mktemp("people")
    write_data(folder)
    settings = {
        **SIZES,
        "data_path": str(folder),
        "run_dir": str(folder / "run"),
        "epochs": 8,
        "train_batch_size": 64,
        "learning_rate": 0.01,
        "features": ["class", "rating"],
        "time_gaps": True,
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "class"]},
    }
    return recbole_persona.run("UserEncoder", "small", config_dict=settings)["run_dir"]


def test_a_new_history_is_scored_without_training(trained):
    histories = ["i1", "i2", "i5", "i9"], ["i44", "i51", "i57", "i38"]
    lists = [recbole_persona.recommend(trained, history=history, topk=10) for history in histories]
    left, right = (sum(int(item[1:]) < 30 for item in table["item"]) for table in lists)
    assert left >= right + 4  # the halves of the items that either kind of user prefers
    assert not set(lists[0]["item"]) & {"i1", "i2", "i5", "i9"}
    turned = recbole_persona.recommend(trained, history=["i9", "i5", "i2", "i1"], topk=10)
    assert turned["score"].tolist() != lists[0]["score"].tolist()  # order counts
    with pytest.raises(UserError, match="small has no item 'i99'"):
        recbole_persona.recommend(trained, history=["i1", "i99"])


@pytest.mark.parametrize("who", [{"user": "u3"}, {"history": ["i1", "i2", "i5", "i9"]}])
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
    named = recbole_persona.explain(trained, items=[reasons[2]["item"]], **who)
    assert named[0]["rank"] == 3
    for one, other in zip(named[0]["history"], reasons[2]["history"], strict=True):
        assert one["item"] == other["item"] and one["weight"] == pytest.approx(other["weight"], abs=1e-5)


def test_the_command_line_prints_reasons(trained, capsys):
    assert main(["explain", f"--run={trained}", "--history=i1,i2,i5,i9", "--topk=2"]) == 0
    printed = capsys.readouterr().out
    assert "new user, 4 items of history read" in printed and "because you chose “The " in printed
    assert main(["explain", f"--run={trained}", "--user=u3", "--topk=2", "--faithfulness"]) == 0
    assert "the item that is named" in capsys.readouterr().out


@torch.no_grad()
def test_the_named_items_carry_the_score(trained):
    loaded = recbole_persona.load(trained)
    rows = next(iter(loaded.test_data))[0]
    best = loaded.model.full_sort_predict(rows).view(len(rows), -1)[:, 1:].topk(3, dim=1).indices + 1
    table = faithfulness(loaded.model, with_items(rows, best, "item_id", loaded.dataset.item_feat))
    top, random, other = table["drop"]
    assert top > other > 0 and top > random


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
    settings |= {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "learning_rate": 0.003}
    own = recbole_persona.run("UserEncoder", "ml-100k", config_dict=settings)
    losses = recbole_persona.upstream.files.load_tree(tmp_path / "own/state/last.safetensors")["progress"]
    losses = list(losses["train_loss_dict"].values())
    assert all(later < earlier for earlier, later in pairwise(losses))
    # Pop, ranked for the same cases
    loaded = recbole_persona.load(own["run_dir"])
    popular = torch.bincount(loaded.train_data._dataset.inter_feat["item_id"], minlength=loaded.dataset.item_num)
    rank = 1 + (popular > popular[loaded.test_data._dataset.inter_feat["item_id"]].unsqueeze(1)).sum(dim=1)
    pop = torch.where(rank <= 10, 1 / torch.log2(rank + 1.0), 0.0).mean()
    assert own["test_result"]["ndcg@10"] > 2 * pop
