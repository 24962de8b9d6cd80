"""Sequential data that are not as they should be: one sentence, or the rule that docs/data.md names."""

import numpy as np
import pytest
from recbole.data import create_dataset, data_preparation
from tiny import refused, write_tiny

from recbole_persona import run
from recbole_persona.config import Config
from recbole_persona.errors import UserError

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
SASREC = {"train_neg_sample_args": None, "n_heads": 1, "hidden_size": 4, "inner_size": 4, "n_layers": 1}
COLUMNS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


def rows(*histories):
    """Histories of (item, time) as text, a user each, user by user."""
    return "\n".join([HEADER, *(f"u{u}\t{i}\t{t}" for u, history in enumerate(histories) for i, t in history)]) + "\n"


def history(*items):
    return [(item, time) for time, item in enumerate(items)]


LONG = [history("a", "b", "c", "d", "e"), history("b", "c", "d", "e", "a")]


def parts(place, text, **settings):
    """``{part: [(user, history, target)]}`` as a sequential model gets them, external ids."""
    settings = write_tiny(place, text) | COLUMNS | settings
    config = Config("GRU4Rec", "tiny", config_dict={**settings, "train_neg_sample_args": None, "eval_batch_size": 100})
    loaders = data_preparation(config, create_dataset(config))
    found = {}
    for part, loader in zip(("train", "valid", "test"), loaders):
        dataset, found[part] = loader._dataset, []
        for row in range(len(dataset)):
            one = dataset[[row]]
            seen = one["item_id_list"][0, : one["item_length"][0]].numpy()
            user = dataset.id2token("user_id", int(one["user_id"][0]))
            target = dataset.id2token("item_id", int(one["item_id"][0]))
            found[part].append((str(user), "".join(dataset.id2token("item_id", seen)), str(target)))
    return found


# --- times


@pytest.mark.parametrize("model", ["SASRec", "DIN"])
def test_no_time(tmp_path, capsys, model):
    text = rows(*LONG).replace("timestamp", "when")
    settings = write_tiny(tmp_path, text) | {
        "load_col": {"inter": ["user_id", "item_id"]},
        "train_neg_sample_args": None,
    }
    for own in ("metrics", "topk", "valid_metric"):  # DIN has its own
        settings.pop(own)
    said = refused(capsys, f"--model={model}", "--dataset=tiny", **settings)
    assert "tiny.inter has no column 'timestamp'; it has" in said


def test_times_that_are_words(tmp_path, capsys):
    settings = write_tiny(tmp_path, rows(*LONG).replace("timestamp:float", "timestamp:token")) | COLUMNS | SASREC
    said = refused(capsys, "--model=SASRec", "--dataset=tiny", **settings)
    assert "'timestamp'" in said and "must be of type float; it is 'token'" in said


def test_unsorted_times_are_sorted(tmp_path):
    lines = rows(*LONG).splitlines()
    shuffled = [lines[0], *np.random.default_rng(1).permutation(lines[1:])]
    found = parts(tmp_path, "\n".join(shuffled) + "\n")
    assert sorted(found["train"]) == [("u0", "a", "b"), ("u0", "ab", "c"), ("u1", "b", "c"), ("u1", "bc", "d")]
    assert sorted(found["valid"]) == [("u0", "abc", "d"), ("u1", "bcd", "e")]
    assert sorted(found["test"]) == [("u0", "abcd", "e"), ("u1", "bcde", "a")]


def test_equal_times_keep_the_order_of_the_file(tmp_path):
    tied = [[(item, 7) for item in "dacbe"], [(item, time) for item, time in zip("edcba", (2, 2, 1, 1, 3))]]
    found = parts(tmp_path, rows(*tied))
    assert sorted(found["test"]) == [("u0", "dacb", "e"), ("u1", "cbed", "a")]
    assert sorted(found["valid"]) == [("u0", "dac", "b"), ("u1", "cbe", "d")]


# --- users who are too short


