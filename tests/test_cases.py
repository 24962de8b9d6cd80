"""The small inputs beside the checkout that were read wrongly once, each with what is right; the folder may be absent."""

from pathlib import Path

import pytest

from recbole_persona import run
from recbole_persona.errors import UserError
from recbole_persona.runs import RunFolder

CASES = Path(__file__).parent.parent.parent / "shared/cases"
SMALL = {"embedding_size": 8, "epochs": 1, "topk": [3, 5], "valid_metric": "NDCG@5", "use_gpu": False}
READY = {
    "benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"], "load_col": None,
    "train_neg_sample_args": None, "repeatable": True,
}  # fmt: skip
ALL = {"load_col": None}
REFUSED = {
    "quotes": ("BPR", {}, r"quotes\.inter, line \d+: the item_id begins with a quote .* inside doubled\)\.$"),
    "q4": ("BPR", ALL, r"q4\.item, line 5: the title begins with a quote .* set text_fields: \[title\]"),
    "tab1": ("BPR", ALL, r"tab1\.item, line 5: 4 cells, and the header has 3"),
    "sb0": ("SASRec", READY, r"Row 1 below the header of .*sb0\.train\.inter has no item in item_id_list"),
    "w23": ("BPR", ALL, r"is left after filtering; loosen filter_inter_by_user_or_item"),
}

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the small inputs are not here")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused(tmp_path, name):
    model, settings, sentence = REFUSED[name]
    place = {"data_path": str(CASES), "run_dir": str(tmp_path / "run")}
    with pytest.raises(UserError, match=sentence):
        run(model, name, config_dict=SMALL | settings | place)
    assert not RunFolder(tmp_path / "run").started


@pytest.mark.parametrize("name", ["quotes", "tab1"])
def test_it_is_refused_whatever_is_loaded(tmp_path, name):
    """A column that is not loaded shifts and swallows as well."""
    columns = {"load_col": {"inter": ["user_id", "item_id"], "item": ["item_id"]}}
    if name == "quotes":
        columns = {"load_col": {"inter": ["user_id", "item_id"]}}
    with pytest.raises(UserError, match=rf"{name}\.\w+, line \d+: "):
        run("Pop", name, config_dict=SMALL | columns | {"data_path": str(CASES), "run_dir": str(tmp_path / "run")})


def test_q4_with_the_remedy_that_is_named(tmp_path):
    settings = SMALL | ALL | {"text_fields": ["title"], "data_path": str(CASES), "run_dir": str(tmp_path / "run")}
    assert rows_of(run("BPR", "q4", config_dict=settings)) == 96


def test_blank_lines_are_no_rows(tmp_path):
    settings = SMALL | ALL | {"data_path": str(CASES), "run_dir": str(tmp_path / "run")}
    assert rows_of(run("BPR", "w4", config_dict=settings)) == 96


def test_w23_with_the_remedy_that_is_named(tmp_path):
    settings = SMALL | ALL | {"filter_inter_by_user_or_item": False, "data_path": str(CASES)}
    assert rows_of(run("BPR", "w23", config_dict=settings | {"run_dir": str(tmp_path / "run")})) == 96


@pytest.mark.parametrize("model", ["GRU4Rec", "BERT4Rec", "SRGNN"])
def test_an_empty_list_is_named_for_every_model(tmp_path, model):
    with pytest.raises(UserError, match=REFUSED["sb0"][2]):
        place = {"data_path": str(CASES), "run_dir": str(tmp_path / "run")}
        run(model, "sb0", config_dict=SMALL | READY | place)


def rows_of(outcome) -> int:
    counts = outcome["result"]["statistics"]
    return counts["train"] + counts["valid"] + counts["test"]
