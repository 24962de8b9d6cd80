"""How many parameters a model has, and how many of them are trained."""

import torch

from recbole_persona.runner.training import parameter_counts


def test_frozen_parameters_are_counted_in_the_total_only():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert parameter_counts(model) == (11, 3)
    assert parameter_counts(object()) == (0, 0)
