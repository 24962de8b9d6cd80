"""Pairs of user and item that the data repeat, and that a random split puts into training and test."""

import re

import pytest
from tiny import interactions, write_tiny

from recbole_persona.config import Config
from recbole_persona.runner.training import _data

REPEATED = interactions(items=20) + "".join(f"u{n % 12}\ti{n % 7}\t3\t{100 + n}\n" for n in range(90))


def warned(caplog, model, settings):
    """What the one warning counts, (all, validation, test), None without a warning; and the split's loaders."""
    caplog.clear()
    _, loaders = _data(Config(model, "tiny", config_dict=settings))
    lines = [line for line in caplog.messages if "in training and again" in line]
    assert len(lines) <= 1 and all("rm_dup_inter: first (or last)" in line for line in lines)
    return [int(n) for n in re.findall(r"\d+", lines[0])] if lines else None, loaders


def pairs(loader):
    """The pairs of a part, with RecBole's tensors taken apart one by one."""
    feat = loader._dataset.inter_feat
    return {(int(user), int(item)) for user, item in zip(feat["user_id"], feat["item_id"])}


@pytest.mark.parametrize("split", [{"RS": [0.8, 0.1, 0.1]}, {"RS": [0.8, 0, 0.2]}, {"LS": "valid_and_test"}])
@pytest.mark.parametrize("group_by", ["user", "none"])
def test_pairs_on_both_sides_are_counted(tmp_path, caplog, split, group_by):
    if "LS" in split and group_by == "none":
        return
    settings = write_tiny(tmp_path, REPEATED) | {"eval_args": {"split": split, "group_by": group_by}}
    said, loaders = warned(caplog, "BPR", settings)
    train, valid, test = map(pairs, loaders)
    assert said == [len((valid | test) & train), len(valid & train), len(test & train)] and said[2] > 0


@pytest.mark.parametrize("keep", ["first", "last"])
def test_the_remedy_that_is_named(tmp_path, caplog, keep):
    said, loaders = warned(caplog, "BPR", write_tiny(tmp_path, REPEATED) | {"rm_dup_inter": keep})
    assert said is None and not set.intersection(*map(pairs, loaders))


def test_data_that_repeat_nothing(tmp_path, caplog):
    assert warned(caplog, "BPR", write_tiny(tmp_path))[0] is None


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_what_comes_again_later_is_no_fault(tmp_path, caplog, model):
    """A thing heard again: the rows before it may be trained on, in leave-one-out and in every split by time."""
    settings = write_tiny(tmp_path, REPEATED)
    if model == "BPR":
        settings["eval_args"] = {"split": {"LS": "valid_and_test"}, "order": "TO"}
    else:
        settings["train_neg_sample_args"] = None
    said, (train, _, test) = warned(caplog, model, settings)
    assert said is None and pairs(train) & pairs(test)
