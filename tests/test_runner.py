"""What ``run`` gives beside a result: a run without its test part, a callback, memory and counts."""

import subprocess
import sys

import numpy as np
import pytest
from tiny import write_tiny

from recbole_persona import run
from recbole_persona.errors import UserError
from recbole_persona.runner.memory import PeakMemory
from recbole_persona.runs import RunFolder

SHORT = {"epochs": 2, "train_batch_size": 8192, "metrics": ["NDCG", "Recall"]}


def test_a_run_without_its_test_part(tmp_path):
    folder, settings = tmp_path / "run", write_tiny(tmp_path) | {"epochs": 2}
    outcome = run("AMPCF", "tiny", config_dict=settings, tested=False)
    result, table = outcome["result"], RunFolder(folder).per_user()
    assert result["test"] == {} and outcome["test_result"] == {}
    # the rows are the validation users', and their mean is the best validation result
    assert table["ndcg@3"].mean() == pytest.approx(result["best_valid"]["ndcg@3"], abs=1e-4)
    with pytest.raises(UserError, match="was not tested"):
        run("AMPCF", "tiny", config_dict=settings)
    assert run("AMPCF", "tiny", config_dict=settings, tested=False)["result"] == result
    tested = run("AMPCF", "tiny", config_dict={**settings}, rerun=True)["result"]
    assert tested["best_valid"] == result["best_valid"] and tested["test"]["ndcg@3"] > 0


def test_the_callback_sees_every_validation_and_may_stop(tmp_path):
    seen = []

    class Enough(Exception):
        pass

    def stop_at_third(epoch, score):
        seen.append((epoch, score))
        if epoch == 2:
            raise Enough

    settings = write_tiny(tmp_path) | {"epochs": 5}
    with pytest.raises(Enough):
        run("AMPCF", "tiny", config_dict=settings, callback=stop_at_third)
    assert [epoch for epoch, _ in seen] == [0, 1, 2] and all(np.isfinite(score) for _, score in seen)
    again = []
    resumed = run("AMPCF", "tiny", config_dict=settings, resume=True, callback=lambda *pair: again.append(pair))
    assert again[0] == seen[-1] and again[-1][0] == 4  # the third epoch once more, to the same bits
    whole = run("AMPCF", "tiny", config_dict={**settings, "run_dir": str(tmp_path / "whole")})
    assert whole["result"]["test"] == resumed["result"]["test"]


def test_counts_and_memory(tmp_path):
    result = run("Pop", "ml-100k", config_dict={**SHORT, "valid_metric": "NDCG@10", "run_dir": str(tmp_path / "run")})
    result = result["result"]
    counts = result["statistics"]
    assert (counts["users"], counts["items"]) == (943, 1682)
    assert counts["train"] + counts["valid"] + counts["test"] == 100_000
    assert 0 <= result["memory"]["peak_mib"] < 2000


def test_peak_memory_sees_what_was_freed():
    def peak():
        watch = PeakMemory("cpu")
        block = np.ones(40 * 2**20 // 8)  # 40 MiB, touched
        del block
        return watch.peak_mib()

    assert 38 <= max(peak() for _ in range(5)) < 200  # a system that is short of memory may take old pages meanwhile
    assert PeakMemory("cpu").peak_mib() < 20  # another watch forgets the first one's peak


@pytest.mark.parametrize("model", ["XGBoost", "LightGBM"])
def test_decision_trees_run(model, folder, tmp_path):
    settings = {"data_path": str(folder), "run_dir": str(tmp_path / "run"), "metrics": ["AUC"], "valid_metric": "AUC"}
    settings |= {"eval_args": {"mode": "labeled"}, "threshold": {"rating": 3}, "load_col": None}
    result = run(model, "small", config_dict=settings)["result"]
    assert 0 <= result["test"]["auc"] <= 1 and result["n_parameters"] == 0


def test_training_ampcf_imports_no_language_model_library():
    """transformers takes more than a CPU-second to import, in every process that builds data."""
    script = (
        "import sys; from recbole_persona import run;"
        "run('AMPCF', 'ml-100k', config_dict={'epochs': 1, 'train_batch_size': 8192}, saved=False);"
        "assert not {'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
