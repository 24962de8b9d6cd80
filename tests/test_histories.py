"""Sequential data sets against RecBole's own, field by field, row by row."""

import copy
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from tiny import HEADER, write_tiny

from recbole_persona.config import Config
from recbole_persona.data.grouped_splits import Groups
from recbole_persona.data.histories import END, VIEWS, Histories, HistoryRows
from recbole_persona.data.ordering import stable_order
from recbole_persona.errors import UserError

SHARED = Path(os.environ.get("RECBOLE_PERSONA_SHARED_DATA", Path(__file__).parent.parent.parent / "shared/data"))
OURS = ("data_augmentation", "_change_feat_format", "__getitem__", "inter_matrix", "leave_one_out", "split_by_ratio")
QUIET = {"train_neg_sample_args": None, "state": "ERROR"}


@pytest.fixture
def upstream(monkeypatch):
    """Makes data sets and loaders as RecBole does."""

    def make(config):
        with monkeypatch.context() as patch:
            for name in OURS:
                patch.setattr(SequentialDataset, name, getattr(SequentialDataset, name).__wrapped__)
            return parts(config)

    return make


def parts(config):
    dataset = create_dataset(copy.copy(config))
    return dataset, data_preparation(config, dataset)


def config_of(dataset="ml-100k", model="SASRec", **changes):
    return Config(model=model, dataset=dataset, config_dict=QUIET | changes)


def assert_same_rows(ours, theirs):
    """Two data sets hold the same rows; ours stores no list."""
    assert isinstance(ours.inter_feat, HistoryRows) and not isinstance(theirs.inter_feat, HistoryRows)
    assert len(ours) == len(theirs)
    assert set(ours.inter_feat.columns) == set(theirs.inter_feat.columns)
    assert ours.field2seqlen == theirs.field2seqlen and ours.field2type == theirs.field2type
    for rows in torch.arange(len(ours)).split(20_000):
        mine = ours.inter_feat[rows].gathered()
        for name in theirs.inter_feat.columns:
            assert mine[name].dtype == theirs.inter_feat[name].dtype
            assert torch.equal(mine[name], theirs.inter_feat[name][rows]), name


