"""``variant: recbole`` is RecBole's DIN: its weights load into ours, and every score and gradient agrees."""

import pytest
import torch
from din_data import write_data
from recbole.data import create_dataset, data_preparation
from recbole.model.layers import Dice as UpstreamDice
from recbole.utils import init_seed

from recbole_persona.config import Config
from recbole_persona.errors import UserError
from recbole_persona.models.din import DIN
from recbole_persona.registry import get_model

torch.set_num_threads(1)

SMALL = {"use_gpu": False, "train_batch_size": 256, "metrics": ["AUC", "LogLoss"], "valid_metric": "AUC"}
SMALL |= {"embedding_size": 6, "mlp_hidden_size": [16, 12], "MAX_ITEM_LIST_LENGTH": 20}
INTER = ["user_id", "item_id", "rating", "timestamp"]
MOVIES = SMALL | {"load_col": {"inter": INTER}, "val_interval": {"user_id": [str(user) for user in range(1, 61)]}}
FEATURES = {"inter": INTER, "item": ["item_id", "release_year", "class"], "user": ["user_id", "age", "gender"]}
NUMBERS = {"inter": INTER, "item": ["item_id", "words", "price", "colour", "brand"], "user": ["user_id", "height"]}
CASES = {
    "ids": ("ml-100k", MOVIES),
    "features": ("ml-100k", MOVIES | {"load_col": FEATURES}),
    "numbers": ("shop", SMALL | {"load_col": NUMBERS, "numerical_features": ["price", "colour"]}),
    "max": ("shop", SMALL | {"load_col": NUMBERS, "pooling_mode": "max"}),
}


def configs(dataset="ml-100k", settings=MOVIES):
    """Of RecBole's DIN and of ours."""
    ours = {"variant": "recbole"}
    return tuple(
        Config(name, dataset, config_dict=settings | more) for name, more in (("recbole:DIN", {}), ("DIN", ours))
    )


def trained(config, steps=15):
    """RecBole's DIN after some steps of Adam, the training batches, and the test loader."""
    init_seed(config["seed"], True)
    train, _, test = data_preparation(config, create_dataset(config))
    theirs = get_model("recbole:DIN")(config, train._dataset)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    batches = [batch for batch, _ in zip(train, range(steps))]
    for batch in batches:
        optimizer.zero_grad()
        theirs.calculate_loss(batch).backward()
        optimizer.step()
    return theirs, train._dataset, batches, test


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """Both models with the same weights, batches and test rows."""
    dataset, settings = CASES[request.param]
    if dataset == "shop":
        settings = settings | {"data_path": str(write_data(tmp_path_factory.mktemp("data")))}
    theirs_config, ours_config = configs(dataset, settings)
    theirs, dataset, batches, test = trained(theirs_config)
    torch.manual_seed(0)
    ours = DIN(ours_config, dataset)
    ours.load_recbole(theirs.state_dict())
    return theirs, ours, batches, test


def test_their_names_and_settings_are_theirs():
    theirs, ours = configs()
    assert get_model("DIN") is DIN and get_model("recbole:DIN") is not DIN
    assert theirs["valid_metric"] == ours["valid_metric"] == "AUC"
    assert theirs["eval_args"] == ours["eval_args"] and theirs["repeatable"] is ours["repeatable"] is True
    defaults = Config("DIN", "ml-100k")
    assert defaults["attention_hidden_size"] == [80, 40] and "GAUC" in defaults["metrics"]
    assert Config("recbole:DIN", "ml-100k")["attention_hidden_size"] is None


def test_training_scores_losses_and_gradients_agree(pair):
    theirs, ours, batches, _ = pair
    theirs.train(), ours.train()
    for batch in batches[:3]:
        losses = [model.calculate_loss(batch) for model in (theirs, ours)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
        gradients = [dict(zip(*_gradients(model, loss))) for model, loss in zip((theirs, ours), losses)]
        table = "embedding_layer.token_embedding_table.item.embedding.weight"
        assert torch.allclose(
            gradients[1]["items.embeddings.0.table.weight"],
            gradients[0][table][: ours.n_items],
            rtol=1e-3,
            atol=1e-7,
        )
        assert torch.allclose(
            gradients[1]["unit.tower.linears.0.weight"],
            gradients[0]["attention.att_mlp_layers.mlp_layers.1.weight"],
            rtol=1e-3,
            atol=1e-7,
        )


def _gradients(model, loss):
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    found = torch.autograd.grad(loss, [value for _, value in named], allow_unused=True)
    return [name for name, _ in named], found


@torch.no_grad()
def test_every_test_score_agrees(pair):
    theirs, ours, _, test = pair
    theirs.eval(), ours.eval()
    ours.load_recbole(theirs.state_dict())
    spread = []
    for batch, *_ in test:
        expected = theirs.predict(batch)
        torch.testing.assert_close(ours.predict(batch), expected, rtol=0, atol=1e-5)
        spread.append(expected)
    assert torch.cat(spread).std() > 1e-3  # they have learned to tell items apart


@torch.no_grad()
def test_full_ranking_agrees_with_their_scores(pair):
    theirs, ours, _, test = pair
    theirs.eval(), ours.eval()
    ours.load_recbole(theirs.state_dict())
    rows = test._dataset[torch.arange(12)]
    scores = ours.full_sort_predict(rows).view(12, -1)
    for number in range(12):
        pairs = rows[[number]].repeat_interleave(ours.n_items)
        pairs["item_id"] = torch.arange(ours.n_items)
        torch.testing.assert_close(scores[number], theirs.predict(pairs), rtol=0, atol=1e-5)


def test_the_activation_of_theirs_is_what_they_call_dice(pair):
    theirs, *_ = pair
    dice = [module for module in theirs.modules() if isinstance(module, UpstreamDice)]
    assert dice and all(not module.alpha.any() and not list(module.parameters()) for module in dice)


def test_weights_of_other_sizes_end_in_a_sentence():
    theirs_config, ours_config = configs()
    theirs, dataset, *_ = trained(theirs_config, steps=0)
    state = theirs.state_dict()
    with pytest.raises(UserError, match="variant: recbole"):
        DIN(Config("DIN", "ml-100k", config_dict=MOVIES), dataset).load_recbole(state)
    ours_config["embedding_size"] = 5
    with pytest.raises(UserError, match="other sizes"):
        DIN(ours_config, dataset).load_recbole(state)
