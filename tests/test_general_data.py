"""General data sets against RecBole's own: the same rows in the same order, the same used items, the same draws."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.sampler.sampler import AbstractSampler, KGSampler, RepeatableSampler, Sampler
from recbole.utils import init_seed
from tiny import HEADER, write_tiny

from recbole_persona.config import Config
from recbole_persona.data.grouped_splits import Groups
from recbole_persona.data.ordering import distinct
from recbole_persona.data.used_ids import UsedIds
from recbole_persona.errors import UserError

OURS = {
    Dataset: ("leave_one_out", "split_by_ratio", "time_based_split", "_filter_by_inter_num"),
    Interaction: ("__getitem__",),
    Sampler: ("get_used_ids",),
    KGSampler: ("get_used_ids",),
    AbstractSampler: ("sample_by_key_ids",),
}
KINDS = "item_id:token\tkind:token\nnone\tk0\n" + "".join(f"i{item}\tk{item % 3}\n" for item in range(38))


@pytest.fixture
def as_recbole(monkeypatch):
    """Calls a function while RecBole's own methods are in place."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            for owner, names in OURS.items():
                for name in names:
                    patch.setattr(owner, name, vars(owner)[name].__wrapped__)
            return function(*arguments)

    return call


def uneven(seed=0, users=25, items=40, rows=400):
    """Interactions of users with 1 to many rows, pairs and times repeated."""
    random = np.random.default_rng(seed)
    who = np.minimum(random.geometric(0.12, rows), users)
    what, when = random.integers(0, items, rows), random.integers(0, rows // 4, rows)
    lines = (f"u{u}\ti{i}\t{1 + n % 5}\t{t}" for n, (u, i, t) in enumerate(zip(who, what, when)))
    return "\n".join([HEADER, *lines]) + "\n"


def parts_of(config):
    init_seed(config["seed"], True)
    dataset = create_dataset(copy.copy(config))
    return dataset, data_preparation(config, dataset)


def assert_same(ours, theirs):
    assert list(ours.columns) == list(theirs.columns) and len(ours) == len(theirs)
    for name in theirs.columns:
        assert ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]), name


SPLITS = [
    {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user"},
    {"split": {"RS": [7, 2, 1]}, "group_by": "none"},
    {"split": {"LS": "valid_and_test"}, "group_by": "user"},
    {"split": {"LS": "valid_only"}, "group_by": "user", "mode": "full"},
    {"split": {"LS": "test_only"}, "group_by": "user", "mode": "full"},
    {"split": {"TS": [0.6, 0.2, 0.2]}, "group_by": "user"},
]


@pytest.mark.parametrize("order", ["RO", "TO"])
@pytest.mark.parametrize("split", SPLITS, ids=lambda split: str(split["split"]))
def test_parts_and_draws_are_those_of_recbole(tmp_path, as_recbole, split, order):
    written = write_tiny(tmp_path, uneven(), item=KINDS)
    values = written | {
        "eval_args": {"order": order, "mode": "full", **split},
        "train_neg_sample_args": {"sample_num": 3},
    }
    config = Config("BPR", "tiny", config_dict=values)
    dataset, ours = parts_of(config)
    upstream, theirs = as_recbole(parts_of, config)
    assert_same(dataset.inter_feat, upstream.inter_feat)
    for mine, his in zip(ours, theirs):
        assert_same(mine._dataset.inter_feat, his._dataset.inter_feat)
        if his._sampler is not None:
            assert list(mine._sampler.used_ids) == list(his._sampler.used_ids)
    for distribution in ("uniform", "popularity"):
        drawn = []
        for train in (ours[0], theirs[0]):
            train._sampler.set_distribution(distribution)
            init_seed(5, True)
            batches = [*train, *train] if train is ours[0] else as_recbole(lambda: [*theirs[0], *theirs[0]])
            drawn.append((batches, np.random.rand()))  # the generator stands where it stood
        assert drawn[0][1] == drawn[1][1] and len(drawn[0][0]) == len(drawn[1][0])
        for mine, his in zip(drawn[0][0], drawn[1][0]):
            assert_same(mine, his)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(2, 6), st.integers(1, 3))
def test_used_ids_are_recboles_sets(data, n_keys, n_values, n_phases):
    one = st.tuples(st.integers(0, n_keys - 1), st.integers(0, n_values - 1))
    phases = [np.array(data.draw(st.lists(one, max_size=12)), dtype=np.int64).reshape(-1, 2) for _ in range(n_phases)]
    used = UsedIds.by_phase(*([part[:, side] for part in phases] for side in (0, 1)), n_keys, n_values)
    sets = [set() for _ in range(n_keys)]
    keys, values = (grid.ravel() for grid in np.indices((n_keys, n_values)))
    for mine, part in zip(used, phases):
        for key, value in part.tolist():
            sets[key].add(value)
        assert [mine[key] for key in range(n_keys)] == list(mine) == sets and len(mine) == n_keys
        assert mine[-1] == sets[-1] and list(mine[keys]) == [sets[key] for key in keys]
        assert mine.counts().tolist() == [len(one) for one in sets]
        assert mine.holds(keys, values).tolist() == [value in sets[key] for key, value in zip(keys, values)]
    for wrong in (-1, n_keys):
        with pytest.raises(IndexError):
            used[0].holds(np.array([0, wrong]), np.array([0, 0]))
    with pytest.raises(IndexError):
        used[0][n_keys]


