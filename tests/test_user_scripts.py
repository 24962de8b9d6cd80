"""Scripts that RecBole's users have: with ``import recbole_persona`` at the head they run, with or without ray."""

import subprocess
import sys
import textwrap

import pytest

BLOCK_RAY = """
import sys
class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoRay())
"""

SCRIPT = """
import recbole_persona
import glob, os, sys
import torch
torch.set_num_threads(1)
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils.case_study import full_sort_scores, full_sort_topk

if __name__ == "__main__":
    settings = {"epochs": 1, "show_progress": False, "state": "WARNING", "eval_batch_size": 200000}
    result = run_recbole(model="MODEL", dataset="ml-100k", config_dict=settings)
    assert set(result) == {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}, result
    (file,) = glob.glob("saved/MODEL-*.pth")
    config, model, dataset, train_data, valid_data, test_data = load_data_and_model(model_file=file)
    assert config["model"] == "MODEL" and type(model).__name__ == "MODEL"
    users = dataset.token2id(dataset.uid_field, ["196", "186"])
    scores, items = full_sort_topk(users, model, test_data, k=5, device=config["device"])
    assert items.shape == (2, 5) and torch.isfinite(scores).all()
    assert (full_sort_scores(users, model, test_data).gather(1, items) == scores).all()
    print(dataset.id2token(dataset.iid_field, items.cpu()))
"""

HYPER = """
import recbole_persona
import os
import torch
torch.set_num_threads(1)
from recbole.quick_start import objective_function
from recbole.trainer import HyperTuning

if __name__ == "__main__":
    with open("fixed.yaml", "w") as file:
        file.write("model: MODEL\\ndataset: ml-100k\\nepochs: 1\\nstate: ERROR\\neval_batch_size: 200000\\n")
    with open("hyper.test", "w") as file:
        file.write("learning_rate choice [0.01, 0.001]\\n")
    tuning = HyperTuning(objective_function, algo="exhaustive", params_file="hyper.test", fixed_config_file_list=["fixed.yaml"])
    tuning.run()
    assert len(tuning.params2result) == 2, tuning.params2result
    assert tuning.best_params["learning_rate"] in (0.01, 0.001)
    tuning.export_result(output_file="result.txt")
    assert os.path.getsize("result.txt") > 0
"""


def run_script(text, folder):
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    done = subprocess.run([sys.executable, str(path)], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("ray", ["as it is", "blocked"])
@pytest.mark.parametrize("model", ["BPR", "AMPCF"])
def test_run_load_and_rank(model, ray, tmp_path):
    run_script((BLOCK_RAY if ray == "blocked" else "") + SCRIPT.replace("MODEL", model), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["BPR", "AMPCF"])
def test_hyper_tuning_without_ray(model, tmp_path):
    pytest.importorskip("hyperopt")
    run_script(BLOCK_RAY + HYPER.replace("MODEL", model), tmp_path)


def test_names_imported_by_value_before_us_are_ours_too(tmp_path):
    run_script(
        """
        import numpy
        from recbole.config import Config as ConfigBefore
        from recbole.utils import get_model as get_model_before
        import recbole_persona
        from recbole.config import Config
        assert Config is ConfigBefore and get_model_before("AMPCF").__name__ == "AMPCF"
        assert Config("AMPCF", "ml-100k")["model"] == "AMPCF"
        """,
        tmp_path,
    )


def test_the_library_never_reads_the_command_line(tmp_path):
    run_script(
        """
        import sys
        sys.argv = ["script.py", "--epochs=7", "--nonsense"]
        import recbole_persona
        from recbole.config import Config
        assert Config("BPR", "ml-100k")["epochs"] == 300
        """,
        tmp_path,
    )
