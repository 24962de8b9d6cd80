"""Columns of numbers that a model of features leaves out are named."""

import pytest
from tiny import interactions, write_tiny

from recbole_persona.config import Config
from recbole_persona.runner.training import _data

USER = "user_id:token\tage:float\tjob:token\n" + "".join(f"u{n}\t{20 + n}\tj{n % 3}\n" for n in range(12))
ITEM = "item_id:token\tprice:float\tlooks:float_seq\tkind:token\n" + "".join(
    f"i{n}\t{n}.5\t{n} 1 2\tk{n % 4}\n" for n in range(10)
)
LABELED = {
    "threshold": {"rating": 3}, "eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC",
    "train_neg_sample_args": None,
}  # fmt: skip
CASES = {
    "none is named": ("FM", LABELED, "age, price, looks"),
    "one is named": ("FM", LABELED | {"numerical_features": ["price"]}, "age, looks"),
    "all are named": ("FM", LABELED | {"numerical_features": ["age", "price", "looks"]}, None),
    "one is what filters read": ("FM", LABELED | {"val_interval": {"price": "[0,100]"}}, "age, looks"),
    "histories": ("recbole:DIN", LABELED | {"numerical_features": ["looks"]}, "age, price"),
    "our own": ("DIN", LABELED | {"numerical_features": ["looks", "age"]}, "price"),
    "features that were not chosen": (
        "SASRecF",
        {"selected_features": ["kind", "looks"], "train_neg_sample_args": None, "numerical_features": ["looks"]},
        None,
    ),
    "no model of features": ("BPR", {}, None),
    "a sequence of items": ("SASRec", {"train_neg_sample_args": None}, None),
    "trees read all": ("LightGBM", LABELED, None),
}


@pytest.mark.parametrize("model, settings, named", CASES.values(), ids=CASES)
def test_numbers_that_are_left_out_are_named(tmp_path, caplog, model, settings, named):
    _data(Config(model, "tiny", config_dict=write_tiny(tmp_path, interactions(), user=USER, item=ITEM) | settings))
    said = [line for line in caplog.messages if "which hold numbers" in line]
    name = model.removeprefix("recbole:")
    expected = [f"{name} does not use the columns {named}, which hold numbers: numerical_features does not name them."]
    assert [line.replace("recbole:", "") for line in said] == expected * bool(named)
