"""States that somebody wrote on purpose, or that were damaged: only data come in, where the model and its trainer have them."""

from contextlib import contextmanager
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import upstream_models
from recbole.model.general_recommender import BPR
from resume_runs import make
from test_train import Model, changed_model

from recbole_persona.errors import UserError
from recbole_persona.train.checkpoint import load_model_state, save_model_state
from recbole_persona.train.outside import changed_since, put_back, remember
from recbole_persona.upstream.files import load_tree, save_tree
from recbole_persona.upstream.tree import ModuleState, same_kind


class Kind(Enum):
    A = 1


@pytest.mark.parametrize(
    "pair",
    [
        (0, 1.5),
        (0, torch.ones(3)),  # counters that become counts
        (np.zeros(2), torch.ones(3)),
        (np.float32(1), 2),
        (torch.zeros(2), None),
        (None, torch.zeros(2)),
        (None, {"a": [torch.zeros(2), 3]}),
        ("mean", "sum"),
        ({"a": 1}, {"b": "text", 3: [None]}),
        ([], [1, torch.zeros(1)]),
        (torch.float32, torch.float16),
        (Kind.A, Kind.A),
        (np.array(["a"]), np.array(["b", "c"])),
    ],
)
def test_the_same_kind(pair):
    assert same_kind(*pair)


@pytest.mark.parametrize(
    "pair",
    [
        (0, "text"),
        ("mean", 3),
        ([], {}),
        ([], 0),
        (None, "/a/file"),
        (None, ["/a/file"]),
        (print, None),
        (print, 3),
        (torch.nn.Linear(1, 1), ModuleState()),
        (None, ModuleState()),
        (torch.zeros(1), torch.nn.Parameter(torch.zeros(1))),
        (None, torch.nn.Parameter(torch.zeros(1))),
        ([], [ModuleState()]),
        ([], [SimpleNamespace()]),
        (SimpleNamespace(), None),
    ],
)
def test_another_kind(pair):
    assert not same_kind(*pair)


# --- what a model keeps outside its state_dict ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("replaced", "saved_model_file", "/any/path"),
        ("replaced", "forward", 1),  # a method
        ("replaced", "gru.flatten_parameters", 1),
        ("replaced", "part.seen", {"a": 1}),
        ("replaced", "update", "text"),
        ("replaced", "generator", 3),  # an object that is no data
        ("replaced", "training", True),
        ("replaced", "_forward_hooks", {}),
        ("replaced", "_new", 1),
        ("replaced", "__class__", 1),
        ("replaced", "other_parameter_name", ["forward"]),
        ("replaced", "gru", 1),  # a part
        ("replaced", "gru.weight_ih_l0", 1),  # a weight
        ("replaced", "part.nothing.here", 1),
        ("replaced", "no part.here", 1),
        ("replaced", "a name", 1),
        ("replaced", "", 1),
        ("replaced", "made_up", ["text"]),
        ("replaced", 3, 1),
        ("in_place", "update", torch.ones(1)),
        ("in_place", "made_up", torch.ones(1)),
        ("in_place", "part.table", torch.ones(4)),
        ("in_place", "part.table", torch.ones(3, dtype=torch.float64)),
        ("in_place", "part.table", 3),
        ("in_place", "gru.weight_ih_l0", torch.ones(6, 2)),
    ],
)
@pytest.mark.parametrize("noted", [True, False])
def test_what_no_training_changes_is_not_put_back(kind, path, value, noted):
    model, before = Model(), Model()
    if noted:
        remember(model)
    changed = changed_since(changed_model())
    changed[kind] |= {path: value}
    with pytest.raises((ValueError, AttributeError)):
        put_back(model, changed)
    assert vars(model).keys() - {"_attributes_as_built"} == vars(before).keys()
    assert model.update == 0 and not model.part.table.any() and callable(model.forward)


def test_what_appears_in_training_is_put_back_where_its_name_is_free():
    model, other = changed_model(), Model()
    model.scores, model.part.lists = torch.ones(3), [torch.zeros(2), {"a": 1}]
    put_back(other, changed_since(model))
    assert torch.equal(other.scores, torch.ones(3)) and other.part.lists[1] == {"a": 1}


def test_what_could_not_be_put_back_is_not_saved_and_is_said(caplog):
    model = Model()
    remember(model)
    model.part._private, model.update = 1, "text"
    assert changed_since(model)["replaced"] == {}
    assert "part._private is a int and changed" in caplog.text and "update is a str and changed" in caplog.text


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return upstream_models.write_tiny(tmp_path_factory.mktemp("data"))


def trained(name, data, place):
    model, stage = upstream_models.stages(name)[0]
    trainer, loaders = make(model, stage, data, place, epochs=1)
    trainer.fit(loaders[0], loaders[1], show_progress=False)
    return lambda: make(model, stage, data, place, epochs=2)[0]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """For BPR: the folder of a run, and a function that makes its trainer once more."""
    place = tmp_path_factory.mktemp("bpr") / "run"
    return place, trained("BPR", data, place)


