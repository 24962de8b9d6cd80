"""Search spaces: what is read, what is refused, and that what ships fits its models."""

import json
import math
import warnings
from pathlib import Path

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recbole_persona.config import Config, shipped
from recbole_persona.errors import UserError
from recbole_persona.models.ampcf import AMPCF
from recbole_persona.registry import get_model, recbole_model_names
from recbole_persona.search.space_files import read_space
from recbole_persona.settings import check_values
from recbole_persona.unused import is_read

FILES = (shipped("properties") / "space").glob("*.yaml")
SHIPPED = sorted(file.stem.replace("recbole-", "recbole:") for file in FILES)
ALL_FORMS = {
    "learning_rate": {"low": 0.001, "high": 0.02, "log": True},
    "n_personas": {"low": 1, "high": 4},
    "lambda_p": {"low": 0.0, "high": 0.5, "step": 0.1},
    "embedding_size": [32, 64, 128],
    "attention": ["learned", "uniform", "argmax"],
    "temperature": {"low": 0.5, "high": 2, "when": {"attention": "learned"}},
    "train_neg_sample_args": [None, {"distribution": "uniform", "sample_num": 4}],
    "item_bias": {"choices": [True, False], "when": {"n_personas": [1, 2], "attention": ["learned", "argmax"]}},
}


def config_of(name, **given_settings):
    """The config of the model of this name on ml-100k."""
    sequential = get_model(name).type.name == "SEQUENTIAL" and get_model(name).__name__ != "DIN"
    needed = {"train_neg_sample_args": None} if sequential else {}  # as RecBole asks for with cross-entropy
    return Config(name, "ml-100k", None, {**needed, **given_settings})


def suggestions(space, number=50, seed=0):
    """(settings, trial) of a random search."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(number):
        trial = study.ask()
        yield space.suggest(trial), trial


def write(tmp_path, text, name="space.yaml"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


# --- the forms --------------------------------------------------------------------------------------------------------


def test_every_form_becomes_a_distribution(tmp_path):
    text = """