def test_short_users_under_leave_one_out(tmp_path):
    """A user needs two interactions for a training row, three for a test row, four for a validation row."""
    short = [history("a"), history("a", "b"), history("a", "b", "c"), history("a", "b", "c", "d"), *LONG]
    found = parts(tmp_path, rows(*short))
    users = {part: sorted({user for user, *_ in cases}) for part, cases in found.items()}
    assert users == {
        "train": ["u1", "u2", "u3", "u4", "u5"],
        "valid": ["u3", "u4", "u5"],
        "test": ["u2", "u3", "u4", "u5"],
    }


def test_all_users_too_short(tmp_path, capsys):
    settings = write_tiny(tmp_path, rows(*[history("a", "b")] * 9)) | COLUMNS | SASREC | {"topk": [1]}
    settings["valid_metric"] = "NDCG@1"
    said = refused(capsys, "--model=SASRec", "--dataset=tiny", **settings)
    assert "leaves nothing to test on: its users have too few interactions" in said
    settings = write_tiny(tmp_path, rows(*[history("a")] * 9)) | COLUMNS | SASREC | {"topk": [1]}
    settings["valid_metric"] = "NDCG@1"
    said = refused(capsys, "--model=SASRec", "--dataset=tiny", **settings)
    assert "leaves nothing to train on" in said


# --- columns of a wrong type


ITEMS = "item_id:token\t{}\n" + "".join(f"{item}\t{{}}\n" for item in "abcde")


@pytest.mark.parametrize(
    "column, cells, sentence",
    [
        ("price:float", ["1", "2", "cheap", "3", "4"], "tiny.item, line 4: the price is no number but 'cheap'"),
        ("place:float_seq", ["1 2", "2 x", "1 1", "3 1", "4 1"], "tiny.item, line 3: the place is no number but 'x'"),
        ("kind:string", ["a"] * 5, "the column 'kind:string' must be written name:type"),
    ],
)
def test_a_feature_of_a_wrong_type(tmp_path, capsys, column, cells, sentence):
    settings = write_tiny(tmp_path, rows(*LONG), item=ITEMS.format(column, *cells))
    settings |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": "*"}, **SASREC}
    assert sentence in refused(capsys, "--model=SASRec", "--dataset=tiny", **settings)


def test_a_feature_of_interactions_of_a_wrong_type(tmp_path, capsys):
    text = (
        rows(*LONG).replace(HEADER, HEADER + "\tgap:float").replace("\t3\n", "\t3\tsoon\n").replace("\t4\n", "\t4\t1\n")
    )
    text = "\n".join(line if line.count("\t") == 3 else line + "\t0" for line in text.splitlines()) + "\n"
    settings = write_tiny(tmp_path, text) | {"load_col": {"inter": "*"}, **SASREC}
    assert "line 5: the gap is no number but 'soon'" in refused(capsys, "--model=SASRec", "--dataset=tiny", **settings)


# --- lists that come with the data


LISTS = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
READY = {
    "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
    "alias_of_item_id": ["item_id_list"],
}


def ready(place, train, head=LISTS, **settings):
    """A data set in three files; ``train`` are lines, which the other parts share."""
    folder = place / "data/tiny"
    folder.mkdir(parents=True)
    for part in ("train", "valid", "test"):
        (folder / f"tiny.{part}.inter").write_text(head + train)
    return {"data_path": str(place / "data"), "run_dir": str(place / "run"), **READY, **SASREC, "epochs": 1, **settings}


LINES = "u1\ta b\tc\nu1\ta b c\td\nu2\td\ta\nu3\tb a d c\te\n"


def test_ready_made_lists(tmp_path):
    settings = ready(tmp_path, LINES, topk=[1], metrics=["Hit"], valid_metric="Hit@1", MAX_ITEM_LIST_LENGTH=4)
    result = run("SASRec", "tiny", config_dict=settings | {"mask_history": True})["result"]
    assert result["protocol"]["split"] == {"files": ["train", "valid", "test"]}
    assert result["protocol"]["targets"] == "several per user, a list for each"
    assert result["protocol"]["order"] is None and result["statistics"]["test"] == 4