def test_a_user_of_all_items_and_one_that_is_none(tmp_path):
    text = HEADER + "\n" + "".join(f"u{u}\ti{i}\t1\t{i}\n" for u in range(3) for i in range(6) if u or i < 4)
    config = Config("BPR", "tiny", config_dict=write_tiny(tmp_path, text))
    _, (train, *_) = parts_of(config)  # refused is not the user, but to draw for it
    with pytest.raises(
        UserError, match=r"No item is left to be a negative for user 'u[12]', who has interacted with all 6 items"
    ):
        list(train)
    _, (train, *_) = parts_of(Config("BPR", "tiny", config_dict=write_tiny(tmp_path, uneven())))
    with pytest.raises(ValueError, match=r"user_id \[99\] not exist"):
        train._sampler.sample_by_user_ids(np.array([1, 99]), None, 1)


@pytest.mark.parametrize(
    "index",
    [
        np.array([4, 0, 0, -1]),
        torch.tensor([4, 0, 0, -1]),
        np.array([], dtype=np.int64),
        np.array([]),
        np.array([True, False, True, False, True]),
        torch.tensor([True, False, True, False, True]),
        np.array([1, 2], dtype=np.int32),
        np.array([1, 0, 1], dtype=np.uint8),
        np.array(3),
        torch.tensor(3),
        [3, 1],
        range(1, 4),
        slice(None, None, 2),
        2,
    ],
    ids=repr,
)
def test_rows_are_those_that_recbole_takes(as_recbole, index):
    weights = torch.rand(5, requires_grad=True)
    table = Interaction({"id": torch.arange(5), "list": torch.arange(10).view(5, 2), "of": torch.rand(5)})
    assert_same(table[index], as_recbole(table.__class__.__getitem__, table, index))
    assert Interaction({"of": weights})[index]["of"].requires_grad
    kept = table["id"].clone()
    if np.ndim(index) == 1 and len(index):
        table[index]["id"][...] = 7  # rows are a copy
        assert torch.equal(table["id"], kept)


def test_wrong_rows_are_refused():
    for index in (np.array([5]), torch.tensor([0, -6])):
        with pytest.raises(IndexError):
            Interaction({"id": torch.arange(5)})[index]


@pytest.mark.parametrize("intervals", [("[0,inf)", None), (None, None), ("[3,inf)", "[2,inf)"), ("[2,200]", "[0,inf)")])
def test_filters_leave_the_rows_that_recbole_leaves(tmp_path, as_recbole, intervals):
    values = write_tiny(tmp_path, uneven(), item=KINDS)
    for one, interval in zip(("user", "item"), intervals):
        values[f"{one}_inter_num_interval"] = interval
    config = Config("Pop", "tiny", config_dict=values)
    ours, theirs = create_dataset(config), as_recbole(create_dataset, config)
    assert ours.inter_feat.equals(theirs.inter_feat) and ours.item_feat.equals(theirs.item_feat)
    assert ours.field2token_id == theirs.field2token_id


def test_a_popularity_sampler_and_repeatable_items(tmp_path, as_recbole):
    """Samplers that keep sets of their own draw as before."""
    dataset, _ = parts_of(Config("BPR", "tiny", config_dict=write_tiny(tmp_path, uneven())))
    drawn = []
    for call in (lambda function: function(), as_recbole):
        np.random.seed(3)
        sampler = RepeatableSampler(["train"], dataset, "popularity").set_phase("train")
        drawn.append(call(lambda: sampler.sample_by_user_ids(np.arange(9), np.arange(1, 10), 4)))  # noqa: B023
    assert torch.equal(*drawn)


def test_a_graph_sampler(as_recbole):
    random = np.random.default_rng(0)
    heads, tails = random.integers(1, 9, (2, 30))
    graph = SimpleNamespace(
        head_entity_field="head", tail_entity_field="tail", head_entities=heads, tail_entities=tails, entity_num=9
    )
    drawn = []
    for call in (lambda function: function(), as_recbole):
        np.random.seed(3)
        sampler = call(lambda: KGSampler(graph, "popularity"))
        drawn.append((list(sampler.used_ids), call(lambda: sampler.sample_by_entity_ids(heads, 2))))  # noqa: B023
    assert drawn[0][0] == drawn[1][0] and torch.equal(drawn[0][1], drawn[1][1])
    graph.head_entities, graph.tail_entities = np.ones(8, dtype=np.int64), np.arange(1, 9)
    with pytest.raises(ValueError, match="Some head entities have relation with all entities"):
        KGSampler(graph)


@given(st.lists(st.integers(-5, 5)))
def test_distinct(values):
    assert distinct(np.array(values, dtype=np.int64)).tolist() == sorted(set(values))


def test_nobody_has_rows():
    groups = Groups(np.array([], dtype=np.int64))
    assert [len(part) for part in groups.parts(np.empty((3, 0), dtype=np.int64))] == [0, 0, 0]