learning_rate: {low: 1e-3, high: .02, log: true}
n_personas: {low: 1, high: 4}
lambda_p: {low: 0.0, high: 0.5, step: 0.1}
train_batch_size: {low: 256, high: 1100, step: 256}
reg_weight: {low: 0, high: 0.5}
embedding_size: [32, 64, 128]
train_neg_sample_args: [~, {distribution: uniform, sample_num: 4}]
"""
    found = {name: known.distribution for name, known in read_space(write(tmp_path, text), "AMPCF").parameters.items()}
    assert found == {
        "learning_rate": FloatDistribution(0.001, 0.02, log=True),
        "n_personas": IntDistribution(1, 4),
        "lambda_p": FloatDistribution(0.0, 0.5, step=0.1),
        "train_batch_size": IntDistribution(256, 1024, step=256),
        "reg_weight": FloatDistribution(0.0, 0.5),
        "embedding_size": CategoricalDistribution((32, 64, 128)),
        "train_neg_sample_args": CategoricalDistribution((None, '{"distribution": "uniform", "sample_num": 4}')),
    }


def test_a_suggestion_lies_in_its_range_and_passes_the_checks_of_config():
    space, config = read_space(ALL_FORMS, AMPCF), config_of("AMPCF")
    kinds = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found, trial in suggestions(space, 200):
            check_values(found, config.internal_config_dict)
            assert 0.001 <= found["learning_rate"] <= 0.02 and found["n_personas"] in (1, 2, 3, 4)
            assert found["lambda_p"] in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5) and type(found["n_personas"]) is int
            assert ("temperature" in found) == (found["attention"] == "learned")
            assert ("item_bias" in found) == (found["attention"] != "uniform" and found["n_personas"] < 3)
            assert found["train_neg_sample_args"] in ALL_FORMS["train_neg_sample_args"]
            assert space.decode(trial.params) == found and set(trial.params) == set(found)
            kinds.add((found["attention"], found["n_personas"]))
    assert len(kinds) == 12


def test_a_condition_may_stand_before_what_it_waits_for():
    reverse = dict(reversed(ALL_FORMS.items()))
    space = read_space(reverse, "AMPCF")
    assert list(space.parameters).index("temperature") > list(space.parameters).index("attention")
    assert all("temperature" not in found or found["attention"] == "learned" for found, _ in suggestions(space))


def test_a_parameter_that_waits_for_one_that_is_left_out_is_left_out():
    chain = {
        "attention": ["learned", "fixed"],
        "variant": {"choices": ["journal", "conference"], "when": {"attention": "learned"}},
        "attention_size": {"low": 8, "high": 64, "log": True, "when": {"variant": "conference"}},
    }
    found = [set(names) for names, _ in suggestions(read_space(chain, "AMPCF"))]
    full = set(chain)
    assert all(names in ({"attention"}, full - {"attention_size"}, full) for names in found)
    assert {"attention"} in found and full in found


def test_a_condition_on_a_choice_that_is_a_list():
    lists = {"mlp_hidden_size": [[64], [64, 32]], "dropout_prob": {"low": 0.0, "high": 0.5}}
    for wanted in ([64, 32], [[64, 32]]):
        lists["dropout_prob"]["when"] = {"mlp_hidden_size": wanted}
        for found, _ in suggestions(read_space(lists, "NeuMF"), 10):
            assert ("dropout_prob" in found) == (found["mlp_hidden_size"] == [64, 32])


def test_the_example_of_the_page_is_a_space(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "space.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    space = read_space(write(tmp_path, example), "AMPCF")
    assert len(space.parameters) == 9 and space.defaults(config_of("AMPCF"))[1] == []


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "QMCSampler"])
def test_samplers_search_a_space_with_conditions(sampler):
    space = read_space(ALL_FORMS, "AMPCF")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=1))
        study.enqueue_trial(space.defaults(config_of("AMPCF"))[0])
        study.optimize(lambda trial: abs(space.suggest(trial)["learning_rate"] - 0.004), n_trials=25)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)


# --- choices ----------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def exactly(value):
    """A text that differs for 1, 1.0 and True."""
    return json.dumps(value, sort_keys=True)


@settings(deadline=None)
@given(st.lists(JSON, min_size=2, max_size=6, unique_by=exactly))
def test_choices_come_back_as_they_were_written(choices):
    known = read_space({"embedding_size": choices}, "AMPCF").parameters["embedding_size"]
    stored = json.loads(optuna.distributions.distribution_to_json(known.distribution))["attributes"]["choices"]
    assert len(stored) == len(choices)
    for value, choice in zip(stored, choices):  # as another process reads them from the database
        assert value is None or isinstance(value, (str, bool, int, float))
        assert exactly(known.decode(value)) == exactly(choice)
    for index, choice in enumerate(choices):
        value = known.distribution.to_external_repr(known.distribution.to_internal_repr(stored[index]))
        assert exactly(known.decode(value)) == exactly(choice)  # none is taken for another


def test_choices_that_python_holds_for_equal_are_kept_apart():
    known = read_space({"embedding_size": [1, True, 1.0, [1], "[1]", None, "null"]}, "AMPCF").parameters[
        "embedding_size"
    ]
    assert len({exactly(known.decode(value)) for value in known.distribution.choices}) == 7


def test_what_a_trial_does_to_a_choice_stays_with_it():
    space = read_space({"mlp_hidden_size": [[64], [32]]}, "NeuMF")
    space.decode({"mlp_hidden_size": "[64]"})["mlp_hidden_size"].append(1)
    assert space.decode({"mlp_hidden_size": "[64]"}) == {"mlp_hidden_size": [64]}


@pytest.mark.parametrize("params", [{"embedding_size": 5}, {"n_layers": 3}])
def test_a_trial_of_another_space_is_refused(params):
    with pytest.raises(UserError, match="another search space"):
        read_space({"embedding_size": [32, 64]}, "BPR").decode(params)


# --- the space as a whole ---------------------------------------------------------------------------------------------


def test_hash_is_of_the_content_alone(tmp_path):
    space = read_space(ALL_FORMS, "AMPCF")
    turned = {
        name: dict(reversed(form.items())) if isinstance(form, dict) else form for name, form in ALL_FORMS.items()
    }
    assert read_space(dict(reversed(turned.items())), "AMPCF").hash == space.hash
    assert read_space(write(tmp_path, yaml.safe_dump(ALL_FORMS)), "AMPCF").hash == space.hash
    assert read_space(space.plain(), "AMPCF") == space
    assert json.loads(json.dumps(space.plain())) == space.plain()
    for change in (
        {"embedding_size": [64, 32, 128]},
        {"n_personas": {"low": 1, "high": 5}},
        {"lambda_p": {"low": 0.0, "high": 0.5}},
        {"learning_rate": {"low": 0.001, "high": 0.02}},
        {"temperature": {"low": 0.5, "high": 2}},
    ):
        assert read_space({**ALL_FORMS, **change}, "AMPCF").hash != space.hash


def test_a_parameter_prints_its_range():
    printed = {name: str(known) for name, known in read_space(ALL_FORMS, "AMPCF").parameters.items()}
    assert printed["learning_rate"] == "0.001 to 0.02 (log)"
    assert printed["n_personas"] == "1 to 4"
    assert printed["lambda_p"] == "0 to 0.5 in steps of 0.1"
    assert printed["embedding_size"] == "32, 64, 128"
    assert printed["item_bias"] == "True, False, when n_personas is 1 or 2 and attention is learned or argmax"


def test_defaults_are_where_the_search_begins():
    space = read_space(ALL_FORMS, "AMPCF")
    params, outside = space.defaults(config_of("AMPCF"))
    assert params == {
        "learning_rate": 0.005,
        "n_personas": 4,
        "lambda_p": 0.0,
        "embedding_size": 64,
        "attention": "learned",
        "temperature": 1.0,
        "train_neg_sample_args": None,
    }
    assert not outside
    params, outside = space.defaults(config_of("AMPCF", learning_rate=0.1, attention="uniform", lambda_p=0.05))
    assert outside == ["learning_rate", "lambda_p"]
    assert "temperature" not in params and not {"learning_rate", "lambda_p"} & set(params)


def test_lists_in_defaults_are_enqueued_as_optuna_stores_them():
    params, _ = read_space(None, "NGCF").defaults(config_of("NGCF"))
    assert params["hidden_size_list"] == "[64, 64, 64]"
    study = optuna.create_study()
    study.enqueue_trial(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_space(None, "NGCF").suggest(study.ask())["hidden_size_list"] == [64, 64, 64]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"embedding_size": {"low": 0.5, "high": 64}}, "embedding_size must be a whole number"),
        ({"embedding_size": [64, "large"]}, "embedding_size must be a whole number"),
        ({"learning_rate": {"low": -0.1, "high": 0.1}}, "learning_rate must be a positive number"),
        ({"train_neg_sample_args": [None, {"sample_nun": 4}]}, "sample_num"),
    ],
)
def test_a_space_with_values_that_the_config_refuses_never_begins(form, words):
    with pytest.raises(UserError, match=f"search space does not fit.*{words}"):
        read_space(form, "AMPCF").defaults(config_of("AMPCF"))


# --- RecBole's hyper files --------------------------------------------------------------------------------------------

HYPER = """
# bpr
learning_rate loguniform -8,-2
dropout_prob uniform 0.0, 0.5
k quniform 10,500,10
shrink quniform 0.1,1,0.25
embedding_size choice [32, 64,128]
mlp_hidden_size choice ['[64,32,16]','[32]', '[]']
hidden_act choice ["gelu",'relu']
"""


def test_hyper_files_mean_what_they_mean_to_hyperopt(tmp_path):
    found = read_space(write(tmp_path, HYPER, "bpr.hyper"), "BPR")
    assert {name: known.distribution for name, known in found.parameters.items()} == {
        "learning_rate": FloatDistribution(math.exp(-8), math.exp(-2), log=True),
        "dropout_prob": FloatDistribution(0.0, 0.5),
        "k": IntDistribution(10, 500, step=10),
        "shrink": FloatDistribution(0.0, 1.0, step=0.25),
        "embedding_size": CategoricalDistribution((32, 64, 128)),
        "mlp_hidden_size": CategoricalDistribution(("[64, 32, 16]", "[32]", "[]")),
        "hidden_act": CategoricalDistribution(("gelu", "relu")),
    }
    assert found.decode({"mlp_hidden_size": "[64, 32, 16]"}) == {"mlp_hidden_size": [64, 32, 16]}


def test_hyperopt_draws_from_the_same_values(tmp_path):
    stochastic = pytest.importorskip("hyperopt.pyll.stochastic")
    import numpy as np
    from recbole.trainer.hyper_tuning import HyperTuning

    file = write(tmp_path, HYPER, "bpr.hyper")
    ours = read_space(file, "BPR")
    theirs = HyperTuning._build_space_from_file(str(file))
    assert set(theirs) == set(ours.parameters)
    drawn = {name: set() for name in theirs}
    for seed in range(60):
        for name, value in stochastic.sample(theirs, rng=np.random.default_rng(seed)).items():
            known = ours.parameters[name]
            value = json.loads(value) if name == "mlp_hidden_size" else value
            value = int(value) if isinstance(known.distribution, IntDistribution) else value
            known.encode(value)  # a LookupError would say that hyperopt goes where we do not
            drawn[name].add(str(value))
    assert drawn["shrink"] == {"0.0", "0.25", "0.5", "0.75", "1.0"}


# --- what ships -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_space_fits_its_model(name):
    config = config_of(name)
    space = read_space(None, config["model"])
    for key in space.parameters:
        assert key in config.internal_config_dict or is_read(key, config.model_class, anywhere=False), key
    params, outside = space.defaults(config)
    assert not outside
    assert params
    for found, _ in suggestions(space, 20):
        check_values({**config.external_config_dict, **found}, config.internal_config_dict)


def test_the_models_that_people_compare_with_have_spaces():
    wanted = (
        "AMPCF BPR LightGCN NGCF MultiVAE MultiDAE MacridVAE RecVAE NeuMF DMF ItemKNN EASE SLIMElastic ADMMSLIM NCL SGL"
    )
    wanted += " SimpleX DiffRec LDiffRec GRU4Rec SASRec BERT4Rec NARM Caser FM DeepFM WideDeep xDeepFM AutoInt DIN"
    assert set(wanted.split()) <= set(SHIPPED)
    assert set(SHIPPED) <= {"AMPCF", "UserEncoder", "POD", "PeaPOD", "recbole:DIN", *recbole_model_names()}
    assert read_space(None, "amp-cf") == read_space(None, AMPCF) == read_space(None, "AMPCF")
    assert read_space(None, "recbole:DIN") == read_space(None, get_model("recbole:DIN"))
    assert read_space(None, "DIN") == read_space(None, get_model("DIN")) != read_space(None, "recbole:DIN")


def test_what_the_settings_fix_leaves_the_space():
    space = read_space(
        {
            "attention": ["learned", "uniform"],
            "temperature": {"low": 0.5, "high": 2.0, "when": {"attention": "learned"}},
            "n_personas": [1, 2, 4],
        },
        "AMPCF",
    )
    assert list(space.without({"n_personas": 1}).parameters) == ["attention", "temperature"]
    learned = space.without({"attention": "learned", "epochs": 3}).parameters
    assert set(learned) == {"temperature", "n_personas"} and learned["temperature"].when == {}
    assert list(space.without({"attention": "uniform"}).parameters) == ["n_personas"]
    with pytest.raises(UserError, match="fix every parameter"):
        space.without({"attention": "uniform", "n_personas": 2})
    assert space.without({}).hash == space.hash
