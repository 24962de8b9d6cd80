"""The choice of settings over several seeds: the one-standard-error rule, finalists as trials, values at an end."""

import json
import statistics
from functools import partial
from pathlib import Path

import pytest
from guesser import Guesser, diary, write_data
from hypothesis import given
from hypothesis import strategies as st

from recbole_persona import tune
from recbole_persona.cli import main
from recbole_persona.errors import UserError
from recbole_persona.search.selection import Finalist, choose, edges, standard_error
from recbole_persona.search.space_files import read_space

SPACE = {"skill": {"choices": [0.1, 0.3, 0.5, 0.7], "simpler": "smaller"}}


def started(place, more=None, **options):
    settings = write_data(place) | {"luck": 20.0} | (more or {})
    options = {"space": SPACE, "sampler": "grid", "trials": 9, "seeds": [], "study_dir": place / "study", **options}
    return tune(Guesser, "tiny", config_dict=settings, **options)


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A search that chose over three seeds, and the file with a line for every training step."""
    place = tmp_path_factory.mktemp("selected")
    found = started(place, {"diary": str(place / "diary")}, select_seeds=[7, 8], finalists=3)
    return found, place


def test_the_finalists_are_the_best_trials_trained_with_every_seed(selected):
    found, _ = selected
    told = found["selection"]
    ranked = sorted(found["trials"], key=lambda row: (-row["value"], row["number"]))
    assert told["seeds"] == [2020, 7, 8]
    assert [each["number"] for each in told["finalists"]] == [row["number"] for row in ranked[:3]]
    assert [each["scores"][0] for each in told["finalists"]] == [row["value"] for row in ranked[:3]]
    assert len({score for each in told["finalists"] for score in each["scores"]}) > 3  # seeds do differ
    variances = [statistics.variance(each["scores"]) for each in told["finalists"]]
    assert told["standard_error"] == pytest.approx((statistics.mean(variances) / 3) ** 0.5)
    near = [
        each
        for each in told["finalists"]
        if each["mean"] >= max(other["mean"] for other in told["finalists"]) - told["standard_error"]
    ]
    simplest = min(near, key=lambda each: each["params"]["skill"])  # all have one parameter
    assert (told["chosen"], found["best_params"]) == (simplest["number"], simplest["params"])
    assert found["budget"]["trials"] == 4
    assert found["budget"]["epochs"] == sum(row["epochs"] for row in found["trials"]) + 3 * 2 * 3


def test_a_complete_choice_trains_nothing_again_and_more_seeds_are_asked_for_by_resume(selected):
    found, place = selected
    more = {"diary": str(place / "diary")}
    before = len(diary(place / "diary"))
    assert started(place, more, select_seeds=[7, 8], finalists=3) == found
    with pytest.raises(UserError, match="--resume"):
        started(place, more, select_seeds=[7, 8, 9], finalists=3)
    again = started(place, more, select_seeds=[7, 8, 9], finalists=3, resume=True)
    assert again["selection"]["seeds"] == [2020, 7, 8, 9] and again["trials"] == found["trials"]
    assert len(diary(place / "diary")) > before
    assert not (place / "study" / "finalists").exists()


def test_a_finalist_equals_a_search_with_its_seed(selected, tmp_path):
    """The scores of the further seeds are those of searches that begin with these seeds."""
    found, _ = selected
    other = started(tmp_path, {"seed": 7})
    scores = {row["params"]["skill"]: row["value"] for row in other["trials"]}
    for each in found["selection"]["finalists"]:
        assert each["scores"][1] == scores[each["params"]["skill"]]


@pytest.mark.slow
def test_two_workers_choose_alike(selected, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    _, place = selected
    whole = started(place, {"diary": str(place / "diary")}, select_seeds=[7, 8, 9], finalists=3, resume=True)
    shared = started(tmp_path, {"diary": str(tmp_path / "diary")}, select_seeds=[7, 8, 9], finalists=3, workers=2)
    by_skill = {each["params"]["skill"]: each["scores"] for each in whole["selection"]["finalists"]}
    assert {each["params"]["skill"]: each["scores"] for each in shared["selection"]["finalists"]} == by_skill
    assert shared["best_params"] == whole["best_params"]


def test_the_command_prints_the_choice(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(json.dumps(SPACE))
    settings = [f"--{key}={value}" for key, value in (write_data(tmp_path) | {"luck": 20.0}).items()]
    options = ["--space=space.yaml", "--sampler=grid", "--trials=4", "--seeds=none", "--finalists=all"]
    main(["tune", "--model=guesser:Guesser", "--dataset=tiny", *options, "--select_seeds=7,8", *settings])
    shown = capsys.readouterr().out
    assert "seeds 2020, 7, 8" in shown and "within one standard error" in shown


@given(
    st.lists(st.tuples(st.integers(1, 3), st.lists(st.floats(0, 1), min_size=2, max_size=2)), min_size=1, max_size=6),
    st.sampled_from(["maximize", "minimize"]),
)
def test_the_rule_against_a_plain_reading_of_it(drawn, direction):
    space = read_space({"reg_weight": {"low": 0.0, "high": 9.0, "simpler": "larger"}}, "AMPCF")
    finalists = [
        Finalist(number, {"reg_weight": float(number)}, parameters, dict(enumerate(scores)))
        for number, (parameters, scores) in enumerate(drawn)
    ]
    chosen = choose(finalists, space, direction)
    sign = 1 if direction == "maximize" else -1
    means = [sign * sum(scores) / 2 for _, scores in drawn]
    error = (sum(statistics.variance(scores) for _, scores in drawn) / len(drawn) / 2) ** 0.5
    assert standard_error(finalists) == pytest.approx(error, abs=1e-12)
    near = [number for number, mean in enumerate(means) if mean >= max(means) - standard_error(finalists)]
    fewest = min(drawn[number][0] for number in near)
    assert chosen.number == max(number for number in near if drawn[number][0] == fewest)


def test_values_at_an_end_of_their_range():
    space = read_space(
        {
            "reg_weight": [0.3, 0.1, 0.2],
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "n_personas": {"low": 1, "high": 8},
            "temperature": [0.5, 1.0],
            "attention": ["learned", "fixed", "uniform"],
            "alpha": {"low": 0.0, "high": 1.0},
        },
        "AMPCF",
    )
    found = partial(edges, space)
    assert found({"reg_weight": 0.3, "learning_rate": 1.05e-4}) == {"reg_weight": "upper", "learning_rate": "lower"}
    assert found({"reg_weight": 0.2, "learning_rate": 1e-3, "n_personas": 8}) == {"n_personas": "upper"}
    assert found({"temperature": 1.0, "attention": "uniform", "alpha": 0.0}) == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"select_seeds": [2020]}, "none of them the search's own seed"),
        ({"select_seeds": [7, 7]}, "each once"),
        ({"select_seeds": [7], "finalists": 1}, "at least 2"),
        ({"select_seeds": [7], "objectives": ["ndcg@3", "parameters"]}, "one objective"),
        ({"space": {"skill": {"choices": [0.1, 0.2], "simpler": "more"}}}, "larger or smaller"),
    ],
)
def test_what_is_refused(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        started(tmp_path, **options)
    assert not Path(tmp_path / "study").exists()
