"""DIN against slow loops in float64, its switches, its full ranking, its regularisation."""

import math

import pytest
import torch
from din_data import EVERYTHING, model_of, parts, write_data
from hypothesis import HealthCheck, given, settings, strategies
from recbole.data.interaction import Interaction

from recbole_persona.data.frequencies import history_counts
from recbole_persona.errors import UserError
from recbole_persona.layers import activation_unit
from recbole_persona.layers.dice import EPSILON
from recbole_persona.models import din
from recbole_persona.models.din import GAPS

torch.set_num_threads(1)

CASES = {
    "defaults": {},
    "ids": {"item_fields": ["item_id"], "user_fields": [], "item_bias": False, "attention_hidden_size": [9, 5]},
    "everything": EVERYTHING | {"attention_activation": "dice", "user_fields": ["user_id", "group", "height"]},
    "softmax": {"attention_softmax": True, "attention_scale": True, "behaviour_fields": ["rating"]},
    "dice": {"attention_activation": "dice", "mlp_activation": "relu", "attention_scale": True},
    "prelu": {"attention_activation": "prelu", "mlp_activation": "prelu", "mlp_norm": False, "pooling_mode": "sum"},
    "mean": {"pooling": "mean", "pooling_mode": "max", "behaviour_fields": ["device"]},
    "recbole": {"variant": "recbole"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=CASES)
def case(request, folder):
    """A model in float64, settings, a training batch, and rows of test users with an empty history among them."""
    config, train, _, test = parts(folder, **CASES[request.param])
    rows = test._dataset[torch.arange(len(test._dataset))]
    rows["item_length"][3] = 0
    for name in rows.interaction:
        if name.endswith("_list"):
            rows[name][3] = 0
    return model_of(config, train), next(iter(train)), rows, train


# --- slow loops -------------------------------------------------------------------------------------------------------


def slow_column(embedding, value):
    """Vector of one value of a column."""
    column, table = embedding.column, embedding.table.weight
    pairs = value.view(-1, 2).tolist() if column.number else [(1.0, token) for token in value.view(-1).tolist()]
    vectors = [number * table[int(index)] for number, index in pairs if not column.several or index]
    if not column.several:
        return vectors[0]
    if embedding.pooling == "max" and vectors:
        return torch.stack(vectors).amax(dim=0)
    total = sum(vectors, torch.zeros(table.shape[1], dtype=table.dtype))
    return total / len(vectors) if embedding.pooling == "mean" and vectors else total


def slow_thing(table, number):
    values = [getattr(table, f"values_{n}")[number] for n in range(len(table.names))]
    return torch.cat([slow_column(embedding, value) for embedding, value in zip(table.embeddings, values)])


def slow_activation(module, s):
    """Evaluation's value of an activation for a vector."""
    name = type(module).__name__
    if name == "Dice":
        p = 1 / (1 + torch.exp(-(s - module.running_mean) / torch.sqrt(module.running_var + EPSILON)))
        return p * s + (1 - p) * module.alpha * s
    if name == "PReLU":
        return torch.where(s > 0, s, module.weight * s)
    if name == "ReLU":
        return s.clamp(min=0)
    return (s if name == "SiLU" else 1) / (1 + torch.exp(-s))


def slow_tower(tower, inputs):
    for linear, norm, activation in zip(tower.linears, tower.norms, tower.activations):
        sums = linear.weight @ inputs + linear.bias
        if not isinstance(norm, torch.nn.Identity):
            sums = (sums - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps) * norm.weight + norm.bias
        inputs = slow_activation(activation, sums)
    return tower.output.weight[0] @ inputs + tower.output.bias[0]


def slow_behaviours(model, row):
    """Vectors of the behaviours of one row of a batch."""
    behaviours = []
    for step in range(int(row["item_length"])):
        vector = [slow_thing(model.items, int(row["item_id_list"][step]))]
        for name, embedding in zip(model.behaviour_fields, model.behaviour):
            vector.append(slow_column(embedding, row[f"{name}_list"][step]))
        if model.settings["time_gap"]:
            gap = max(float(row["timestamp"] - row["timestamp_list"][step]), 0)
            bucket = min(1 + int(math.log2(1 + gap)), GAPS - 1)
            vector.append(model.behaviour[-1].table.weight[bucket])
        behaviours.append(torch.cat(vector))
    return behaviours


def slow_weights(model, q, behaviours):
    if model.settings["pooling"] == "mean":
        return [1 / len(behaviours) for _ in behaviours]
    weights = []
    for behaviour in behaviours:
        k, own = behaviour[: len(q)], behaviour[len(q) :]
        weights.append(slow_tower(model.unit.tower, torch.cat([q, k, q - k, q * k, own])))
        if model.settings["attention_scale"]:
            weights[-1] = weights[-1] / math.sqrt(len(q))
    if model.settings["attention_softmax"]:
        total = sum(weight.exp() for weight in weights)
        weights = [weight.exp() / total for weight in weights]
    return weights


def slow_score(model, row):
    item = int(row["item_id"])
    q, behaviours = slow_thing(model.items, item), slow_behaviours(model, row)
    width = len(q) + sum(embedding.table.embedding_dim for embedding in model.behaviour)
    pooled = torch.zeros(width, dtype=q.dtype)
    for weight, behaviour in zip(slow_weights(model, q, behaviours), behaviours):
        pooled = pooled + weight * behaviour
    beside = [slow_thing(model.users, int(row["user_id"]))] if model.users is not None else []
    beside += [slow_column(embedding, row[name]) for name, embedding in zip(model.context_fields, model.context)]
    logit = slow_tower(model.tower, torch.cat([pooled, q, pooled[: len(q)] * q, *beside]))
    return torch.sigmoid(logit + (model.item_bias[item] if model.item_bias is not None else 0))


def pairs_of(model, rows, items=None):
    """Every row with every item."""
    items = torch.arange(model.n_items) if items is None else items
    pairs = rows.repeat_interleave(len(items))
    pairs[model.ITEM_ID] = items.repeat(len(rows))
    return pairs


# --- scores -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_scores_are_those_of_slow_loops(case):
    model, _, rows, _ = case
    model.eval()
    expected = torch.stack(
        [slow_score(model, {name: rows[name][n] for name in rows.columns}) for n in range(len(rows))]
    )
    torch.testing.assert_close(model.predict(rows), expected, rtol=0, atol=1e-10)
    assert expected.std() > 1e-4


@torch.no_grad()
def test_full_ranking_is_predict_on_every_pair(case):
    model, _, rows, _ = case
    model.eval()
    expected = model.predict(pairs_of(model, rows)).view(len(rows), -1)
    torch.testing.assert_close(model.full_sort_predict(rows).view(len(rows), -1), expected, rtol=0, atol=1e-10)
    single = torch.stack([model.full_sort_predict(rows[[number]]) for number in range(len(rows))])
    torch.testing.assert_close(single, expected, rtol=0, atol=1e-10)
    model.float()
    torch.testing.assert_close(model.full_sort_predict(rows).view(len(rows), -1).double(), expected, rtol=0, atol=1e-5)
    model.double()


@torch.no_grad()
def test_tiles_and_parts_change_nothing(case, monkeypatch):
    model, _, rows, _ = case
    model.eval()
    whole, pairs = model.full_sort_predict(rows), pairs_of(model, rows, torch.arange(5))
    predicted = model.predict(pairs)
    monkeypatch.setitem(din.SCORING_TILE, "cpu", 150)
    monkeypatch.setitem(activation_unit.TILE, "cpu", 100)
    monkeypatch.setattr(din, "HELD", 300)
    monkeypatch.setattr(din, "CANDIDATES", 7)
    monkeypatch.setattr(din, "PART", 200)
    torch.testing.assert_close(model.full_sort_predict(rows), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.predict(pairs), predicted, rtol=0, atol=1e-12)


histories = strategies.lists(
    strategies.lists(strategies.tuples(strategies.integers(1, 40), strategies.integers(1, 5)), max_size=6),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module", params=["softmax", "everything", "ids"])
def any_model(request, folder):
    config, train, *_ = parts(folder, **CASES[request.param])
    return model_of(config, train).eval()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories)
def test_any_history_ranks_as_it_is_predicted(any_model, users):
    """Repeated items, equal histories, empty ones."""
    rows = rows_of(users)
    with torch.no_grad():
        expected = any_model.predict(pairs_of(any_model, rows))
        torch.testing.assert_close(any_model.full_sort_predict(rows), expected, rtol=0, atol=1e-10)
    assert torch.isfinite(expected).all()


def rows_of(users):
    """Rows of given histories of (item, rating)."""
    length = torch.tensor([len(history) for history in users])
    lists = torch.zeros(len(users), 6, 2, dtype=torch.int64)
    for number, history in enumerate(users):
        lists[number, : len(history)] = torch.tensor(history).view(-1, 2)
    rating = torch.stack([lists[..., 1].float(), (lists[..., 1] > 0).float()], dim=-1)
    return Interaction(
        {
            "user_id": torch.arange(len(users)) + 1,
            "device": torch.ones(len(users), dtype=torch.int64),
            "timestamp": torch.full((len(users),), 100.0),
            "item_id_list": lists[..., 0],
            "rating_list": rating,
            "device_list": lists[..., 1].clamp(max=3),
            "timestamp_list": lists[..., 1] * 20.0,
            "item_length": length,
        }
    )


# --- training ---------------------------------------------------------------------------------------------------------


def padded_logits(model, batch):
    """The whole in padded form, Dice's statistics those of the valid places: what packing must not change."""
    length, items = batch["item_length"], batch["item_id_list"]
    target = model.items(batch["item_id"])
    parts = [model.items(items)]
    for name, embedding in zip(model.behaviour_fields, model.behaviour):
        parts.append(embedding(batch[f"{name}_list"]))
    if model.settings["time_gap"]:
        gap = (batch["timestamp"].unsqueeze(1) - batch["timestamp_list"]).clamp(min=0)
        parts.append(model.behaviour[-1]((1 + gap).log2().long().add(1).clamp(max=GAPS - 1)))
    keys = torch.cat(parts, dim=2)  # (B, L, d + e)
    inside = torch.arange(items.shape[1]) < length.unsqueeze(1)
    q, k = target.unsqueeze(1).expand(-1, items.shape[1], -1), keys[..., : target.shape[1]]
    if model.unit is None:
        weights = inside.double() / length.clamp(min=1).unsqueeze(1)
    else:
        hidden = torch.cat([q, k, q - k, q * k, keys[..., target.shape[1] :]], dim=2)
        tower = model.unit.tower
        for linear, activation in zip(tower.linears, tower.activations):
            sums = linear(hidden)
            hidden = torch.zeros_like(sums).masked_scatter(inside.unsqueeze(2), activation(sums[inside]))
        weights = tower.output(hidden).squeeze(2) / model._divisor
        if model.settings["attention_softmax"]:
            weights = weights.masked_fill(~inside, -1e30).softmax(dim=1)
        weights = weights.masked_fill(~inside, 0)
    pooled = torch.einsum("bl,ble->be", weights.double(), keys)
    beside = [model.users(batch["user_id"])] if model.users is not None else []
    beside += [embedding(batch[name]) for name, embedding in zip(model.context_fields, model.context)]
    logits = model.tower(torch.cat([pooled, target, pooled[:, : target.shape[1]] * target, *beside], dim=1))
    return logits if model.item_bias is None else logits + model.item_bias[batch["item_id"]]


def test_losses_and_gradients_are_those_of_the_padded_form(case):
    model, batch, _, _ = case
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    penalty = 0.0
    if model.reg_weight:
        items = {int(item) for item in torch.cat([batch["item_id"], batch["item_id_list"].flatten()])} - {0}
        penalty = slow_penalty(model.items, items)
        if model.users is not None:
            penalty += slow_penalty(model.users, {int(user) for user in batch["user_id"]})
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        padded_logits(model, batch), batch["label"].double()
    )
    expected = expected + model.reg_weight / 2 * penalty
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(expected, parameters)
    model.load_state_dict(state)
    loss = model.calculate_loss(batch)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-10)
    assert all(gradient.abs().sum() > 0 for gradient in found)
    model.load_state_dict(state)