@pytest.mark.parametrize(
    "split",
    [
        {"split": {"LS": "valid_and_test"}},
        {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user"},
        *(
            pytest.param(split, marks=pytest.mark.slow)
            for split in (
                {"split": {"LS": "valid_only"}},
                {"split": {"LS": "test_only"}},
                {"split": {"RS": [8, 1, 1]}, "group_by": "none"},
                {"split": {"TS": [0.8, 0.1, 0.1]}, "group_by": "user"},
            )
        ),
    ],
    ids=str,
)
def test_every_part_of_ml_100k_is_recboles(upstream, split):
    config = config_of(eval_args={"order": "TO", "mode": "full", **split})
    mine, theirs = parts(config), upstream(config)
    for ours, other in zip(mine[1], theirs[1]):
        assert_same_rows(ours._dataset, other._dataset)
    for form in ("coo", "csr"):
        a, b = (one[1][0]._dataset.inter_matrix(form=form, value_field="rating") for one in (mine, theirs))
        assert (a != b).nnz == 0 if form == "csr" else np.array_equal(a.toarray(), b.toarray())


def test_batches_are_recboles(upstream):
    """Also the order of the batches, and what is joined to them."""
    config = config_of(
        model="SASRecF",
        load_col={"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "class"]},
        selected_features=["class"],
        train_neg_sample_args=None,
        MAX_ITEM_LIST_LENGTH=7,
    )
    loaders = parts(config)[1], upstream(config)[1]
    for ours, theirs in zip(*loaders):
        for number, (mine, other) in enumerate(zip(ours, theirs)):
            mine, other = (batch[0] if isinstance(batch, tuple) else batch for batch in (mine, other))
            assert mine.columns == other.columns
            assert all(torch.equal(mine[name], other[name]) for name in mine.columns)
            if number == 5:
                break


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_beauty_is_recboles(upstream, tmp_path):
    from recbole_persona.data.convert import convert

    source = SHARED / "amazon_beauty_s3rec"
    convert("sequences", source / "sequences.txt.gz", tmp_path, "beauty", times=source / "time_deltas_seconds.txt.gz")
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    config = config_of("beauty", data_path=str(tmp_path), load_col=columns)
    for ours, theirs in zip(parts(config)[1], upstream(config)[1]):
        assert_same_rows(ours._dataset, theirs._dataset)


LINES = [
    ("u1", "i1", 3.5, 5, "a b", "0.5 1.5", "x"),
    ("u2", "i3", 1.0, 1, "", "2", "y"),
    ("u1", "i2", 2.0, 5, "c", "1 2 3", "x"),
    ("u1", "i3", 4.0, 2, "a", "", "x"),
    ("u3", "i1", 4.0, 9, "b", "7", "y"),
    ("u1", "i1", 5.0, 7, "a c", "1", "y"),
    ("u2", "i2", 3.0, 1, "c b", "1 1", "x"),
    ("u2", "i1", 3.0, 0, "b", "3", "y"),
]
RICH = f"{HEADER}\ttags:token_seq\tnumbers:float_seq\tevent:token\n" + "".join(
    "\t".join(map(str, (user, item, rating, time, tags, numbers, event))) + "\n"
    for user, item, rating, time, tags, numbers, event in LINES
)


@pytest.mark.parametrize("numerical", [None, ["rating"]])
@pytest.mark.parametrize("longest", [1, 2, 50])
def test_fields_of_every_type(upstream, tmp_path, longest, numerical):
    """Tokens, numbers, sequences of both, discretised numbers, repeated items and equal times."""
    changes = write_tiny(tmp_path, RICH) | {"MAX_ITEM_LIST_LENGTH": longest, "load_col": None}
    config = config_of("tiny", **changes, numerical_features=numerical or [])
    mine, theirs = parts(config), upstream(config)
    for ours, other in zip(mine[1], theirs[1]):
        assert_same_rows(ours._dataset, other._dataset)


def test_equal_times_keep_the_order_of_the_file(tmp_path):
    lines = "".join(f"u{n % 3}\ti{n}\t1\t{n // 9}\n" for n in range(27))
    dataset, _ = parts(config_of("tiny", **write_tiny(tmp_path, f"{HEADER}\n{lines}")))
    rows = dataset.inter_feat
    for user in range(1, 4):
        last = rows[rows["user_id"] == user].gathered()[-1]
        items = dataset.id2token("item_id", last["item_id_list"][: last["item_length"]])
        assert list(items) == [f"i{3 * n + user - 1}" for n in range(8)]


def test_exact_times(tmp_path):
    """RecBole's 32-bit times cannot tell moments of one minute apart; ``exact_time`` can."""
    moments = [1_700_000_040, 1_700_000_000, 1_700_000_020, 1_700_009_999]
    lines = "".join(f"u\ti{n}\t1\t{moment}\n" for n, moment in enumerate(moments))
    orders = {}
    for exact in (False, True):
        dataset, _ = parts(config_of("tiny", **write_tiny(tmp_path, f"{HEADER}\n{lines}"), exact_time=exact))
        last = dataset.inter_feat[-1:].gathered()
        orders[exact] = list(dataset.id2token("item_id", last["item_id_list"][0, :3]))
    assert orders == {False: ["i0", "i1", "i2"], True: ["i1", "i2", "i0"]}


def test_nothing_of_interactions_by_length_is_stored():
    dataset, loaders = parts(config_of(MAX_ITEM_LIST_LENGTH=200))
    for one in (dataset, *(loader._dataset for loader in loaders)):
        columns = one.inter_feat.interaction
        assert all(value.dim() == 1 for value in columns.values()) and END in columns
        assert one.inter_feat.histories.flat is dataset.inter_feat.histories.flat
    batch = loaders[0]._dataset[np.arange(5)]
    assert type(batch) is Interaction and END not in batch and batch["item_id_list"].shape == (5, 200)


def test_rows_behave_like_an_interaction():
    rows = parts(config_of(MAX_ITEM_LIST_LENGTH=5))[0].inter_feat[:40]
    plain = rows.gathered()
    again = torch.tensor([3, 1, 1])
    for ours, theirs in (
        (rows[again], plain[again]),
        (rows[[2, 5]], plain[[2, 5]]),
        (rows[range(4, 9)], plain[4:9]),
        (rows[3:6].repeat(2), plain[3:6].repeat(2)),
        (rows.repeat_interleave(2), plain.repeat_interleave(2)),
        (rows.to("cpu"), plain),
        (rows.cpu(), plain),
    ):
        for name in plain.columns:
            assert torch.equal(ours[name], theirs[name])
    assert set(rows.numpy()) == set(plain.columns) == set(rows) and "item_id_list" in rows
    assert torch.equal(rows.item_id_list, plain.item_id_list) and "item_id_list" in str(rows)
    for one in (rows, plain):
        one.sort(by=["item_id", "user_id"], ascending=[True, False])
    assert torch.equal(rows["item_id_list"], plain["item_id_list"])
    rows.drop("rating_list")
    assert "rating_list" not in rows.gathered() and "rating" in rows
    with pytest.raises(ValueError):
        rows.drop("rating_list")
    with pytest.raises(KeyError):
        rows["rating_list"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 2))
def test_groups_are_those_of_the_loop(keys, held_out):
    theirs = list(Dataset._grouped_index(None, keys))
    groups = Groups(np.array(keys))
    assert [list(rows) for rows in np.split(groups.rows, groups.counts.cumsum()[:-1])] == [list(g) for g in theirs]
    slow = Dataset._split_index_by_leave_one_out(None, theirs, held_out)
    legal = np.minimum(held_out, groups.counts - 1)
    ends = np.stack([groups.counts - np.minimum(left, legal) for left in range(held_out, -1, -1)])
    assert [list(part) for part in groups.parts(ends)] == slow


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.lists(st.floats(width=32, allow_nan=False), max_size=60).map(lambda one: np.array(one, dtype=np.float32)),
        st.lists(st.integers(0, 2**32 - 1), max_size=60).map(lambda one: np.array(one, dtype=np.int64)),
        st.lists(st.integers(-(2**40), 2**40), max_size=60).map(lambda one: np.array(one, dtype=np.int64)),
        st.lists(st.floats(allow_nan=False), max_size=60).map(np.array),
    )
)
def test_stable_order(values):
    values = np.concatenate([values, values[::2]])
    assert np.array_equal(stable_order(values), np.argsort(values, kind="stable"))


