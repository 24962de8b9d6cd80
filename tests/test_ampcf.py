"""AMPCF against slow loops in float64, its switches, and its scores in tiles."""

import itertools
import math

import pytest
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from small_ampcf import SWITCHES, Small, small_model

from recbole_persona.errors import UserError
from recbole_persona.layers.personas import ATTENTIONS, VARIANTS, mixture_entropy
from recbole_persona.models import ampcf
from recbole_persona.models.ampcf import AMPCF

torch.set_num_threads(1)


def batch(n=9, negatives=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    user = torch.randint(1, 12, (n,), generator=generator)
    item = torch.randint(1, 30, (n,), generator=generator)
    negative = torch.randint(1, 30, (n, negatives), generator=generator)
    return Interaction({"user_id": user, "item_id": item, "neg_item_id": negative})


def slow_weights(model, settings, user, item):
    """a_ijk by the formulas of the two papers, one number at a time."""
    kind, n_personas, temperature = settings["attention"], model.n_personas, settings.get("temperature", 1.0)
    personas, vector = model.personas(torch.tensor([user]))[0], model.item_embedding.weight[item]
    if kind == "uniform" or n_personas == 1:
        return [torch.tensor(1 / n_personas, dtype=torch.float64)] * n_personas
    if kind == "fixed":
        temperature, logits = 1.0, [model.mixture.weight[user, k] for k in range(n_personas)]
    elif settings["variant"] == "journal":
        logits = [sum(personas[k, c] * vector[c] for c in range(6)) for k in range(n_personas)]
    else:
        phi = model.attention.item_map.weight @ vector + model.attention.item_map.bias
        psi = [model.attention.persona_map.weight @ p + model.attention.persona_map.bias for p in personas]
        logits = [(x @ phi) / (x.norm() * phi.norm()) for x in psi]
    logits = [logit / temperature for logit in logits]
    if kind == "argmax":
        best = max(range(n_personas), key=lambda k: logits[k].item())
        return [torch.tensor(float(k == best), dtype=torch.float64) for k in range(n_personas)]
    total = sum(logit.exp() for logit in logits)
    return [logit.exp() / total for logit in logits]


def slow_score(model, settings, user, item):
    weights = slow_weights(model, settings, user, item)
    personas, vector = model.personas(torch.tensor([user]))[0], model.item_embedding.weight[item]
    pooled = sum(weight * persona for weight, persona in zip(weights, personas))
    return pooled @ vector + (model.item_bias[item] if model.item_bias is not None else 0.0)


def slow_loss(model, settings, interaction):
    """alpha L + (1 - alpha)(lambda_p H_pos - lambda_n H_neg) + penalty, row by row."""

    def entropy(user, item):
        weights = [float(w) for w in slow_weights(model, settings, user, item)]
        return -sum(w * math.log(w) for w in weights if w > 0)

    losses = []
    for number in range(len(interaction)):
        user, item = int(interaction["user_id"][number]), int(interaction["item_id"][number])
        sampled = settings["train_neg_sample_args"] is not None
        others = interaction["neg_item_id"][number].tolist() if sampled else list(range(1, 30))
        candidates = [item, *others] if sampled else others
        scores = {j: float(slow_score(model, settings, user, j)) for j in candidates}
        partition = math.log(sum(math.exp(scores[j]) for j in candidates))
        loss = model.alpha * (partition - scores[item])
        negative = sum(entropy(user, j) for j in others) / len(others)
        loss += (1 - model.alpha) * (model.lambda_p * entropy(user, item) - model.lambda_n * negative)
        squares = model.personas(torch.tensor([user]))[0].square().sum(dim=1)
        penalty = sum(w * s for w, s in zip(slow_weights(model, settings, user, item), squares))
        losses.append(loss + model.reg_weight / 2 * float(penalty + model.item_embedding.weight[item].square().sum()))
    return sum(losses) / len(losses)


# Formulas


@pytest.mark.parametrize("variant, attention, n_personas", SWITCHES)
@pytest.mark.parametrize("item_bias", [True, False])
def test_scores_are_those_of_slow_loops(variant, attention, n_personas, item_bias):
    settings = {
        "variant": variant,
        "attention": attention,
        "n_personas": n_personas,
        "item_bias": item_bias,
        "temperature": 0.7,
    }
    model = small_model(**settings)
    with torch.no_grad():
        expected = torch.tensor([[slow_score(model, settings, u, j).item() for j in range(30)] for u in range(12)])
    users, items = torch.arange(12), torch.arange(30)
    pairs = Interaction({"user_id": users.repeat_interleave(30), "item_id": items.repeat(12)})
    torch.testing.assert_close(model.predict(pairs).view(12, 30), expected.double())
    torch.testing.assert_close(model.full_sort_predict(Interaction({"user_id": users})).view(12, 30), expected.double())
    weights = [[w.item() for w in slow_weights(model, settings, u, j)] for u in range(12) for j in range(30)]
    torch.testing.assert_close(
        model.persona_weights(pairs["user_id"], pairs["item_id"]), torch.tensor(weights).double()
    )


@pytest.mark.parametrize("variant, attention, n_personas", SWITCHES)
@pytest.mark.parametrize("negatives", [None, {"distribution": "uniform", "sample_num": 4}])
def test_losses_are_those_of_slow_loops(variant, attention, n_personas, negatives):
    settings = {
        "variant": variant,
        "attention": attention,
        "n_personas": n_personas,
        "train_neg_sample_args": negatives,
    }
    model = small_model(**settings, alpha=0.6, lambda_p=0.8, lambda_n=0.3, reg_weight=0.05)
    torch.testing.assert_close(model.calculate_loss(batch()).item(), slow_loss(model, settings, batch()))
    model.alpha, model.has_entropies = 1.0, False
    torch.testing.assert_close(float(model.calculate_loss(batch())), slow_loss(model, settings, batch()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("negatives", [None, {"distribution": "uniform", "sample_num": 4}])
def test_gradients_are_finite_differences(variant, negatives):
    entropies = {"alpha": 0.6, "lambda_p": 0.8, "lambda_n": 0.3}
    model = small_model(variant=variant, train_neg_sample_args=negatives, **entropies)
    rows = batch(3)

    def loss(*parameters):
        names = [name for name, _ in model.named_parameters()]
        state = dict(zip(names, parameters))
        return torch.func.functional_call(_Loss(model), {f"model.{name}": p for name, p in state.items()}, (rows,))

    inputs = tuple(parameter.detach().clone().requires_grad_() for parameter in model.parameters())
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


class _Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, rows):
        return self.model.calculate_loss(rows)


@pytest.mark.parametrize("variant, attention, n_personas", SWITCHES)
@pytest.mark.parametrize("negatives", [None, {"distribution": "uniform", "sample_num": 4}])
def test_gradients_reach_every_parameter(variant, attention, n_personas, negatives):
    settings = {"variant": variant, "attention": attention, "n_personas": n_personas}
    model = small_model(**settings, train_neg_sample_args=negatives, alpha=0.5, lambda_p=0.1)
    model.calculate_loss(batch(40)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_one_persona_is_matrix_factorisation():
    model = small_model(n_personas=1)
    users, rows = model.persona_embedding.weight, batch()
    expected = users @ model.item_embedding.weight.T + model.item_bias
    torch.testing.assert_close(model.predict(rows), expected[rows["user_id"], rows["item_id"]])
    assert {name for name, _ in model.named_parameters()} == {
        "persona_embedding.weight",
        "item_embedding.weight",
        "item_bias",
    }


def test_identical_personas_score_and_cost_as_one():
    """The penalty does not grow with K: personas that say the same are one."""
    one, three = small_model(n_personas=1), small_model(n_personas=3)
    with torch.no_grad():
        three.persona_embedding.weight.copy_(one.persona_embedding.weight.repeat(1, 3))
        three.item_embedding.weight.copy_(one.item_embedding.weight)
        three.item_bias.copy_(one.item_bias)
    torch.testing.assert_close(one.calculate_loss(batch()), three.calculate_loss(batch()))


def test_entropy_is_finite_with_its_gradient_at_certainty():
    weights = torch.tensor([[[1.0], [0.0]], [[0.5], [0.5]]], requires_grad=True)
    entropy = mixture_entropy(weights)
    torch.testing.assert_close(entropy, torch.tensor([[0.0], [math.log(2)]]), atol=1e-9, rtol=1e-6)
    entropy.sum().backward()
    assert torch.isfinite(weights.grad).all()


# Tiles and batches


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_tiles_change_nothing(variant, attention, monkeypatch):
    settings = {"variant": variant, "attention": attention, "alpha": 0.5, "lambda_n": 0.3}
    model, users = small_model(**settings), torch.arange(12).repeat(8)
    whole = model.score_all(model.personas(users), model._mixture(users))
    loss = model.calculate_loss(batch(60))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    monkeypatch.setitem(ampcf.SCORING_TILE, "cpu", 1024)
    monkeypatch.setattr(ampcf, "TRAINING_TILE", 3 * 30 * 2)
    torch.testing.assert_close(model.score_all(model.personas(users), model._mixture(users)), whole)
    tiled = model.calculate_loss(batch(60))
    torch.testing.assert_close(tiled, loss)
    torch.testing.assert_close(torch.autograd.grad(tiled, list(model.parameters())), gradients)


@pytest.mark.parametrize("variant, attention", list(itertools.product(VARIANTS, ATTENTIONS)))
@pytest.mark.parametrize("scale, temperature, mild", [(1.0, 1.0, True), (9.0, 1.0, False), (1.0, 0.01, False)])
def test_full_sort_is_predict_at_any_scale(variant, attention, scale, temperature, mild):
    """Also where exp of a logit overflows in 32 bits."""
    model = small_model(scale=scale, double=False, variant=variant, attention=attention, temperature=temperature)
    projected = variant == "conference" and temperature == 1.0
    if model.attention.asks and attention == "learned":
        longest = model.item_embedding.weight.norm(dim=1).max()
        assert model.attention.is_mild(model.personas(torch.arange(12)), longest) == (mild or projected)
    users = torch.arange(12)
    pairs = Interaction({"user_id": users.repeat_interleave(30), "item_id": torch.arange(30).repeat(12)})
    scores = model.full_sort_predict(Interaction({"user_id": users}))
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores, model.predict(pairs), atol=1e-4 * scale**2, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_follow_every_change_of_a_parameter(variant):
    """What scoring keeps of the items is made again after a step, a loaded state and a change of type."""
    model, users = small_model(variant=variant), torch.arange(12)

    def agree():
        pairs = Interaction({"user_id": users.repeat_interleave(30), "item_id": torch.arange(30).repeat(12)})
        torch.testing.assert_close(model.score_all(model.personas(users)).flatten(), model.predict(pairs))

    agree()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.calculate_loss(batch()).backward()
    optimizer.step()
    agree()
    model.load_state_dict(small_model(seed=3, variant=variant).state_dict())
    agree()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.score_all(model.personas(users))
    agree()
    model.float()
    agree()


def test_a_batch_of_one_agrees_with_a_batch_of_many():
    model, rows = small_model(), batch(40)
    single = torch.cat([model.predict(rows[number : number + 1]) for number in range(40)])
    torch.testing.assert_close(model.predict(rows), single)
    losses = [float(model.calculate_loss(rows[number : number + 1])) for number in range(40)]
    torch.testing.assert_close(float(model.calculate_loss(rows)), sum(losses) / 40)


def test_padding_and_unknown_users():
    """No softmax has the padding item; a user without training interactions gets the items by their bias."""
    config = Config(model="AMPCF", dataset="ml-100k", config_dict={"use_gpu": False})
    model = AMPCF(config, Small())
    assert not model.item_embedding.weight[0].any() and not model.persona_embedding.weight[[0, 11]].any()
    assert model.persona_embedding.weight[1:11].abs().sum(dim=1).all()
    model.calculate_loss(batch(40)).backward()
    assert not model.item_embedding.weight.grad[0].any() and not model.item_bias.grad[0].any()
    with torch.no_grad():
        model.item_bias.normal_()
    for user in (0, 11):
        scores = model.full_sort_predict(Interaction({"user_id": torch.tensor([user])}))
        torch.testing.assert_close(scores, model.item_bias.detach())


@pytest.mark.parametrize("variant, attention, n_personas", SWITCHES)
def test_an_explanation_makes_the_score(variant, attention, n_personas):
    model, rows = small_model(variant=variant, attention=attention, n_personas=n_personas), batch()
    explanation = model.explain(rows)
    assert explanation.kind == "persona" and explanation.weights.shape == (9, n_personas)
    torch.testing.assert_close(explanation.weights.sum(dim=1), torch.ones(9).double())
    torch.testing.assert_close(model.score_pooled(rows, explanation.pooled), model.predict(rows))
    if attention != "fixed":
        personas = model.personas(rows["user_id"])
        torch.testing.assert_close(model.weights_for(personas, rows["item_id"]), explanation.weights)


@pytest.mark.parametrize(
    "key, value",
    [
        ("variant", "novel"),
        ("attention", "soft"),
        ("n_personas", 0),
        ("embedding_size", 2.5),
        ("reg_weight", -1),
        ("alpha", 0),
        ("alpha", "half"),
        ("temperature", 0),
        ("lambda_n", None),
    ],
)
def test_a_value_without_meaning_ends_in_a_sentence(key, value):
    with pytest.raises(UserError, match=key):
        small_model(**{key: value})


# Mixed precision


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_agrees(device, variant):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = small_model(variant=variant, double=False)
    rows, users = batch(60), Interaction({"user_id": torch.arange(12)})
    exact, exact_loss = model.full_sort_predict(users).view(12, 30), model.calculate_loss(rows)
    model, rows, users = model.to(device), rows.to(device), users.to(device)
    with torch.autocast(device_type=device, dtype=torch.bfloat16):
        scores, loss = model.full_sort_predict(users).view(12, 30).float().cpu(), model.calculate_loss(rows)
        pairs = model.predict(rows).float().cpu()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert (scores - exact).abs().mean() < 2e-2 * exact.abs().mean()
    torch.testing.assert_close(pairs, scores[rows["user_id"].cpu(), rows["item_id"].cpu()], atol=0.1, rtol=2e-2)
    torch.testing.assert_close(loss.cpu(), exact_loss, atol=2e-2, rtol=2e-2)
