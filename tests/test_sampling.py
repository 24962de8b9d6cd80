"""The training loader: its batches, and negatives with RecBole's distribution that are never a user's own items."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.sampler import Sampler
from recbole.utils import init_seed
from scipy.stats import chisquare

from recbole_persona.data.sampling import NegativeSampler, SampledTrainLoader, negative_weights
from recbole_persona.errors import UserError
from recbole_persona.registry import get_model

torch.set_num_threads(1)


def prepare(**settings):
    """Loaders of ml-100k by RecBole's own steps."""
    config = Config(model="AMPCF", dataset="ml-100k", config_dict={"use_gpu": False, **settings})
    init_seed(config["seed"], config["reproducibility"])
    return config, data_preparation(config, create_dataset(config))[0]


def negatives(distribution="uniform", sample_num=1, **others):
    return {"distribution": distribution, "sample_num": sample_num, **others}


@pytest.fixture(scope="module")
def dataset():
    """The training part of ml-100k."""
    return prepare()[1]._dataset


@pytest.fixture(scope="module")
def movielens(dataset):
    """Its users and items, and the numbers of ids."""
    rows = dataset.inter_feat
    return rows[dataset.uid_field], rows[dataset.iid_field], dataset.user_num, dataset.item_num


def loader_of(dataset, train_neg_sample_args, **settings):
    settings = {"use_gpu": False, "train_neg_sample_args": train_neg_sample_args, **settings}
    config = Config(model="AMPCF", dataset="ml-100k", config_dict=settings)
    return SampledTrainLoader(config, dataset, None, shuffle=config["shuffle"])


# The sampler


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_draws_have_the_probabilities_of_a_slow_sampler(data):
    n_users, n_items = data.draw(st.integers(2, 5)), data.draw(st.integers(3, 9))
    pairs = data.draw(st.lists(st.tuples(st.integers(1, n_users - 1), st.integers(1, n_items - 1)), min_size=1))
    users, items = torch.tensor(pairs).T
    distribution, alpha = data.draw(st.sampled_from([("uniform", 1.0), ("popularity", 1.0), ("popularity", 0.3)]))
    weights = negative_weights(items, n_items, distribution, alpha)
    sampler = NegativeSampler(users, items, n_users, n_items, weights)
    user = int(users[0])
    own = {item for u, item in pairs if u == user}
    allowed = np.array([0.0 if i in own else float(weights[i]) for i in range(n_items)])
    assert (sampler.free[user] == 0) == (allowed.sum() == 0)
    if allowed.sum():
        numbers = (torch.arange(20_000, dtype=torch.float64) / 20_000)[:, None]  # evenly over [0, 1)
        drawn = sampler.draw(torch.full((20_000,), user), numbers).flatten()
        shares = np.bincount(drawn, minlength=n_items) / 20_000
        np.testing.assert_allclose(shares, allowed / allowed.sum(), atol=1e-4)


@pytest.mark.parametrize("distribution, alpha", [("uniform", 1.0), ("popularity", 1.0), ("popularity", 0.5)])
def test_distribution_is_that_of_recboles_sampler(movielens, dataset, distribution, alpha):
    """Chi-square of both samplers against the exact probabilities, for users with a long and a middling history."""
    users, items, n_users, n_items = movielens
    weights = negative_weights(items, n_items, distribution, alpha)
    ours = NegativeSampler(users, items, n_users, n_items, weights)
    theirs = Sampler(["train"], [dataset], distribution, alpha).set_phase("train")
    numbers = torch.Generator().manual_seed(0)
    np.random.seed(0)
    by_length = torch.bincount(users, minlength=n_users).argsort(descending=True)
    for user in (by_length[0], by_length[400]):
        expected = weights.numpy().copy()
        expected[items[users == user]] = 0
        n = 100_000
        asked = torch.full((n,), int(user))
        drawn = ours.draw(asked, torch.rand(n, 1, dtype=torch.float64, generator=numbers)).flatten()
        for sample in (drawn, theirs.sample_by_user_ids(asked.numpy(), None, 1)):
            counts = np.bincount(sample, minlength=n_items)
            assert not counts[expected == 0].any()
            possible = expected > 0
            shares = expected[possible] / expected.sum()
            frequent = shares * n >= 5
            seen = np.append(counts[possible][frequent], counts[possible][~frequent].sum())
            wanted = np.append(shares[frequent], shares[~frequent].sum()) * n
            assert chisquare(seen[wanted > 0], wanted[wanted > 0]).pvalue > 1e-4


def test_never_a_positive(movielens):
    users, items, n_users, n_items = movielens
    seen = torch.zeros(n_users, n_items, dtype=torch.bool)
    seen[users, items] = True
    for distribution, alpha in (("uniform", 1.0), ("popularity", 2.0)):
        weights = negative_weights(items, n_items, distribution, alpha)
        sampler = NegativeSampler(users, items, n_users, n_items, weights)
        drawn = sampler.draw(users, torch.rand(len(users), 8, dtype=torch.float64))
        edge = sampler.draw(users, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64).expand(len(users), 2))
        for negative in (drawn, edge):
            assert not seen[users[:, None], negative].any()
            assert negative.min() >= 1 and negative.max() < n_items


def test_memory_is_that_of_the_interactions(movielens):
    users, items, n_users, n_items = movielens
    sampler = NegativeSampler(users, items, n_users, n_items, negative_weights(items, n_items, "uniform", 1.0))
    size = sum(value.nbytes for value in vars(sampler).values() if isinstance(value, np.ndarray))
    assert size <= 16 * (len(users) + n_users + n_items + 3)