@pytest.mark.parametrize("view", [*VIEWS, "newest 1", "newest 3", "newest 40"])
def test_views_of_held_out_histories(view):
    changes = {"MAX_ITEM_LIST_LENGTH": 9}
    _, plain = parts(config_of(**changes))
    _, loaders = parts(config_of(**changes, eval_history=view))
    assert_equal = [torch.equal(a["item_id_list"], b["item_id_list"]) for a, b in zip(plain[0], loaders[0])]
    assert all(assert_equal)  # training is as it was
    moved = 0
    for part in (1, 2):
        ours, theirs = (one[part]._dataset[np.arange(200)] for one in (loaders, plain))
        assert torch.equal(ours["item_id"], theirs["item_id"])
        for row in range(200):
            history = theirs["item_id_list"][row, : theirs["item_length"][row]].tolist()
            shown = ours["item_id_list"][row, : ours["item_length"][row]].tolist()
            assert not ours["item_id_list"][row, len(shown) :].any()
            half = -(-len(history) // 2)
            if view == "shuffled":
                assert sorted(shown) == sorted(history)
                moved += shown != history
            elif view[-1].isdigit():
                assert shown == history[-int(view.split()[1]) :]
            else:
                expected = {"reversed": history[::-1], "newest half": history[-half:], "oldest half": history[:half]}
                assert shown == expected.get(view, history)
    assert (moved > 350) == (view == "shuffled")


@pytest.mark.parametrize("view", ["newest", "newest 0", "newest -2", "sorted"])
def test_views_that_there_are_not(view):
    with pytest.raises(UserError, match=r"eval_history is one of in order, .*, or newest N with a number, not"):
        parts(config_of(eval_history=view))


def test_shuffled_histories_are_even():
    """Every place of a history is as likely at every step; the order is the row's own, whatever the batch."""
    histories = Histories(Interaction({"a": torch.arange(100_000)}), ("a",), {"a_list": "a"}, 5, "n", "shuffled", 7)
    end = torch.arange(5, 50_000)
    places = histories.places(end, torch.full_like(end, 5))[1]
    counts = torch.stack([(places[:, step] - (end - 5)).bincount(minlength=5) for step in range(5)])
    assert (counts.double() / len(end) - 0.2).abs().max() < 0.01
    assert torch.equal(histories.places(end[7:9], torch.tensor([5, 5]))[1], places[7:9])
    assert not torch.equal(replace(histories, seed=8).places(end, torch.full_like(end, 5))[1], places)


EVENTS = "user_id:token\tevent_type:token\tquery:token\ttimestamp:float\n" + "".join(
    f"{user}\tsearch\t{query}\t{time}\n"
    for user, query, time in (("u1", "red", 1.5), ("u0", "blue", 0.5), ("u1", "red", 9), ("u9", "green", 3))
)
BOUGHT = "user_id:token\titem_id:token\tevent_type:token\ttimestamp:float\n" + "".join(
    f"{user}\t{item}\t{kind}\t{time}\n"
    for user, item, kind, time in (
        ("u0", "i1", "view", 0),
        ("u0", "i2", "purchase", 1),
        ("u0", "i3", "view", 2),
        ("u0", "i1", "purchase", 3),
        ("u1", "i3", "purchase", 1),
        ("u1", "i2", "view", 2),
        ("u1", "i1", "purchase", 3),
    )
)


def with_searches(tmp_path, **changes):
    settings = write_tiny(tmp_path, BOUGHT, event=EVENTS) | {"load_col": None, "additional_feat_suffix": ["event"]}
    return parts(config_of("tiny", model="UserEncoder", **settings | changes))[0]


def test_events_with_items_of_their_own(tmp_path):
    """Searches stand in the histories with their own ids; they are no targets, and no items."""
    dataset = with_searches(tmp_path)
    rows = dataset.inter_feat.gathered()
    assert list(dataset.id2token("item_id", np.arange(1, dataset.item_num))) == ["i1", "i2", "i3"]
    assert (rows["item_id"] > 0).all() and dataset.num("query") == 4
    newest = {dataset.id2token("user_id", user): row for row, user in enumerate(rows["user_id"].tolist())}
    texts = {}
    for user, row in newest.items():
        length = rows["item_length"][row]
        lists = {name: rows[f"{name}_list"][row, :length] for name in ("item_id", "event_type", "query")}
        texts[user] = [" ".join(filter(lambda t: t != "[PAD]", dataset.id2token(n, lists[n]))) for n in lists]
    assert texts == {
        "u0": ["i1 i2 i3", "view search purchase view", "blue"],
        "u1": ["i3 i2", "purchase search view", "red"],
    }


def test_kinds_of_event_that_are_recommended(tmp_path):
    dataset = with_searches(tmp_path, target_events=["purchase"])
    rows = dataset.inter_feat
    assert set(dataset.id2token("event_type", rows["event_type"])) == {"purchase"} and len(rows) == 3
    for changes, sentence in (
        ({"target_events": ["buy"]}, "target_events names 'buy'"),
        ({"target_events": ["purchase"], "event_field": "kind"}, "needs event_field"),
        (
            {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "event": ["user_id"]}},
            "needs a column 'timestamp'",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            with_searches(tmp_path, **changes)
    with pytest.raises(UserError, match="SASRec reads items alone"):
        config = dataset.config
        parts(config_of("tiny", **{**config.external_config_dict, "model": "SASRec"}))
