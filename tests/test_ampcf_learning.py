"""What AMPCF learns: more than popularity, personas of new users, one persona for what was chosen."""

import math

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import init_seed
from small_ampcf import SWITCHES, Small, small_model

from recbole_persona.data.sampling import NegativeSampler, SampledTrainLoader, negative_weights
from recbole_persona.layers.personas import VARIANTS, mixture_entropy
from recbole_persona.models.ampcf import AMPCF
from recbole_persona.registry import get_trainer

torch.set_num_threads(1)

# New users

HISTORIES = [[3, 5, 7], torch.tensor([2, 11]), [], [29, 1, 3, 14, 15]]


@pytest.mark.parametrize("variant, attention, n_personas", SWITCHES)
@pytest.mark.parametrize("negatives", [None, {"distribution": "popularity", "sample_num": 3, "alpha": 0.5}])
def test_folding_in_depends_on_the_history_and_the_seed_alone(variant, attention, n_personas, negatives):
    settings = {"variant": variant, "attention": attention, "n_personas": n_personas}
    model = small_model(**settings, train_neg_sample_args=negatives)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        torch.manual_seed(1)
        personas = model.fold_in(HISTORIES, steps=5)
        torch.manual_seed(2)
        single = torch.cat([model.fold_in([history], steps=5) for history in HISTORIES])
    assert personas.shape == (4, n_personas, 6) and not personas.requires_grad
    torch.testing.assert_close(personas, single)
    assert not torch.equal(model.fold_in(HISTORIES, steps=5, seed=7), personas)
    assert not personas[2].any() and personas[[0, 1, 3]].any(dim=-1).all()
    torch.testing.assert_close(model.score_all(personas)[2], model.item_bias.detach())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.fold_in([[]]).shape == (1, n_personas, 6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_in_reaches_the_loss_that_training_reached(variant):
    model = small_model(scale=0.1, variant=variant)
    rows = Interaction({"user_id": Small.users, "item_id": Small.items})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(400):
        optimizer.zero_grad()
        loss = model.calculate_loss(rows)
        loss.backward()
        optimizer.step()
    histories = [Small.items[Small.users == user] for user in range(1, 11)]
    with torch.no_grad():
        model.persona_embedding.weight[1:11] = model.fold_in(histories, steps=400).flatten(1)
    assert model.calculate_loss(rows).item() < float(loss.detach()) + 0.01


def test_folding_in_agrees_with_training_on_movielens():
    """100 users left out of training and folded in: at least .9 of the NDCG@10 and .6 of the top 10."""
    settings = {"use_gpu": False, "embedding_size": 32, "n_personas": 2}
    config = Config(model="AMPCF", dataset="ml-100k", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    held = torch.randperm(train._dataset.user_num - 1, generator=torch.Generator().manual_seed(0))[:100] + 1
    without = train._dataset.copy(train._dataset.inter_feat[~torch.isin(train.users, held)])

    with_all = trained(config, train, epochs=12)
    scores = with_all.score_all(with_all.personas(held))
    without_held = trained(config, SampledTrainLoader(config, without, None, shuffle=True), epochs=12)
    folded = without_held.score_all(without_held.fold_in([train.items[train.users == user] for user in held]))

    seen = torch.zeros(len(held), scores.shape[1], dtype=torch.bool)
    wanted = seen.clone()
    for number, user in enumerate(held):
        seen[number, train.items[train.users == user]] = True
        wanted[number, valid.uid2positive_item[user]] = True
    lists = [values.masked_fill(seen, -torch.inf)[:, 1:].topk(10, dim=1).indices + 1 for values in (scores, folded)]
    overlap = (lists[0].unsqueeze(2) == lists[1].unsqueeze(1)).any(dim=2).double().mean()
    discounts = 1 / torch.log2(torch.arange(10) + 2.0)
    best = discounts.cumsum(0)[wanted.sum(dim=1).clamp(1, 10) - 1]
    ndcg = [((torch.take_along_dim(wanted, top, 1) * discounts).sum(dim=1) / best).mean() for top in lists]
    assert ndcg[1] > 0.9 * ndcg[0] > 0.15
    assert overlap > 0.6


def trained(config, loader, epochs):
    """A model after some epochs of Adam."""
    torch.manual_seed(config["seed"])
    model = AMPCF(config, loader._dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    for _ in range(epochs):
        for rows in loader:
            optimizer.zero_grad()
            model.calculate_loss(rows).backward()
            optimizer.step()
    return model


# Learning


def test_it_learns_more_than_popularity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # RecBole writes log_tensorboard/ where it stands
    settings = {"use_gpu": False, "show_progress": False, "checkpoint_dir": str(tmp_path)}
    config = Config(model="AMPCF", dataset="ml-100k", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], "AMPCF")(config, AMPCF(config, train._dataset))
    before = trainer.evaluate(valid, load_best_model=False)["ndcg@10"]
    losses = [trainer._train_epoch(train, epoch) for epoch in range(5)]
    after = trainer.evaluate(valid, load_best_model=False)["ndcg@10"]
    assert losses == sorted(losses, reverse=True)
    popular = torch.bincount(train.items, minlength=trainer.model.n_items)
    trainer.model.score_all = lambda personas, mixture: popular.float().repeat(len(personas), 1)
    assert before < trainer.evaluate(valid, load_best_model=False)["ndcg@10"] < after


class Tastes:
    """80 users, each with two of three tastes: 12 of the 30 items of both."""

    generator = torch.Generator().manual_seed(0)
    first = torch.rand(80, 3, generator=generator).argsort(dim=1)[:, :2, None] * 30 + 1
    items = (first + torch.rand(80, 2, 30, generator=generator).argsort(dim=2)[:, :, :12]).flatten()
    users = torch.arange(1, 81).repeat_interleave(24)
    inter_feat = {"user_id": users, "item_id": items}

    def num(self, field):
        return {"user_id": 81, "item_id": 91}[field]


def test_entropy_falls_on_positives_more_than_on_negatives():
    """The trend of the authors' run: one persona speaks for what was chosen, several for what was not."""
    negatives = {"distribution": "uniform", "sample_num": 4}
    settings = {"embedding_size": 8, "train_neg_sample_args": negatives, "reg_weight": 0.02}
    weights = negative_weights(Tastes.items, 91, "uniform", 1.0)
    sampler = NegativeSampler(Tastes.users, Tastes.items, 81, 91, weights)

    def entropies(strength):
        config = {
            "use_gpu": False,
            "n_personas": 3,
            "alpha": 0.5,
            "lambda_p": strength,
            "lambda_n": strength,
            **settings,
        }
        torch.manual_seed(0)
        model = AMPCF(Config(model="AMPCF", dataset="ml-100k", config_dict=config), Tastes())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(120):
            negative = sampler.draw(Tastes.users, torch.rand(len(Tastes.users), 4, dtype=torch.float64))
            rows = {"user_id": Tastes.users, "item_id": Tastes.items, "neg_item_id": negative}
            optimizer.zero_grad()
            model.calculate_loss(Interaction(rows)).backward()
            optimizer.step()
        with torch.no_grad():
            personas = model.personas(Tastes.users)
            weights = [model.weights_for(personas, item).unsqueeze(2) for item in (Tastes.items, negative[:, 0])]
        return [float(mixture_entropy(weight).mean()) for weight in weights]

    (plain_positive, plain_negative), (positive, negative) = entropies(0.0), entropies(1.0)
    assert math.log(3) > plain_negative > plain_positive > positive
    assert negative - positive > plain_negative - plain_positive > 0.1