# The loader


def rows_of(loader):
    """Every (user, item) that an epoch brings, in order, and its negatives."""
    batches = list(loader)
    pairs = torch.cat([torch.stack([batch["user_id"], batch["item_id"]], dim=1) for batch in batches])
    return pairs, [batch["neg_item_id"] for batch in batches if "neg_item_id" in batch]


def as_sorted(pairs):
    return pairs[torch.from_numpy(np.lexsort(pairs.T.numpy()))]


def test_our_loader_is_recboles_choice_for_our_model():
    _, train = prepare()
    assert type(train) is SampledTrainLoader and train.dataset is train._dataset


@pytest.mark.parametrize("sample_num, batch_size", [(1, 2048), (4, 1000), (300, 128)])
def test_an_epoch_is_every_interaction_once_with_its_negatives(dataset, sample_num, batch_size):
    train = loader_of(dataset, negatives(sample_num=sample_num), train_batch_size=batch_size)
    rows = max(batch_size // sample_num, 1)
    batches = [next(iter(train)) for _ in range(3)]
    assert all(batch["neg_item_id"].shape == (rows, sample_num) and len(batch) == rows for batch in batches)
    assert len(train) == -(-len(train._dataset) // rows)
    if sample_num < 300:
        pairs, _ = rows_of(train)
        assert torch.equal(as_sorted(pairs), as_sorted(torch.stack([train.users, train.items], dim=1)))


def test_without_negatives_a_batch_is_whole_users(dataset):
    train = loader_of(dataset, None, train_batch_size=2048)
    batches = list(train)
    assert len(batches) == len(train)
    assert set(batches[0].columns) == {"user_id", "item_id"}
    owners = [set(batch["user_id"].tolist()) for batch in batches]
    assert sum(map(len, owners)) == len(set.union(*owners)) == len(train.active)
    assert 1800 < np.mean([len(batch) for batch in batches[:-1]]) < 2300
    pairs = torch.cat([torch.stack([batch["user_id"], batch["item_id"]], dim=1) for batch in batches])
    assert torch.equal(as_sorted(pairs), as_sorted(torch.stack([train.users, train.items], dim=1)))


@pytest.mark.parametrize("arguments", [None, negatives(sample_num=3), negatives("popularity", 2, alpha=0.75)])
def test_the_generator_decides_everything(dataset, arguments):
    """Two epochs differ; from a kept state of the generator the second comes again."""
    train = loader_of(dataset, arguments)
    first = rows_of(train)
    state = train.generator.get_state()
    second = rows_of(train)
    assert not torch.equal(first[0], second[0])
    np.random.seed(7)
    torch.manual_seed(7)
    train.generator.set_state(state)
    again = rows_of(train)
    assert torch.equal(again[0], second[0])
    assert all(map(torch.equal, again[1], second[1]))


def test_without_shuffling_the_order_is_that_of_the_data(dataset):
    train = loader_of(dataset, negatives(), shuffle=False)
    assert torch.equal(rows_of(train)[0], torch.stack([train.users, train.items], dim=1))


def test_dynamic_and_repeatable_sampling_are_recboles():
    dynamic = negatives(sample_num=2, dynamic=True, candidate_num=3)
    config, train = prepare(train_neg_sample_args=dynamic, embedding_size=8, train_batch_size=512)
    model = get_model("AMPCF")(config, train._dataset)
    train.get_model(model)
    batch = next(iter(train))
    assert batch["neg_item_id"].shape == (256, 2) and batch["user_id"].shape == (256,)
    assert model.training
    seen = torch.zeros(model.n_users, model.n_items, dtype=torch.bool)
    seen[train.users, train.items] = True
    assert not seen[batch["user_id"][:, None], batch["neg_item_id"]].any()
    chosen = torch.take_along_dim(model.score_all(model.personas(batch["user_id"])), batch["neg_item_id"], 1)
    anyone = torch.take_along_dim(
        model.score_all(model.personas(batch["user_id"])), torch.randint(1, 1600, (256, 2)), 1
    )
    assert chosen.mean() > anyone.mean()  # the hardest of three
    _, train = prepare(train_neg_sample_args=negatives(sample_num=2), repeatable=True)
    assert next(iter(train))["neg_item_id"].shape == (1024, 2)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (negatives(sample_num=0), "sample_num"),
        (negatives(sample_num="many"), "sample_num"),
        (negatives(dynamic=True), "candidate_num"),
    ],
)
def test_settings_that_mean_nothing_end_in_a_sentence(dataset, arguments, words):
    with pytest.raises(UserError, match=words):
        loader_of(dataset, arguments)


def test_a_user_with_every_item_is_named(tmp_path):
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"all\ti{item}\t{item}" for item in range(10)]
    lines += [f"u{user}\ti{user + item}\t{item}" for user in range(5) for item in range(4)]
    Path(tmp_path / "tiny").mkdir()
    Path(tmp_path / "tiny" / "tiny.inter").write_text("\n".join(lines))
    options = {"data_path": str(tmp_path), "eval_args": {"split": {"RS": [1, 0, 0]}}}
    config = Config(
        model="AMPCF",
        dataset="tiny",
        config_dict={"use_gpu": False, "train_neg_sample_args": negatives(), **options},
    )
    dataset = create_dataset(config)
    (train, _, _) = dataset.build()
    with pytest.raises(UserError, match="'all'"):
        SampledTrainLoader(config, train, None, shuffle=True)
