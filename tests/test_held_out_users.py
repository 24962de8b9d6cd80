"""Users of whom nothing trains: the parts, the refusals, and what models make of people they have never met."""

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from small_pod import small_pod
from tiny import refused, write_tiny
from upstream_models import write_tiny as write_larger

from recbole_persona.config import Config
from recbole_persona.data.training_part import training_interactions
from recbole_persona.runner import load, run

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}


def parts(model, **settings):
    config = Config(model, "ml-100k", config_dict={"eval_args": LEAVE_ONE_OUT, "state": "ERROR", **settings})
    return [loader._dataset for loader in data_preparation(config, create_dataset(config))]


def pairs(part):
    users, items = (part.inter_feat[field].tolist() for field in (part.uid_field, part.iid_field))
    return list(zip(users, items))


@pytest.mark.parametrize("model", ["UserEncoder", "Pop"])
def test_nothing_of_them_trains_and_they_alone_are_tested(model):
    whole, some = parts(model), parts(model, held_out_users=0.1)
    drawn = {user for user, _ in pairs(some[2])}
    assert len(drawn) == round(0.1 * len({user for user, _ in pairs(whole[2])})) == 94
    for before, after in zip(whole[:2], some):
        assert pairs(after) == [pair for pair in pairs(before) if pair[0] not in drawn]
    assert pairs(some[2]) == [pair for pair in pairs(whole[2]) if pair[0] in drawn]
    assert not drawn & set(training_interactions(some[0], some[0].uid_field)[0].tolist())


def test_who_is_drawn_depends_on_the_seed_of_the_split_alone():
    tested = [pairs(parts("Pop", held_out_users=0.1, **seeds)[2]) for seeds in ({}, {"seed": 7}, {"split_seed": 7})]
    assert tested[0] == tested[1] != tested[2]


def test_their_histories_are_read_where_they_are_tested():
    whole, some = (parts("UserEncoder", **settings)[2] for settings in ({}, {"held_out_users": 0.1}))
    places = dict(zip(whole.inter_feat["user_id"].tolist(), range(len(whole))))
    same = whole.inter_feat[[places[user] for user in some.inter_feat["user_id"].tolist()]].gathered()
    assert torch.equal(some.inter_feat.gathered()["item_id_list"], same["item_id_list"])
    assert some.inter_feat["item_length"].min() > 0


@pytest.mark.parametrize("share", [0, 1, 2.5, -0.1, True, "many"])
def test_what_is_no_share_is_refused(tmp_path, capsys, share):
    settings = write_tiny(tmp_path) | {"held_out_users": share}
    assert "held_out_users is a share" in refused(capsys, "run", "--model=BPR", "--dataset=tiny", **settings)


def test_a_share_that_leaves_nobody_to_train_on_is_refused(tmp_path, capsys):
    settings = write_tiny(tmp_path) | {"held_out_users": 0.99}
    assert "train" in refused(capsys, "run", "--model=BPR", "--dataset=tiny", **settings)


def test_peapod_meets_them_by_their_histories(tmp_path):
    model, (train, _, test) = small_pod(write_larger(tmp_path), held_out_users=0.2)
    batch = next(iter(test))[0]
    users = batch["user_id"]
    assert not model.user_vectors[users].any() and not model.neighbours[users].any()
    met = model.attended(batch)
    assert (met.neighbours > 0).all() and not np.isin(met.neighbours.numpy(), users.numpy()).any()
    assert not set(train._dataset.inter_feat["user_id"].tolist()) & set(users.tolist())


def test_a_run_says_so_and_is_read_again(tmp_path):
    settings = write_tiny(tmp_path) | {"held_out_users": 0.25, "eval_args": LEAVE_ONE_OUT}
    result = run("BPR", "tiny", config_dict=settings)["result"]
    assert result["protocol"]["held_out_users"] == 0.25 and result["statistics"]["test"] == 3
    assert len(load(tmp_path / "run").test_data._dataset) == 3
