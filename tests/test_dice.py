"""Dice against a slow loop, its gradients, its statistics."""

import math

import pytest
import torch

from recbole_persona.layers import dice
from recbole_persona.layers.dice import EPSILON, MOMENTUM, Dice
from recbole_persona.layers.tower import RowNorm, Tower

torch.set_num_threads(1)


def layer(size=4, seed=0):
    torch.manual_seed(seed)
    made = Dice(size).double()
    with torch.no_grad():
        made.alpha.normal_()
    return made


def rows(number=7, size=4, seed=1, scale=3.0):
    return torch.randn(number, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale + 0.7


@torch.no_grad()
def slow_dice(inputs, alpha, mean=None, var=None):
    """p s + (1 - p) alpha s, one number at a time."""
    outputs = torch.empty_like(inputs)
    for column in range(inputs.shape[1]):
        values = inputs[:, column].tolist()
        middle = sum(values) / len(values) if mean is None else float(mean[column])
        spread = sum((v - middle) ** 2 for v in values) / len(values) if var is None else float(var[column])
        for number, s in enumerate(values):
            p = 1 / (1 + math.exp(-(s - middle) / math.sqrt(spread + EPSILON)))
            outputs[number, column] = p * s + (1 - p) * float(alpha[column]) * s
    return outputs


def test_training_takes_the_statistics_of_the_batch():
    made, inputs = layer(), rows()
    torch.testing.assert_close(made(inputs), slow_dice(inputs, made.alpha))
    torch.testing.assert_close(made(inputs.view(7, 1, 4)).view(7, 4), slow_dice(inputs, made.alpha))


def test_evaluation_takes_running_statistics_and_is_pointwise():
    made = layer()
    expected_mean, expected_var = torch.zeros(4).double(), torch.ones(4).double()
    for seed in range(5):
        inputs = rows(seed=seed)
        made(inputs)
        expected_mean = (1 - MOMENTUM) * expected_mean + MOMENTUM * inputs.mean(dim=0)
        expected_var = (1 - MOMENTUM) * expected_var + MOMENTUM * inputs.var(dim=0)  # unbiased, as torch's BatchNorm
    torch.testing.assert_close(made.running_mean, expected_mean)
    torch.testing.assert_close(made.running_var, expected_var)
    made.eval()
    inputs = rows(seed=9)
    torch.testing.assert_close(made(inputs), slow_dice(inputs, made.alpha, expected_mean, expected_var))
    torch.testing.assert_close(torch.cat([made(row.unsqueeze(0)) for row in inputs]), made(inputs))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("block", [2**16, 8])
def test_gradients_are_finite_differences(training, block, monkeypatch):
    monkeypatch.setitem(dice.BLOCK, "cpu", block)
    made = layer().train(training)
    with torch.no_grad():
        made.running_mean.normal_()
        made.running_var.uniform_(0.5, 2.0)

    def function(inputs, alpha):
        return torch.func.functional_call(made, {"alpha": alpha}, (inputs,))

    inputs = rows(scale=1.0).requires_grad_()
    assert torch.autograd.gradcheck(function, (inputs, made.alpha.detach().clone().requires_grad_()))


def test_blocks_change_nothing(monkeypatch):
    made, inputs = layer(), rows(50).requires_grad_()
    whole = made(inputs)
    gradient = torch.autograd.grad(whole.square().sum(), inputs)[0]
    monkeypatch.setitem(dice.BLOCK, "cpu", 12)
    parts = made(inputs)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), inputs)[0], gradient)


def test_a_constant_column_and_a_single_row_are_legal():
    made = layer().float()
    inputs = torch.ones(5, 4, requires_grad=True)
    outputs = made(inputs)
    outputs.sum().backward()
    torch.testing.assert_close(outputs, (inputs * (1 + made.alpha) / 2))
    assert torch.isfinite(inputs.grad).all()
    before = made.running_mean.clone()
    assert torch.isfinite(made(torch.randn(1, 4))).all() and torch.equal(made.running_mean, before)
    assert made(torch.randn(0, 4)).shape == (0, 4)


def test_alpha_of_one_is_the_identity_and_of_zero_near_relu_far_out():
    made, inputs = layer(), rows()
    with torch.no_grad():
        made.alpha.fill_(1.0)
    torch.testing.assert_close(made(inputs), inputs)
    made.eval()
    with torch.no_grad():
        made.alpha.zero_()
    far = torch.tensor([[-60.0, 60.0, 80.0, -80.0]], dtype=torch.float64)
    torch.testing.assert_close(made(far), far.relu())


def test_low_precision_is_computed_in_32_bits():
    made, inputs = layer().float(), rows(64).float()
    exact = made(inputs)
    low = made(inputs.bfloat16().requires_grad_())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=2e-2, atol=2e-2)
    low.sum().backward()


def test_a_tower_with_silu_and_normalisation_is_recboles_dice():
    from recbole.model.layers import MLPLayers

    torch.manual_seed(0)
    theirs, ours = MLPLayers([5, 4, 3], activation="Dice", bn=True), Tower(5, [4, 3], "silu", norm=True)
    for number in range(2):
        ours.linears[number].load_state_dict(theirs.mlp_layers[4 * number + 1].state_dict())
    for training in (True, True, False):
        theirs.train(training), ours.train(training)
        inputs = torch.randn(9, 5)
        torch.testing.assert_close(ours(inputs), ours.output(theirs(inputs)).squeeze(1))


def test_normalisation_of_a_single_row_takes_the_running_averages():
    norm = RowNorm(4)
    norm(torch.randn(9, 4))
    row, before = torch.randn(1, 1, 4), norm.running_mean.clone()
    trained = norm(row)
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(norm.eval()(row), trained)