def test_ready_made_lists_for_a_language_model(tmp_path):
    settings = ready(tmp_path, LINES, topk=[1], metrics=["Hit"], valid_metric="Hit@1", MAX_ITEM_LIST_LENGTH=4)
    settings |= {"backbone": "scratch:tiny", "n_beams": 2, "every_prefix": False, "task_tokens": 1}
    settings.pop("hidden_size", None)
    assert run("POD", "tiny", config_dict=settings | {"item_codes": "sequential"})["result"]["statistics"]["test"] == 4
    with pytest.raises(UserError, match="p5_leaky numbers whole sequences"):
        run("POD", "tiny", config_dict=settings | {"item_codes": "p5_leaky", "run_dir": str(tmp_path / "other")})


def test_ready_made_lists_are_masked(tmp_path):
    config = Config("SASRec", "tiny", config_dict=ready(tmp_path, LINES) | {"mask_history": True})
    *_, test = data_preparation(config, create_dataset(config))
    ((_, (place, items), _, targets),) = test
    names = test._dataset.id2token("item_id", items)
    assert ["".join(sorted(names[place == row])) for row in range(4)] == ["ab", "abc", "d", "abcd"]
    assert list(test._dataset.id2token("item_id", targets)) == list("cdae")


@pytest.mark.parametrize("model", ["Caser", "HGN", "FOSSIL", "SINE", "SASRec"])
def test_ready_made_lists_are_as_wide_as_any(tmp_path, model):
    """The longest list of the data has four items, and MAX_ITEM_LIST_LENGTH is 7."""
    settings = ready(tmp_path, LINES, topk=[1], metrics=["Hit"], valid_metric="Hit@1", MAX_ITEM_LIST_LENGTH=7)
    assert run(model, "tiny", config_dict=settings)["result"]["statistics"]["test"] == 4


def lists_of(place, **settings):
    """The ready-made lists of the training part, as text, without their padding; and the width of the column."""
    config = Config("SASRec", "tiny", config_dict=ready(place, LINES, **settings))
    dataset = data_preparation(config, create_dataset(config))[0]._dataset
    columns = dataset.inter_feat["item_id_list"], dataset.inter_feat["item_length"]
    names = ["".join(dataset.id2token("item_id", row[:length].numpy())) for row, length in zip(*columns)]
    return names, columns[0].shape[1]


def test_ready_made_lists_are_padded_to_the_longest_history(tmp_path):
    assert lists_of(tmp_path / "all", MAX_ITEM_LIST_LENGTH=7) == (["ab", "abc", "d", "badc"], 7)
    settings = {"MAX_ITEM_LIST_LENGTH": 7, "seq_len": {"item_id_list": 2}}
    assert lists_of(tmp_path / "newest", **settings) == (["ab", "bc", "d", "dc"], 7)


@pytest.mark.parametrize(
    "head, lines, settings, sentence",
    [
        (LISTS, LINES + "u4\t\ta\n", {}, r"Row 5 below the header of .*tiny.train.inter has no item in item_id_list"),
        (LISTS, LINES, {"MAX_ITEM_LIST_LENGTH": 3}, "lists of up to 4 items, and MAX_ITEM_LIST_LENGTH is 3; set it to 4"),
        (LISTS.replace("list:token_seq", "list:token"), LINES, {}, "'item_id_list' .* must be of type token_seq; it is 'token'"),
        (
            LISTS.replace("item_id_list", "items"), LINES,
            {"load_col": {"inter": ["user_id", "items", "item_id"]}}, "has no column 'item_id_list' of type token_seq",
        ),
        (
            "user_id:token\titem_id_list:token_seq\titem_id:token\tage:float\tage_list:float_seq\n",
            "u1\ta b\tc\t1\t1 2\nu2\tb c\ta\t1\t1\n", {"load_col": {"inter": "*"}},
            "Row 2 of the interactions has 2 items in item_id_list and 1 values in age_list",
        ),
        (LISTS, LINES, {"alias_of_item_id": None}, r"numbered apart .* set alias_of_item_id: \[item_id_list\]"),
    ],
    ids=["empty", "too long", "wrong type", "no lists", "unequal", "no alias"],
)  # fmt: skip
def test_lists_that_do_not_fit(tmp_path, head, lines, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        run("SASRec", "tiny", config_dict=ready(tmp_path, lines, head, **settings))