def slow_penalty(table, things):
    """sum_j |w_j|² / n_j over the tokens of some items or users."""
    total = 0.0
    for number, embedding in enumerate(table.embeddings):
        if embedding.column.number:
            continue
        values, occurrences = getattr(table, f"values_{number}"), getattr(table, f"occurrences_{number}")
        tokens = {token for thing in things for token in values[thing].view(-1).tolist()}
        for token in tokens - ({0} if embedding.column.several else set()):
            total = total + embedding.table.weight[token].square().sum() / occurrences[token]
    return total


def test_occurrences_are_those_of_all_training_samples(folder):
    config, train, *_ = parts(
        folder, train_neg_sample_args={"distribution": "popularity", "sample_num": 3, "alpha": 0.5}
    )
    model, rows = model_of(config, train), train._dataset[torch.arange(len(train._dataset))]
    items, users = [0.0] * model.n_items, [0.0] * model.n_users
    popularity = torch.bincount(rows["item_id"], minlength=model.n_items).double() ** 0.5
    popularity[0] = 0
    for number in range(len(rows)):
        users[int(rows["user_id"][number])] += 4
        items[int(rows["item_id"][number])] += 1
        for step in range(int(rows["item_length"][number])):
            items[int(rows["item_id_list"][number, step])] += 4  # with the positive and with three negatives
    items = torch.tensor(items) + 3 * len(rows) * popularity / popularity.sum()
    torch.testing.assert_close(model.items.occurrences_0.double(), items.double().clamp(min=1))
    brands = torch.zeros(6).double().index_add_(0, train._dataset.item_feat["brand"], items.double())
    torch.testing.assert_close(model.items.occurrences_1.double(), brands.clamp(min=1))
    groups = torch.zeros(4).double().index_add_(0, train._dataset.user_feat["group"], torch.tensor(users).double())
    torch.testing.assert_close(model.users.occurrences_0.double(), groups.clamp(min=1))


