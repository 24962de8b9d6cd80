"""How many parameters a model has, and how many of them are trained."""

import torch

from recbole_persona.cli.tables import print_result
from recbole_persona.runner.training import parameter_counts


def test_frozen_parameters_are_counted_in_the_total_only():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert parameter_counts(model) == (11, 3)
    assert parameter_counts(object()) == (0, 0)


def test_the_screen_names_trainable_and_total_parameters(capsys):
    counts = {"epochs": 3, "n_parameters": 12_345, "n_trainable": 1_234}
    what = {"model": "POD", "dataset": "small", "seed": 1, "best_valid": {}, "test": {}, "seconds": {"train": 1.0}}
    print_result(what | counts | {"protocol": {"split": "LS", "mode": "full"}}, "runs/one")
    shown = " ".join(capsys.readouterr().out.split())  # a narrow screen wraps the line
    assert "3 epochs; 1,234 trainable parameters of 12,345 in total; seconds: train 1.0" in shown
