"""Searches in one process: what is tried, judged, pruned, recorded, refused and returned."""

import json
import os
from functools import partial
from pathlib import Path

import optuna
import pytest
import yaml
from guesser import SPACE, Guesser, diary, write_data
from tiny import contents, refused

from recbole_persona import run, tune
from recbole_persona.cli import main
from recbole_persona.errors import UserError
from recbole_persona.search.space_files import read_space
from recbole_persona.search.study import make_pruner, make_sampler

MODEL = "guesser:Guesser"
pytestmark = pytest.mark.filterwarnings("error:.*has been deprecated in v:FutureWarning")  # what Optuna says of its own
CONDITIONAL = {"width": [1, 2], "skill": {"choices": [0.1, 0.2], "when": {"width": [2]}}}


@pytest.fixture
def search(tmp_path):
    """``tune`` for the guesser with few trials and no test; settings are given as ``more``."""
    return partial(started, tmp_path)


def started(place, more=None, **options):
    options = {"space": SPACE, "trials": 3, "seeds": [], "study_dir": place / "study", **options}
    return tune(Guesser, "tiny", config_dict=write_data(place) | (more or {}), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search that has finished, to be read only."""
    return started(tmp_path_factory.mktemp("finished"), trials=5, seeds=[2020, 7], sampler="random")


def loaded(found):
    return optuna.load_study(study_name=found["study_name"], storage=found["storage"])


def test_the_defaults_are_tried_first_and_the_best_is_chosen(finished):
    assert finished["trials"][0]["params"] == {"skill": 0.5, "width": 2}
    assert [row["number"] for row in finished["trials"]] == list(range(5))
    best = max((row for row in finished["trials"] if row["state"] == "complete"), key=lambda row: row["value"])
    assert finished["best_params"] == best["params"] and finished["best_value"] == best["value"] > 0
    assert finished["test"][0]["best_valid"]["ndcg@3"] == finished["best_value"]
    assert finished["budget"]["trials"] == 5
    assert finished["budget"]["epochs"] == sum(row["epochs"] for row in finished["trials"])
    folder = Path(finished["study_dir"])
    assert not (folder / "trials").exists()
    assert json.loads((folder / "study.json").read_text()) == finished


def test_the_best_file_is_ready_to_run(finished, tmp_path):
    written = yaml.safe_load(Path(finished["best_config"]).read_text())
    assert written["model"] == MODEL and written["dataset"] == "tiny"
    assert written["skill"] == finished["best_params"]["skill"]
    assert not {"gpu_id", "data_path", "run_dir", "device"} & written.keys() and str(tmp_path.parent) not in str(
        written
    )
    assert "epochs" in written and "learning_rate" not in written  # what was set, and nothing else
    row = finished["test"][1]
    machine = [f"--{key}={value}" for key, value in finished["machine"].items()]
    arguments = [
        f"--config_files={finished['best_config']}",
        f"--seed={row['seed']}",
        f"--run_dir={tmp_path}/again",
        *machine,
    ]
    assert main(["run", *arguments]) == 0
    again = json.loads((tmp_path / "again/result.json").read_text())
    assert again["test"] == row["test"] and again["best_valid"] == row["best_valid"]


def test_ml_100k_with_its_shipped_space(tmp_path, capsys):
    arguments = ["tune", "--model=AMPCF", "--dataset=ml-100k", "--trials=2", "--epochs=1", "--seeds=2020"]
    assert main([*arguments, f"--study_dir={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "the best of 2 trials (validation), ml-100k-AMPCF" in printed
    assert "2 trials, 0 pruned, 0 failed; 2 epochs" in printed
    assert "test of the best settings" in printed and f"run --config_files={tmp_path}/best.yaml" in printed
    files = contents(tmp_path)
    assert main([*arguments, f"--study_dir={tmp_path}"]) == 0  # a complete study is printed
    assert capsys.readouterr().out == printed and contents(tmp_path) == files


def test_trials_see_the_validation_part_alone(search, tmp_path):
    """The run of a trial that was stopped before its folder was cleared: no test result, and it can be resumed."""
    more = {"fault": "interrupt", "diary": str(tmp_path / "diary")}
    with pytest.raises(KeyboardInterrupt):
        search(more)
    folder = tmp_path / "study/trials/0"
    assert (folder / "state/last.safetensors").is_file() and not (folder / "result.json").exists()
    run(Guesser, "tiny", config_dict=yaml.safe_load((folder / "config.yaml").read_text()), resume=True, tested=False)
    result = json.loads((folder / "result.json").read_text())
    assert result["test"] == {} and result["best_valid"]["ndcg@3"] > 0
    found = search(more, resume=True)  # takes the run that is complete as it is
    assert found["trials"][0]["value"] == result["best_valid"]["ndcg@3"]
    assert len(diary(tmp_path / "diary")) == 4 + 3 + 3


# --- pruning ----------------------------------------------------------------------------------------------------------

SURE = [
    {"name": "median", "n_startup_trials": 1, "n_warmup_steps": 1},
    {"name": "growth", "n_warmup_steps": 1, "window": 1, "horizon": 0},
]


@pytest.mark.parametrize("pruner", SURE, ids=lambda pruner: pruner["name"])
@pytest.mark.parametrize(("metric", "worse"), [("ndcg@3", -0.9), ("averagepopularity@3", 0.9)])
def test_the_worse_trial_is_the_one_that_is_pruned(search, monkeypatch, metric, worse, pruner):
    """Also where less is better; and the better one is never pruned."""
    monkeypatch.setitem(Guesser.config_defaults, "skill", -worse)
    found = search(space={"skill": [-worse, worse]}, objectives=[metric], pruner=pruner, sampler="random", trials=4)
    states = {(row["params"]["skill"], row["state"]) for row in found["trials"]}
    assert states == {(-worse, "complete"), (worse, "pruned")}
    values = {row["value"] for row in found["trials"] if row["state"] == "pruned"}
    assert found["best_value"] not in values
    assert found["best_params"] == {"skill": -worse}
    direction = "maximize" if metric == "ndcg@3" else "minimize"
    assert found["objectives"] == {metric: direction}
    assert {row["epochs"] for row in found["trials"] if row["state"] == "pruned"} == {2}
    good, bad = (next(row["value"] for row in found["trials"] if row["params"]["skill"] == s) for s in (-worse, worse))
    assert good > bad if direction == "maximize" else good < bad


@pytest.mark.parametrize(
    ("name", "optunas"),
    [
        ("growth", "GrowthPruner"),
        ("median", "MedianPruner"),
        ("hyperband", "HyperbandPruner"),
        ("halving", "SuccessiveHalvingPruner"),
        ("percentile", "PercentilePruner"),
        ("none", "NopPruner"),
    ],
)
def test_pruners_by_name(name, optunas):
    assert type(make_pruner(name, True, epochs=5)).__name__ == optunas
    assert type(make_pruner(name, False, epochs=5)).__name__ == "NopPruner"


# --- samplers ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", ["tpe", "random", "gp", "cmaes", "qmc", "nsgaii"])
def test_samplers_by_name(name):
    """A sampler is made for every trial: none repeats another, and the same number gives the same trial again."""
    space = read_space(SPACE, Guesser)

    def tried(given):
        study = optuna.create_study()
        for begun in range(12):
            study.sampler = make_sampler(given, space, seed=3, begun=begun)
            study.optimize(lambda trial: space.suggest(trial)["skill"] ** 2, n_trials=1)
        return [tuple(trial.params.values()) for trial in study.trials]

    options = {"name": name, "n_startup_trials": 9} if name in ("tpe", "gp", "cmaes") else name
    first = tried(options)
    assert len(set(first)) == 12 and len({width for _, width in first}) > 1
    assert tried(options) == first


@pytest.mark.parametrize("sampler", ["grid", "brute"])
def test_a_finite_space_is_gone_through_once(search, sampler):
    space = {"skill": {"low": 0.0, "high": 0.1, "step": 0.1}, "width": [1, 2]}
    found = search(space=space, sampler=sampler, trials=50)
    tried = {(row["params"]["skill"], row["params"]["width"]) for row in found["trials"]}
    assert tried == {(s, w) for s in (0.0, 0.1) for w in (1, 2)} and found["budget"]["trials"] == 4
    assert search(space=space, sampler=sampler, trials=50) == found


def test_brute_force_heeds_conditions(search):
    found = search(space=CONDITIONAL, sampler="brute", trials=50)
    assert sorted(json.dumps(row["params"]) for row in found["trials"]) == [
        '{"width": 1}',
        '{"width": 2, "skill": 0.1}',
        '{"width": 2, "skill": 0.2}',
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampler": "tpee"}, "no sampler named 'tpee'; known are tpe, .* the nearest is 'tpe'"),
        ({"pruner": "medain"}, "no pruner named 'medain'; .* the nearest is 'median'"),
        ({"pruner": {"name": "median", "warmup": 3}}, "pruner median has no option 'warmup'; it has n_startup_trials"),
        ({"pruner": {"name": "percentile", "percentile": 200}}, "pruner percentile does not take these options"),
        ({"sampler": {"n_startup_trials": 3}}, "no sampler named 'none'"),
        ({"sampler": "grid"}, "range of skill has no steps"),
        ({"sampler": "grid", "space": CONDITIONAL}, "--sampler=brute"),
        ({"objectives": ["ndcg"]}, "objective 'ndcg' is not computed; write a metric as RecBole prints it"),
        ({"objectives": ["ndgc@3"]}, "no metric named 'ndgc'"),
        ({"objectives": ["ndcg@3", "NDCG@3"]}, "named twice"),
        ({"trials": 0}, "trials must be a whole number of at least 1"),
        ({"workers": "2"}, "workers must be a whole number"),
        ({"space": {"skil": [1]}}, "skil.*nearest is 'skill'"),
        ({"more": {"run_dir": "x"}}, "leave run_dir out"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_begins(search, tmp_path, options, sentence):
    more = options.pop("more", None)
    with pytest.raises(UserError, match=sentence):
        search(more, **options)
    assert not (tmp_path / "study/study.db").exists()


# --- several objectives -----------------------------------------------------------------------------------------------


def test_a_front(search, tmp_path, capsys):
    found = search(objectives=["ndcg@3", "averagepopularity@3", "parameters", "seconds_per_user"], trials=5)
    assert found["best_params"] is None and found["test"] is None and found["budget"]["pruned"] == 0
    values = [row["value"] for row in found["trials"]]
    signs = (1, -1, -1, -1)
    assert all(len(value) == 4 for value in values)

    def beats(a, b):
        return a != b and all(s * x >= s * y for s, x, y in zip(signs, a, b))

    front = sorted(row["number"] for row in found["trials"] if not any(beats(v, row["value"]) for v in values))
    assert sorted(point["number"] for point in found["front"]) == front
    assert [point["values"][0] for point in found["front"]] == sorted(
        (point["values"][0] for point in found["front"]), reverse=True
    )
    settings = found["machine"] | {"run_dir": str(tmp_path / "run")}
    assert run(config_file_list=[found["front"][-1]["config"]], config_dict=settings)["result"]
    arguments = {"study_dir": tmp_path / "study", "space": tmp_path / "space.yaml", "trials": 5, **write_data(tmp_path)}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    objectives = "--objectives=ndcg@3,averagepopularity@3,parameters,seconds_per_user"
    flags = [f"--{key}={value}" for key, value in arguments.items()]
    assert main(["tune", f"--model={MODEL}", "--dataset=tiny", objectives, *flags]) == 0
    printed = capsys.readouterr().out
    assert "the front" in printed and "best-1.yaml" in printed


def test_a_metric_that_stands_alone_becomes_the_one_of_early_stopping(search):
    found = search(objectives=["recall@2"])
    written = yaml.safe_load(Path(found["best_config"]).read_text())
    assert written["valid_metric"] == "recall@2" and written["topk"] == [3, 2]


# --- failing trials ---------------------------------------------------------------------------------------------------


def test_failing_trials_are_recorded_and_the_search_goes_on(search, capsys):
    space = {"fault": ["none", "nan", "memory", "value"]}
    found = search(space=space, sampler="brute", trials=10)
    reasons = {row["params"]["fault"]: row["reason"] for row in found["trials"]}
    assert found["budget"]["trials"] == 4 and found["budget"]["failed"] == 3 and reasons["none"] is None
    assert "not a number" in reasons["nan"]
    assert reasons["memory"] == "MemoryError: the cat sat on it."
    assert reasons["value"] == "ValueError: 2 heads do not divide a width of 3."
    assert [row["epochs"] for row in found["trials"] if row["params"]["fault"] == "value"] == [1]


def test_a_search_in_which_everything_fails_ends(search, tmp_path):
    with pytest.raises(UserError, match="The first 5 trials all failed, the last because: ValueError: 2 heads"):
        search({"fault": "value"}, trials=50)
    with pytest.raises(UserError, match=r"No trial was completed \(ValueError: 2 heads"):
        search({"fault": "value"}, trials=2, study_dir=tmp_path / "short")


# --- stopping and going on --------------------------------------------------------------------------------------------


def test_ctrl_c_loses_nothing(search, tmp_path):
    """The trial goes on from its own checkpoint, and the search tries what it would have tried."""
    whole = search({"diary": ""}, trials=2, study_dir=tmp_path / "whole", study_name="whole")
    file = tmp_path / "diary"
    more = {"diary": str(file), "fault": "interrupt"}
    with pytest.raises(KeyboardInterrupt, match=r"go on with --resume"):
        search(more, trials=2)
    with pytest.raises(UserError, match=r"not complete \(0 of 2 trials\); go on with --resume"):
        search(more, trials=2)
    found = search(more, trials=2, resume=True)
    assert [step for _, _, step in diary(file)] == [0, 1, 1, 2] + [0, 1, 2]  # step 1 was cut short
    assert [(r["params"], r["value"], r["epochs"]) for r in found["trials"]] == [
        (r["params"], r["value"], r["epochs"]) for r in whole["trials"]
    ]
    assert [trial.state.name for trial in loaded(found).trials].count("FAIL") == 1


def test_more_trials_and_more_seeds(search):
    first = search(trials=1, seeds=[1])
    with pytest.raises(UserError, match=r"complete study of 1 trials, tested with the seeds 1; .* --resume"):
        search(trials=2, seeds=[1])
    with pytest.raises(UserError, match="holds a study with other settings"):
        search({"train_batch_size": 7}, trials=1, seeds=[1])
    more = search(trials=2, seeds=[1, 2], resume=True)
    assert more["trials"][:1] == first["trials"] and len(more["trials"]) == 2
    assert [row["seed"] for row in more["test"]] == [1, 2]
    assert search(trials=1, seeds=[1]) == more  # asked for less than there is


def test_a_timeout_begins_no_trial(search):
    slow, options = {"pause": 0.1}, {"sampler": "random", "trials": 30, "pruner": "none"}
    found = search(slow, **options, timeout=3)
    first = found["budget"]["trials"]
    assert 1 <= first < 30
    assert {trial.state.name for trial in loaded(found).trials} == {"COMPLETE"}
    assert search(slow, **options, timeout=3, resume=True) == found  # complete all the same
    assert search(slow, **options, timeout=1, resume=True)["budget"]["trials"] > first


def begun(search, **options):
    """A study that is not complete: stopped by Ctrl-C in its first trial."""
    with pytest.raises(KeyboardInterrupt):
        search({"fault": "interrupt", "diary": str(options.pop("diary"))}, **options)


@pytest.mark.parametrize(
    ("options", "more", "sentence"),
    [
        ({"space": {"width": [1, 2]}}, {}, "made with another search space; put the space back as it was"),
        ({}, {"epochs": 5}, r"made with other settings \(epochs was 3 and is 5\)"),
        ({"objectives": ["ndcg@3", "parameters"]}, {}, "has the objectives ndcg@3; name another"),
    ],
)
def test_another_search_under_the_same_name_is_refused(search, tmp_path, options, more, sentence):
    file = tmp_path / "diary"
    begun(search, diary=file)
    with pytest.raises(UserError, match=sentence):
        search({"fault": "interrupt", "diary": str(file)} | more, resume=True, **options)


def test_a_study_of_another_optuna_or_of_somebody_else_is_refused(search, tmp_path):
    storage = f"sqlite:///{tmp_path}/other.db"
    optuna.create_study(study_name="theirs", storage=storage).enqueue_trial({"x": 1})
    with pytest.raises(UserError, match="not made by recbole_persona"):
        search(storage=storage, study_name="theirs")
    begun(search, diary=tmp_path / "diary", storage=storage, study_name="mine")
    optuna.load_study(study_name="mine", storage=storage).set_user_attr("optuna", "3.6.1")
    with pytest.raises(UserError, match=r"made with Optuna 3\.6\.1, whose samplers are others"):
        search(
            {"fault": "interrupt", "diary": str(tmp_path / "diary")}, storage=storage, study_name="mine", resume=True
        )


def test_one_search_at_a_time_in_a_folder(search, tmp_path):
    from filelock import FileLock

    (tmp_path / "study").mkdir()
    with FileLock(tmp_path / "study/.lock"), pytest.raises(UserError, match=r"Another search is at work in .*--join"):
        search()


# --- what others see --------------------------------------------------------------------------------------------------


def test_optunas_own_plots_open_on_the_storage(finished):
    study, plots = loaded(finished), optuna.visualization
    for plot in (plots.plot_optimization_history, plots.plot_intermediate_values, plots.plot_param_importances):
        assert plot(study).data
    assert plots.plot_slice(study).data and plots.plot_parallel_coordinate(study).data


def test_the_command_line(capsys, tmp_path):
    (tmp_path / "space.yaml").write_text("skill: {low: 1, high: 0}\n")
    settings = write_data(tmp_path) | {"study_dir": tmp_path / "study", "space": tmp_path / "space.yaml", "trials": 2}
    say = partial(refused, capsys, "tune", f"--model={MODEL}", "--dataset=tiny")
    assert "skill" in say(**settings)
    settings |= {"space": tmp_path / "none.yaml"}
    assert "no search space" in say(**settings).lower()
    assert "Name a model" in refused(capsys, "tune", "--dataset=tiny")
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    settings |= {"space": tmp_path / "space.yaml"}
    assert "--seeds must be whole numbers" in say(**settings, seeds="a")
    assert "no pruner named 'best'" in say(**settings, pruner="{'name': 'best'}")
    flags = [f"--{key}={value}" for key, value in settings.items()]
    assert (
        main(["tune", f"--model={MODEL}", "--dataset=tiny", "--pruner={'name': 'median'}", "--seeds=none", *flags]) == 0
    )
    assert "test of" not in capsys.readouterr().out
    assert not os.path.exists("studies")
