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


def test_the_screen_shows_the_part_that_there_is(capsys):
    what = {
        "model": "BPR",
        "dataset": "small",
        "seed": 1,
        "seconds": {},
        "epochs": 1,
        "n_parameters": 1,
        "n_trainable": 1,
    }
    for parts in ({"best_valid": {"hit@3": 0.25}, "test": {}}, {"best_valid": {}, "test": {"hit@3": 0.25}}):
        print_result(what | parts | {"protocol": {"split": "LS", "mode": "full"}}, "runs/one")
        shown = capsys.readouterr().out
        assert "hit@3" in shown and "0.2500" in shown and "1 epoch;" in shown
    print_result(what | {"best_valid": {}, "test": {}, "protocol": {"split": "LS", "mode": "full"}}, "runs/one")
    assert "no validation and no test part" in capsys.readouterr().out
