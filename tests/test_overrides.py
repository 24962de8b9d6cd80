"""What can be changed in a finished run: settings that act there; all others are refused, not taken in silence."""

import pytest
from recbole.model.general_recommender import BPR
from tiny import command, refused, write_tiny

import recbole_persona
from recbole_persona import run
from recbole_persona.cli import main
from recbole_persona.errors import UserError
from recbole_persona.runner import evaluate_run


class Scaled(BPR):
    """BPR with a factor that is read whenever the model is made."""

    config_defaults = {"embedding_size": 4, "factor": 1.0}
    reads_when_loaded = ("factor",)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.factor = config["factor"]

    def full_sort_predict(self, interaction):
        return super().full_sort_predict(interaction) * self.factor


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    settings = write_tiny(tmp_path_factory.mktemp("bpr"))
    run("BPR", "tiny", config_dict=settings)
    return settings["run_dir"]


USES = {
    "evaluate": [],
    "recommend": ["--user=u1", "--topk=3"],
    "explain": ["--user=u1"],
    "generate": ["--user=u1", "--item=i1"],
}
NEVER = {
    "learning_rate": 5,
    "epochs": 7,
    "seed": 3,
    "train_batch_size": 9,
    "embedding_size": 5,
    "rm_dup_inter": "first",
}
NOT_THERE = {
    "recommend": {"metrics": "['Recall']", "text_batch_size": 5, "mask_history": True},
    "explain": {"eval_args": "{'mode':'uni3'}"},
    "generate": {"topk": 5, "eval_batch_size": 6},
    "evaluate": {"valid_metric": "NDCG@5", "run_dir": "elsewhere", "model": "LightGCN"},
}


@pytest.mark.parametrize("use", USES)
def test_a_setting_that_does_not_act_is_refused(finished, capsys, use):
    settings = NEVER | NOT_THERE[use]
    if use == "generate":
        del settings["seed"]  # an option of its own there
    for key, value in settings.items():
        said = refused(capsys, use, f"--run={finished}", *USES[use], **{key: value})
        elsewhere = (use != "evaluate" and key in NOT_THERE[use]) or key == "valid_metric"
        why = f"{use} does not use {key}" if elsewhere else f"{key} cannot be changed in a finished run"
        assert said.startswith(f"{why}; {use} takes ") and "gpu_id" in said


def test_a_mistyped_setting_is_named_as_one(finished, capsys):
    assert "the nearest is 'eval_batch_size'" in refused(capsys, "evaluate", f"--run={finished}", eval_batch_sice=5)


def test_what_this_run_does_not_use_is_refused_with_the_reason(finished, capsys):
    for key, value in {"ild_ruler": "field:kind", "eval_history": "shuffled", "threshold": "{'rating':3}"}.items():
        said = refused(capsys, "evaluate", f"--run={finished}", **{key: value})
        assert said.startswith(f"BPR does not use the setting {key}: ")


def test_settings_that_act_are_taken(finished, capsys):
    """Those of the run itself are, too: nothing changes."""
    assert main(command("evaluate", f"--run={finished}", epochs=1, embedding_size=4, learning_rate=0.001)) == 0
    assert main(command("recommend", f"--run={finished}", *USES["recommend"], eval_batch_size=5)) == 0
    assert main(command("evaluate", f"--run={finished}", metrics="['Recall']", topk="[2]")) == 0
    assert "recall@2" in capsys.readouterr().out
    few, many = (evaluate_run(finished, {"eval_args": {"mode": mode}})[0] for mode in ("uni2", "full"))
    assert few["ndcg@3"] > many["ndcg@3"]
    assert recbole_persona.load(finished, {"valid_metric": "NDCG@3", "use_gpu": False}).model
    with pytest.raises(UserError, match="learning_rate cannot be changed in a finished run; load takes"):
        recbole_persona.load(finished, {"learning_rate": 5})


def test_a_model_names_what_it_reads_when_loaded(tmp_path):
    settings = write_tiny(tmp_path)
    run(Scaled, "tiny", config_dict=settings)
    lowest = [evaluate_run(settings["run_dir"], {"factor": factor})[0]["ndcg@3"] for factor in (1.0, -1.0)]
    assert lowest[0] != lowest[1]


def test_resuming_takes_nothing_in_silence(finished, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text("learning_rate: 5\n")
    same = tmp_path / "same.yaml"
    same.write_text("learning_rate: 0.001\n")
    for option in ("--model=LightGCN", f"--config_files={other}", "--learning_rate=5", "--epochs=3"):
        assert "holds a run with other settings" in refused(capsys, f"--resume={finished}", option)
    assert "There is no data set 'nothing'" in refused(capsys, f"--resume={finished}", "--dataset=nothing")
    assert "leave run_dir out" in refused(capsys, f"--resume={finished}", f"--run_dir={tmp_path}")
    for option in ("--model=bpr", "--dataset=tiny", f"--config_files={same}", f"--run_dir={finished}"):
        assert main([f"--resume={finished}", option]) == 0
