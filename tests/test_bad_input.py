"""Every mistake ends in one sentence with status 2, and leaves what stood before whole."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import HEADER, interactions, refused, with_line, write_tiny

from recbole_persona import run
from recbole_persona.data import checks
from recbole_persona.errors import UserError
from recbole_persona.runs import RunFolder


@pytest.fixture
def tiny(tmp_path):
    return partial(write_tiny, tmp_path)


# --- data -------------------------------------------------------------------------------------------------------------

FILES = {
    "empty": ("", "tiny.inter is empty; its first line must be like user_id:token"),
    "blank": ("\n\n", "tiny.inter is empty"),
    "header only": (HEADER + "\n", "tiny.inter has a header and no rows"),
    "header without newline": (HEADER, "tiny.inter has a header and no rows"),
    "no types": ("user_id\titem_id\nu\ti\n", "line 1: the column 'user_id' must be written name:type"),
    "unknown type": (
        "user_id:int\titem_id:token\nu\ti\n",
        "line 1: the column 'user_id:int' must be written name:type",
    ),
    "commas": (interactions().replace("\t", ","), r"line 1: the column .* separated by '\\t' \(field_separator\)"),
    "two of a name": (interactions().replace("item_id", "user_id", 1), "line 1: two columns are named 'user_id'"),
    "no user": (interactions().replace("user_id", "user", 1), "has no column 'user_id'.* the nearest is 'user'"),
    "no item": (interactions().replace("item_id", "x", 1), "has no column 'item_id'"),
    "no rating": (
        interactions().replace("rating", "stars", 1),
        "load_col names 'rating' for 'inter', and .* has no column 'rating'; it has",
    ),
    "float user": (interactions().replace("user_id:token", "user_id:float", 1), "must be of type token; it is 'float'"),
    "mark": ("\ufeff" + interactions(), "begins with a byte order mark; set --encoding=utf-8-sig"),
    "latin": (interactions().replace("u11", "ü").encode("latin-1"), "is not UTF-8 text; set --encoding"),
    "NaN rating": (with_line("u0\ti0\tNaN\t1"), "tiny.inter, line 74: the rating is no number but 'NaN'"),
    "empty rating": (with_line("u0\ti0\t\t1"), "tiny.inter, line 74: the rating is empty"),
    "inf rating": (with_line("u0\ti0\tinf\t1"), "tiny.inter, line 74: the rating is no number but 'inf'"),
    "word for rating": (with_line("u0\ti0\tgood\t1"), "tiny.inter, line 74: the rating is no number but 'good'"),
    "empty user": (with_line("\ti0\t1\t1"), "tiny.inter, line 74: the user_id is empty"),
    "user NA": (with_line("NA\ti0\t1\t1"), "line 74: the user_id is empty .'NA' is read as an empty cell"),
    "short row": (with_line("u0\ti0"), "tiny.inter, line 74: 2 cells, and the header has 4"),
    "after blanks": (with_line("\n\nu0\ti0\tbad\t1"), "tiny.inter, line 76: the rating is no number but 'bad'"),
}


@pytest.mark.parametrize(("text", "sentence"), FILES.values(), ids=FILES)
def test_a_faulty_interaction_file(tiny, capsys, text, sentence):
    settings = tiny(text)
    with pytest.raises(UserError, match=sentence):
        run("BPR", "tiny", config_dict=settings)
    assert refused(capsys, "--model=BPR", "--dataset=tiny", **settings)
    assert not (
        Path(settings["run_dir"]) / "config.yaml"
    ).exists()  # it can be mended and started again, without --rerun


SIDE_FILES = {
    "no user column": (
        {"user": "uid:token\tage:float\nu0\t3\n"},
        "USER_ID_FIELD is 'user_id', and .*tiny.user has no column",
    ),
    "word for a number": (
        {"user": "user_id:token\tage:float\nu0\told\n"},
        "tiny.user, line 2: the age is no number but 'old'",
    ),
    "word in a sequence": (
        {"item": "item_id:token\tv:float_seq\ni0\t1 2 x\n"},
        "tiny.item, line 2: the v is no number but 'x'",
    ),
    "empty": ({"item": ""}, "tiny.item is empty"),
}


@pytest.mark.parametrize(("files", "sentence"), SIDE_FILES.values(), ids=SIDE_FILES)
def test_a_faulty_side_file(tiny, files, sentence):
    with pytest.raises(UserError, match=sentence):
        run("BPR", "tiny", config_dict=tiny(**files))


def test_a_missing_feature_is_no_fault(tiny):
    """RecBole fills in an empty feature of a user or an item with the mean: that stays."""
    assert run("BPR", "tiny", config_dict=tiny(user="user_id:token\tage:float\nu0\t3\nu1\t\n"))["test_result"]


def test_the_words_for_empty_are_those_of_pandas(tmp_path):
    file = tmp_path / "words.tsv"
    words = sorted(checks._MISSING - {""}) + ["na", "Null", "nil", "-", "NONE", "0"]
    file.write_text("word\n" + "".join(f"{word}\n" for word in words))
    assert pd.read_csv(file, dtype=str)["word"].isna().tolist() == [word in checks._MISSING for word in words]


SETTINGS = {
    "a user's column": (
        {"load_col": {"inter": ["user_id", "item_id", "raiting"]}},
        "no column 'raiting'.* nearest is 'rating'",
    ),
    "user not loaded": ({"load_col": {"inter": ["item_id"]}}, "'user_id' of .* is not loaded; set --load_col="),
    "user unloaded": (
        {"load_col": None, "unload_col": {"inter": ["user_id"]}},
        "'user_id' of .* is not loaded; set --unload_col=",
    ),
    "time not loaded": (
        {"load_col": {"inter": ["user_id", "item_id"]}, "eval_args": {"order": "TO"}},
        "The TIME_FIELD is 'timestamp', and the column 'timestamp' of .* is not loaded",
    ),
    "wrong field": ({"USER_ID_FIELD": "uid"}, "The USER_ID_FIELD is 'uid', and .* has no column 'uid'"),
    "users filtered": (
        {"user_inter_num_interval": "[100,inf)"},
        r"left after filtering; loosen user_inter_num_interval \(\[100",
    ),
    "values filtered": ({"val_interval": {"rating": "[9,10]"}}, "left after filtering; loosen val_interval"),
    "field to filter": (
        {"val_interval": {"ratings": "[9,10]"}},
        r"val_interval reads 'ratings', and .* timestamp; the nearest is 'rating'\.",
    ),
    "threshold": (
        {"threshold": {"stars": 3}},
        "numbers in the column 'stars', and .*tiny.inter has no column 'stars'; it has user_id, ",
    ),
    "topk": ({"topk": [50], "valid_metric": "NDCG@50"}, "topk is 50, and the data set 'tiny' has 10 items"),
    "benchmark files": ({"benchmark_filename": ["train", "valid", "test"]}, "no file .*tiny.train.inter"),
    "additional file": ({"additional_feat_suffix": ["emb"]}, "no file .*tiny.emb; .* needs its .emb file"),
    "valid_metric": ({"valid_metric": "MRR@10"}, r"valid_metric is MRR@10, .* such as NDCG@3"),
    "valid_metric without k": ({"valid_metric": "NDCG"}, "valid_metric is NDCG, .* such as NDCG@3"),
}


@pytest.mark.parametrize(("settings", "sentence"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_do_not_fit_the_data(tiny, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        run("BPR", "tiny", config_dict=tiny() | settings)


def test_knowledge_models_need_their_files(tiny):
    with pytest.raises(UserError, match=r"no file .*tiny\.kg; the data set 'tiny' needs its \.kg file"):
        run("CKE", "tiny", config_dict=tiny() | {"load_col": {"inter": ["user_id", "item_id"], "kg": "*", "link": "*"}})


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_a_user_with_one_interaction_is_trained_on(tiny, model):
    settings = tiny(with_line("lonely\ti0\t3\t999"))
    settings |= {"train_neg_sample_args": None, "n_heads": 1, "hidden_size": 4} if model == "SASRec" else {}
    outcome = run(model, "tiny", config_dict=settings)
    assert np.isfinite(outcome["test_result"]["ndcg@3"])
    assert "lonely" not in RunFolder(outcome["run_dir"]).per_user()["user"].tolist()


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_users_with_one_interaction_alone_are_said(tiny, model):
    text = HEADER + "\n" + "".join(f"u{n}\ti{n % 5}\t3\t{n}\n" for n in range(20))
    settings = tiny(text) | ({"train_neg_sample_args": None} if model == "SASRec" else {})
    with pytest.raises(UserError, match=r"leaves nothing to (train|test) on"):
        run(model, "tiny", config_dict=settings)


# --- the command line -------------------------------------------------------------------------------------------------


def test_names_and_values_on_the_command_line(capsys, tiny, tmp_path):
    settings = tiny()
    broken = tmp_path / "broken.yaml"
    broken.write_text("epochs: [1\n")
    for arguments, sentence in [
        (["--model=BRP", "--dataset=tiny"], "no model named 'BRP'; the nearest is 'BPR'"),
        (["--model=BPR", "--dataset=tinny"], "no data set 'tinny'"),
        (["--dataset=tiny"], "Name a model"),
        (["--model=BPR", "--dataset=tiny", "--epoch=3"], "no config key 'epoch'; the nearest is 'epochs'"),
        (["--model=BPR", "--dataset=tiny", "--epochs=abc"], "--epochs is given twice, as 'abc' and 1"),
        (["--model=BPR", "--dataset=tiny", "--seed=abc"], "seed must be a whole number"),
        (["--model=BPR", "--dataset=tiny", f"--config_files={broken}"], "broken.yaml, line 2 is not valid YAML"),
        (["--model=BPR", "--dataset=tiny", "--config_files", "no.yaml"], "no config file no.yaml"),
        (["--model=BPR", "--dataset=tiny", "seed=3"], "Cannot read 'seed=3'"),
        (["--model=BPR", "--dataset=tiny", "--seed", "3", "4"], "Cannot read '4'"),
    ]:
        assert sentence in refused(capsys, *arguments, **settings)


def test_code_on_the_command_line_is_text(capsys, tiny, tmp_path):
    file = tmp_path / "ran"
    payload = f"__import__('os').system('touch {file}')"
    assert "learning_rate must be a positive number" in refused(
        capsys, "--model=BPR", "--dataset=tiny", **tiny(), learning_rate=payload
    )
    assert not file.exists()


def test_import_without_recbole():
    """The import says in one sentence how RecBole is installed where its own requirements cannot be met."""
    code = (
        "import sys, importlib.abc\n"
        "class Blocker(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.partition('.')[0] == 'recbole':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "import recbole_persona"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 1
    assert "pip install --no-deps recbole==1.2.1" in done.stderr.strip().splitlines()[-1]