def test_counts_of_ready_made_lists_are_the_same(folder):
    _, train, *_ = parts(folder)
    rows = train._dataset.inter_feat
    names = ("item_id_list", "item_length", 41)
    torch.testing.assert_close(history_counts(rows, *names), history_counts(rows.gathered(), *names))


def test_a_batch_without_any_history_trains(case):
    model, batch, _, _ = case
    model.train()
    rows = Interaction({name: value.clone() for name, value in batch.interaction.items()})
    rows["item_length"][:] = 0
    loss = model.calculate_loss(rows)
    loss.backward()
    assert torch.isfinite(loss)


# --- explanations and mistakes ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_explanation_makes_the_score(case):
    model, _, rows, _ = case
    model.eval()
    explanation = model.explain(rows)
    assert explanation.kind == "history" and not explanation.normalised
    assert explanation.weights.shape == rows["item_id_list"].shape
    torch.testing.assert_close(model.score_pooled(rows, explanation.pooled), model.predict(rows))
    outside = torch.arange(6) >= rows["item_length"].unsqueeze(1)
    assert not explanation.weights[outside].any() and not explanation.parts[outside].any()
    row = {name: rows[name][0] for name in rows.columns}
    behaviours = slow_behaviours(model, row)
    weights = slow_weights(model, slow_thing(model.items, int(row["item_id"])), behaviours)
    expected = torch.as_tensor([float(weight) for weight in weights], dtype=torch.float64)
    torch.testing.assert_close(explanation.weights[0, : len(weights)], expected)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"variant": "novel"}, "variant is one of"),
        ({"pooling": "max"}, "pooling is one of"),
        ({"pooling_mode": "median"}, "pooling_mode is one of"),
        ({"attention_activation": "tanh"}, "attention_activation is one of"),
        ({"mlp_hidden_size": []}, "mlp_hidden_size is a list"),
        ({"attention_hidden_size": [3, 0]}, "attention_hidden_size is a list"),
        ({"dropout_prob": 1.0}, "dropout_prob"),
        ({"reg_weight": -1.0}, "reg_weight"),
        ({"behaviour_fields": "rating"}, "behaviour_fields must be a list"),
        ({"behaviour_fields": ["colour"]}, "colour"),
        ({"context_fields": ["weather"]}, "DIN reads 'weather' of the interactions, and .* has no column 'weather'"),
        ({"item_fields": "brand"}, "item_fields is a list"),
        ({"behaviour_fields": None}, "behaviour_fields is a list"),
        ({"user_fields": ["brand"]}, "no column 'brand'"),
        ({"item_fields": []}, "item_fields"),
        ({"behaviour_fields": ["timestamp"]}, "numerical_features"),
    ],
)
def test_a_value_without_meaning_ends_in_a_sentence(folder, settings, words):
    with pytest.raises(UserError, match=words):
        config, train, *_ = parts(folder, **settings)
        din.DIN(config, train._dataset)


# --- mixed precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bfloat16_agrees(folder, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    config, train, _, test = parts(folder, **EVERYTHING)
    model, batch = model_of(config, train, double=False, scale=0.2), next(iter(train))
    rows = test._dataset[torch.arange(9)]
    loss, scores = model.calculate_loss(batch), model.eval().full_sort_predict(rows)
    model, batch, rows = model.to(device), batch.to(device), rows.to(device)
    torch.testing.assert_close(model.full_sort_predict(rows).cpu(), scores, rtol=0, atol=1e-4)
    with torch.autocast(device, dtype=torch.bfloat16):
        low = model.full_sort_predict(rows)
        low_loss = model.train().calculate_loss(batch)
        low_loss.backward()
    torch.testing.assert_close(low.float().cpu(), scores, rtol=0, atol=2e-2)
    torch.testing.assert_close(low_loss.float().cpu(), loss, rtol=2e-2, atol=2e-2)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
