"""Every model class that RecBole ships trains, evaluates, is saved, and scores the same in another process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import upstream_models
import yaml
from upstream_pieces import pieces, rows

from recbole_persona.registry import recbole_model_names

MODELS = list(recbole_model_names())
VARIANTS = list(yaml.safe_load(Path(upstream_models.__file__).with_suffix(".yaml").read_text())["variants"])
# one of each kind of code path; the continuous integration runs all
EVERY_DAY = {"BPR", "EASE", "LightGCN", "NCL", "RaCT", "NNCF-louvain", "KGAT", "KGIN", "RippleNet", "SHAN", "GRU4RecKG"}
EVERY_DAY |= {"SASRecF", "S3Rec", "DIN", "FM", "KD_DAGFM", "XGBoost", "LightGBM"}


def names(everything):
    return [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in everything]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The data set, and the working directory in which RecBole scatters its logs."""
    folder, before = tmp_path_factory.mktemp("upstream"), Path.cwd()
    upstream_models.write_tiny(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    os.chdir(folder)
    yield folder
    os.chdir(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def scores_elsewhere(tiny):
    """A function: the scores of a saved model in another process, (2, n): loaded, and loaded into another's seed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, upstream_models.__file__, "scores"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)

    def scores(file):
        print(file, file=process.stdin, flush=True)
        answer = Path(process.stdout.readline().strip())
        assert answer.suffix == ".npy", answer.read_text()
        return torch.from_numpy(np.load(answer))

    yield scores
    process.communicate()


def test_all_are_here():
    assert len(MODELS) == 94


@pytest.mark.parametrize("name", names(MODELS + VARIANTS))
def test_scores_the_same_in_another_process(name, tiny, scores_elsewhere):
    trained = upstream_models.train(name, tiny, tiny)
    assert torch.isfinite(trained.scores).all() and len(trained.scores) >= 40
    assert trained.test and all(np.isfinite(value) for value in trained.test.values())
    loaded, other_seed = scores_elsewhere(trained.file)
    assert torch.equal(loaded, trained.scores)
    torch.testing.assert_close(other_seed, trained.scores, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", names(MODELS))
def test_runs_as_users_run_it(name, tiny, capfd):
    from recbole.quick_start import load_data_and_model, run_recbole
    from recbole.utils import EvaluatorType
    from recbole.utils.case_study import full_sort_topk

    files = []
    for number, (model, stage) in enumerate(upstream_models.stages(name)):
        settings = {key: value.format(*files) if isinstance(value, str) else value for key, value in stage.items()}
        folder = tiny / f"run-{name}-{number}"
        places = {"data_path": str(tiny), "checkpoint_dir": str(folder), "state": "INFO"}
        result = run_recbole(model=model, dataset="tiny", config_dict=settings | places)
        files.append(next(file for file in folder.iterdir() if "temp" not in file.name))
    assert result["test_result"].keys() and "valid_score_bigger" in result
    assert "Logging error" not in capfd.readouterr().err
    config, model, dataset, _, _, test_data = load_data_and_model(str(files[-1]))
    if config["eval_type"] is EvaluatorType.RANKING:
        users = dataset.token2id(dataset.uid_field, ["u1", "u2"])
        scores, items = full_sort_topk(users, model, test_data, k=5)
        assert scores.shape == items.shape == (2, 5) and (items > 0).all() and torch.isfinite(scores).all()


@pytest.mark.slow
def test_the_same_with_pandas_3(tiny):
    """The tables of every kind of model come out of pandas 3 as they come out of pandas 2."""
    folder = tiny / "pandas3"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "pandas>=3,<4"]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("pandas 3 cannot be installed here")
    outputs, repository = [], str(Path(__file__).parent.parent)
    for path in (f"{folder}{os.pathsep}{repository}", repository):
        command = [sys.executable, upstream_models.__file__, "tables", str(tiny / "gaps")]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout.splitlines())
    (new, *tables), (old, *wanted) = outputs
    assert new.startswith("pandas 3") and not old.startswith("pandas 3")
    assert tables == wanted and len(tables) >= 8


@pytest.mark.parametrize("model", ["BPR", "AMPCF"])
def test_hyper_tuning(model, tiny):
    """RecBole's own search, with its objective function, on RecBole's models and on ours."""
    pytest.importorskip("hyperopt")
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    settings = {"model": model, "dataset": "tiny", "data_path": str(tiny), "checkpoint_dir": str(tiny / "tuning")}
    fixed = tiny / f"tuning-{model}.yaml"
    fixed.write_text(yaml.safe_dump(settings | {"epochs": 1, "show_progress": False, "state": "ERROR", "gpu_id": ""}))
    space = tiny / "space.txt"
    space.write_text("learning_rate choice [0.1,0.001]\nembedding_size choice [4,8]\n")
    search = HyperTuning(
        objective_function, params_file=str(space), fixed_config_file_list=[str(fixed)], algo="exhaustive"
    )
    search.run()
    assert len(search.params2result) == 4 and search.best_params.keys() == {"learning_rate", "embedding_size"}
    search.export_result(str(tiny / "tuning.txt"))
    assert "Test result" in (tiny / "tuning.txt").read_text()


@pytest.mark.slow
def test_scores_of_a_row_do_not_depend_on_other_rows(tmp_path, monkeypatch):
    """Every sequential model of RecBole, at fixed weights; the difference is measured by the largest score."""
    monkeypatch.chdir(tmp_path)
    off = {}
    for name in (name for name in recbole_model_names() if upstream_models.model_type(name) == "SEQUENTIAL"):
        stage = {"train_stage": "pretrain"} if name == "S3Rec" else {}
        parts = pieces(name, **stage)
        model, batch = parts.model.eval(), rows(parts.test)
        with torch.no_grad():
            for method in filter(None, (model.predict, None if name in ("DIN", "DIEN") else model.full_sort_predict)):
                every = method(batch).view(len(batch), -1)
                alone = torch.stack([method(batch[[row]]).view(-1) for row in range(6)])
                off[name, method.__name__] = float((every[:6] - alone).abs().max() / every.abs().max())
    assert {key: far for key, far in off.items() if not far <= 1e-5} == {}