def replaced(*path, value):
    def edit(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return edit


def lost(*path):
    def edit(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return edit


EDITS = {
    "a new part of the progress": replaced("progress", "saved_model_file", value="/any/path"),
    "a progress of another kind": replaced("progress", "cur_step", value="text"),
    "no progress": lost("progress"),
    "a number for the progress": replaced("progress", value=3),
    "no epoch": lost("epoch"),
    "an epoch in words": replaced("epoch", value="three"),
    "no trainer": lost("trainer"),
    "an empty trainer": replaced("trainer", value=[]),
    "another model": replaced("trainer", value=["Trainer", "LightGCN"]),
    "a binding to nothing": replaced("bindings", "optimizer", value="nothing"),
    "a binding to a list": replaced("bindings", "optimizer", value=[1]),
    "an optimiser without groups": lost("steppers", "optimizer", "param_groups"),
    "an optimiser with a new attribute": replaced("steppers", "optimizer", "step", value=1),
    "an optimiser in words": replaced("steppers", "optimizer", value="text"),
    "an optimiser of other weights": replaced("steppers", "optimizer", "param_groups", value=[]),
    "no model": lost("model"),
    "a model in words": replaced("model", value="text"),
    "no weights": lost("model", "state_dict"),
    "weights in words": replaced("model", "state_dict", value="text"),
    "a weight in words": replaced("model", "state_dict", "user_embedding.weight", value="text"),
    "a weight with a number for its name": replaced("model", "state_dict", 3, value=torch.ones(1)),
    "outside in words": replaced("model", "outside", value="text"),
    "outside without a part": lost("model", "outside", "replaced"),
    "a method outside": replaced("model", "outside", "replaced", "forward", value=1),
    "a path that did not exist": replaced("model", "outside", "replaced", "saved_model_file", value="/any/path"),
    "another parameter": replaced("model", "other_parameter", "forward", value=torch.ones(1)),
    "other parameters in words": replaced("model", "other_parameter", value="text"),
    "no other parameters": lost("model", "other_parameter"),
}


@contextmanager
def edited(place, edit):
    """The state file of a run with ``edit`` applied to it; afterwards it is as it was."""
    file = place / "state" / "last.safetensors"
    kept = file.read_bytes()
    try:
        state = load_tree(file)
        edit(state)
        save_tree(state, file)
        yield file
    finally:
        file.write_bytes(kept)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_forged_state_is_one_sentence_that_names_the_file(finished, edit):
    place, again = finished
    with edited(place, edit) as file:
        trainer = again()
        with pytest.raises(UserError) as refused:
            trainer.resume()
    assert str(refused.value).startswith(str(file)) and "\n" not in str(refused.value)
    assert trainer.saved_model_file == str(place / "model.safetensors")
    assert type(trainer.model) is BPR and "forward" not in vars(trainer.model)


@pytest.mark.parametrize("edit", [lost("random"), lost("random", "numpy"), replaced("random", "torch", value="text"),
                                  replaced("random", "python", value=[1])])  # fmt: skip
def test_forged_random_numbers_are_one_sentence(finished, edit):
    place, again = finished

    def without_loaders(state):
        state["generators"] = {}  # those of loaders, which are not made here
        edit(state)

    with edited(place, without_loaders):
        trainer = again()
        with pytest.raises(UserError, match=r"last\.safetensors does not fit this trainer"):
            trainer.resume()
            trainer.fit(None)


def test_a_schedule_takes_over_nothing_new(finished):
    """torch's ``load_state_dict`` of a schedule sets every attribute that it is given."""
    place, again = finished
    file = place / "state" / "last.safetensors"
    kept = file.read_bytes()

    def scheduled():
        trainer = again()
        trainer._steppers["schedule"] = trainer.schedule = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2)
        return trainer

    try:
        for forged in ({"step": 1}, {"gamma": "text"}):
            state = load_tree(file)
            state["steppers"]["schedule"] = scheduled().schedule.state_dict()
            state["bindings"]["schedule"] = "schedule"
            save_tree(state, file)
            scheduled().resume()
            state["steppers"]["schedule"] |= forged
            save_tree(state, file)
            with pytest.raises(UserError, match=rf"schedule\.{next(iter(forged))}"):
                scheduled().resume()
    finally:
        file.write_bytes(kept)


@pytest.mark.parametrize("name", ["LightGCN", "SASRecF", "NCL"])
def test_parameters_that_a_model_declares_are_loaded_and_no_others(name, data, tmp_path):
    again = trained(name, data, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    load_model_state(again().model, file)
    state, forged = load_tree(file), tmp_path / "forged"
    key = next(iter(state["other_parameter"]))
    for edit in ({"forward": torch.ones(1)}, {key: "text"}, {key: ModuleState()}, {"logger": ModuleState()}):
        save_tree(state | {"other_parameter": state["other_parameter"] | edit}, forged)
        with pytest.raises(UserError, match=r"forged (does not fit this|is of another)"):
            load_model_state(again().model, forged)


def test_a_model_without_other_parameters_takes_none(data, tmp_path):
    """RecBole's own way, too: ``load_other_parameter`` set every attribute that its argument named."""
    model = trained("BPR", data, tmp_path / "run")().model
    with pytest.raises(ValueError, match="BPR keeps no Tensor named 'predict'"):
        model.load_other_parameter({"predict": torch.ones(1)})
    save_model_state(model, tmp_path / "kept")
    load_model_state(model, tmp_path / "kept")
