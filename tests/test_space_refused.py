"""Search spaces that are none: one sentence each, and never another exception."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_space import ALL_FORMS, JSON, suggestions, write

from recbole_persona.errors import UserError
from recbole_persona.search.space_files import read_space


def refused(source, *words, model="AMPCF"):
    """The one sentence with which the space is refused."""
    with pytest.raises(UserError) as caught:
        read_space(source, model)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and all(word in text for word in words), text
    return text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("learning_rate choice __import__('pathlib').Path('ran').touch()", ["line 1", "choice takes a list"]),
        ("learning_rate choice [0.1,0.01", ["choice takes a list"]),
        ("learning_rate choice 0.1", ["choice takes a list"]),
        ("learning_rate choice", ["choice takes a list"]),
        ("learning_rate choice []", ["no choices"]),
        ("learning_rate choice [0.1]", ["one choice"]),
        ("learning_rate uniform 0.1", ["uniform takes low,high"]),
        ("learning_rate uniform 0.1,0.2,0.3", ["uniform takes low,high"]),
        ("learning_rate uniform 0.2,0.1", ["empty range"]),
        ("learning_rate uniform a,b", ["uniform takes low,high"]),
        ("learning_rate uniform 0,inf", ["uniform takes low,high"]),
        ("learning_rate loguniform 0,1000", ["loguniform takes"]),
        ("learning_rate loguniform -1000,0", ["above 0"]),
        ("learning_rate quniform 1,4", ["quniform takes low,high,q"]),
        ("learning_rate quniform 1,4,0", ["quniform takes low,high,q"]),
        ("learning_rate quniform 1,4,nan", ["quniform takes low,high,q"]),
        ("learning_rate quniform 1,4,100", ["empty range"]),
        ("learning_rate normal 1,4", ["line 1", "choice, uniform, quniform or loguniform"]),
        ("learning_rate: [0.1, 0.2]", ["YAML ends in .yaml"]),
        ("learning_rat choice [0.1,0.2]", ["learning_rate"]),
        ("embedding_size choice [1,2]\nembedding_size choice [3,4]", ["line 2", "twice"]),
        ("# nothing", ["no parameter"]),
    ],
)
def test_a_hyper_file_that_is_none_is_refused(line, words, tmp_path, elsewhere):
    refused(write(tmp_path, line, "space.hyper"), *words)
    assert not (tmp_path / "ran").exists()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("learning_rate: [0.01]", ["learning_rate", "one choice"]),
        ("learning_rate: []", ["learning_rate", "no choices"]),
        ("learning_rate: {choices: []}", ["no choices"]),
        ("learning_rate: {choices: 3}", ["list of choices"]),
        ("learning_rate: 0.01", ["list of choices", "low"]),
        ("learning_rate:", ["list of choices"]),
        ("learning_rate: {}", ["no low"]),
        ("learning_rate: {low: 0.1}", ["no high"]),
        ("learning_rate: {low: 0.1, high: ~}", ["no high"]),
        ("learning_rate: {low: 0.2, high: 0.1}", ["empty range", "0.2", "0.1"]),
        ("learning_rate: {low: 0.1, high: 0.1}", ["empty range"]),
        ("learning_rate: {lo: 0.1, high: 0.2}", ["'lo'", "nearest is 'low'"]),
        ("learning_rate: {low: 0.1, high: 0.2, 3: 4}", ["no attribute 3"]),
        ("learning_rate: {low: 0.0, high: 0.2, log: true}", ["above 0 for log"]),
        ("learning_rate: {low: -1, high: 2, log: true}", ["above 0 for log"]),
        ("learning_rate: {low: 0.1, high: 0.2, log: 1}", ["true or false"]),
        ("learning_rate: {low: 0.1, high: 0.5, log: true, step: 0.1}", ["log and step"]),
        ("learning_rate: {low: 0.1, high: 0.5, step: 0}", ["step of 0"]),
        ("learning_rate: {low: 0.1, high: 0.5, step: -0.1}", ["step of -0.1"]),
        ("learning_rate: {low: 0.1, high: 0.5, step: 1}", ["step of 1"]),
        ("learning_rate: {low: 0.1, high: 0.5, step: 1e-300}", ["step of 1e-300"]),
        ("learning_rate: {low: 0.1, high: .inf}", ["high a number"]),
        ("learning_rate: {low: .nan, high: 1}", ["low a number"]),
        ("learning_rate: {low: small, high: 1}", ["low a number", "'small'"]),
        ("learning_rate: {low: false, high: true}", ["low a number"]),
        ("learning_rate: {low: 1, high: 99999999999999999999}", ["high a number"]),
        ("learning_rate: {choices: [1, 2], low: 1}", ["choices and a range"]),
        ("learning_rate: [0.1, 0.1]", ["0.1 twice"]),
        ("learning_rate: [{a: 1, b: 2}, {b: 2, a: 1}]", ["twice"]),
        ("learning_rate: [0.1, .nan]", ["finite numbers"]),
        ("learning_rate: [2020-01-01, 1]", ["finite numbers"]),
        ("learning_rate: [{1: 2}, 1]", ["finite numbers"]),
        ("learning_rate: &a [*a, *a]", ["finite numbers"]),
        ("lerning_rate: [0.1, 0.2]", ["'lerning_rate'", "no config key", "nearest is 'learning_rate'"]),
        ("xgb_params.max_depth: [1, 2]", ["whole mappings"]),
        ("3: [0.1, 0.2]", ["3", "no name"]),
        ("seed: [1, 2]", ["seed", "compared"]),
        ("valid_metric: ['NDCG@10', 'MRR@10']", ["compared"]),
        ("learning_rate: [1, 2]\nlearning_rate: [3, 4]", ["line 2", "twice"]),
        ("learning_rate: {low: 1, low: 2, high: 3}", ["low stands twice"]),
        ("learning_rate: [0.1, 0.2", ["line 1", "not valid YAML"]),
        ("- learning_rate", ["key: value"]),
        ("learning_rate choice [0.1,0.2]", ["key: value"]),
        ("", ["no parameter"]),
        ("learning_rate: [!!int x, 1]", ["cannot be read"]),
        ("learning_rate: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
    ],
)
def test_a_space_that_is_none_is_refused(form, words, tmp_path):
    refused(write(tmp_path, form), *words)


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ("learned", ["when", "condition"]),
        ({}, ["when", "condition"]),
        ({"atention": "learned"}, ["'atention'", "not in the space", "nearest is 'attention'"]),
        ({"attention": "lerned"}, ["'lerned'", "never is"]),
        ({"attention": []}, ["empty list"]),
        ({"n_personas": 5}, ["5", "never is"]),
        ({"n_personas": 1.5}, ["never is"]),
        ({"learning_rate": 0.01}, ["no single values"]),
        ({"temperature": 1}, ["no single values"]),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(when, words):
    refused({**ALL_FORMS, "temperature": {"low": 0.5, "high": 2, "when": when}}, "temperature", *words)


def test_conditions_in_a_circle_are_refused():
    circle = {
        "attention": {"choices": ["learned", "fixed"], "when": {"variant": "journal"}},
        "variant": {"choices": ["journal", "conference"], "when": {"attention": "learned"}},
    }
    refused(circle, "attention and variant", "each other")
    refused({"attention": {"choices": ["learned", "fixed"], "when": {"attention": "fixed"}}}, "each other")


def test_files_and_models_that_are_not_there(tmp_path):
    refused(tmp_path / "no.yaml", "no search space", "no.yaml")
    refused(tmp_path, "no search space")
    refused("\0", "no search space")
    refused("a" * 5000 + ".yaml", "cannot be read")
    refused(None, "No search space ships for Pop", "AMPCF, ", model="Pop")
    refused(None, "no model named 'LightGNC'", "LightGCN", model="LightGNC")
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"learning_rate: [\xff, 1]")
    refused(bad, "UTF-8")
    refused(bad.rename(tmp_path / "bad.hyper"), "cannot be read")


WORDS = st.sampled_from(
    [
        "learning_rate",
        "n_layers",
        "low",
        "high",
        "log",
        "step",
        "when",
        "choices",
        "true",
        "~",
        "1",
        "0.5",
        "1e-3",
        "-1",
    ]
    + [
        "choice",
        "uniform",
        "quniform",
        "loguniform",
        "[1,2]",
        "1,2",
        "1,2,1",
        ".nan",
        "!!int",
        "!!timestamp",
        "&a",
        "*a",
    ]
)
MARKS = st.sampled_from([": ", ", ", "{", "}", "[", "]", "\n", "\n  ", "- ", " ", "'", '"', "#", "|", "<<: "])
GARBAGE = st.lists(WORDS | MARKS, max_size=20).map("".join) | st.text(max_size=60)


@settings(deadline=None, max_examples=200)
@given(text=GARBAGE, ending=st.sampled_from(["yaml", "hyper"]))
def test_any_text_is_a_space_or_refused(text, ending, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / f"garbage.{ending}"
    file.write_text(text, encoding="utf-8", errors="replace")
    survives(file)


ENDS = st.integers(-5, 5) | st.floats() | JSON
FORMS = JSON | st.fixed_dictionaries(
    {"low": ENDS, "high": ENDS},
    optional={"log": st.booleans(), "step": ENDS, "choices": JSON, "when": JSON},
)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from(["learning_rate", "n_layers", "attention", 3, ""]), FORMS, max_size=3))
def test_any_mapping_is_a_space_or_refused(source):
    survives(source)


def survives(source):
    try:
        space = read_space(source, "AMPCF")
    except UserError as error:
        assert str(error).endswith(".")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found, trial in suggestions(space, 3):
            assert space.decode(trial.params) == found
            for name, value in found.items():
                form = space.parameters[name].plain()
                if "low" in form:
                    assert form["low"] <= value <= form["high"]
                space.parameters[name].encode(value)  # what was suggested can be enqueued again
    assert read_space(space.plain(), "AMPCF") == space
