"""``fused_adam``: for which models it is on, what it computes, and that a run goes on with the optimiser that it began with."""

import hashlib
import json

import numpy as np
import pytest
import torch
import yaml

from recbole_persona import run
from recbole_persona.config import Config
from recbole_persona.runs import RunFolder, config_hash
from recbole_persona.upstream.files import load_tree, write_text

SHORT = {"epochs": 2, "train_batch_size": 4096, "embedding_size": 8, "eval_step": 2}


def optimizer_groups(folder):
    return load_tree(RunFolder(folder).state_file)["steppers"]["optimizer"]["param_groups"]


def test_it_is_on_for_our_models_and_off_for_recboles():
    ours = {name: Config(name, "ml-100k")["fused_adam"] for name in ("AMPCF", "DIN", "UserEncoder", "POD", "PeaPOD")}
    assert set(ours.values()) == {True}
    assert not any(Config(name, "ml-100k")["fused_adam"] for name in ("BPR", "LightGCN", "recbole:DIN"))


def test_off_leaves_the_hash_as_it_was_and_on_changes_it():
    plain, fused = (Config("BPR", "ml-100k", config_dict={"fused_adam": value}) for value in (False, True))
    before = Config("BPR", "ml-100k")
    del before.final_config_dict["fused_adam"]
    assert config_hash(plain) == config_hash(before) != config_hash(fused)


@pytest.mark.parametrize("learner", ["adam", "adamw"])
def test_it_computes_what_the_plain_one_does_but_for_rounding(learner, tmp_path):
    weights = {}
    for fused in (True, False):
        folder = tmp_path / f"{learner}-{fused}"
        run("AMPCF", "ml-100k", config_dict={**SHORT, "learner": learner, "fused_adam": fused, "run_dir": str(folder)})
        (group,) = optimizer_groups(folder)
        assert bool(group["fused"]) is fused
        weights[fused] = load_tree(RunFolder(folder).state_file)["model"]["state_dict"]
    for name, tensor in weights[True].items():
        np.testing.assert_allclose(tensor, weights[False][name], atol=2e-3)
    assert any((tensor != weights[False][name]).any() for name, tensor in weights[True].items())


@pytest.mark.parametrize("variant", ["journal", "conference"])
def test_what_a_model_keeps_of_its_weights_follows_the_steps(variant, tmp_path):
    settings = {**SHORT, "epochs": 3, "eval_step": 1, "learning_rate": 0.05, "variant": variant, "fused_adam": True}
    found = run("AMPCF", "ml-100k", config_dict={**settings, "run_dir": str(tmp_path / "run")}, tested=False)
    # the best weights, loaded and evaluated again, score what they scored between two epochs
    again = RunFolder(tmp_path / "run").per_user()["ndcg@10"].mean()
    assert again == pytest.approx(found["result"]["best_valid"]["ndcg@10"], abs=1e-4)


def test_another_learner_is_as_it_was(tmp_path):
    run("AMPCF", "ml-100k", config_dict={**SHORT, "learner": "sgd", "run_dir": str(tmp_path / "run")})
    assert not optimizer_groups(tmp_path / "run")[0]["fused"]


@pytest.mark.parametrize("fused", [True, False])
def test_an_interrupted_run_goes_on_with_its_optimizer_to_the_same_bits(fused, tmp_path):
    settings = {**SHORT, "epochs": 3, "eval_step": 1, "fused_adam": fused}
    whole = run("AMPCF", "ml-100k", config_dict={**settings, "run_dir": str(tmp_path / "whole")})
    resumed = interrupted_and_resumed(settings, tmp_path / "stopped")
    assert bool(optimizer_groups(tmp_path / "stopped")[0]["fused"]) is fused
    assert resumed["result"]["test"] == whole["result"]["test"]
    first, second = (load_tree(tmp_path / name / "model.safetensors")["state_dict"] for name in ("whole", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_from_before_the_setting_goes_on_with_the_plain_optimizer(tmp_path):
    settings = {**SHORT, "epochs": 3, "eval_step": 1, "fused_adam": False}
    resumed = interrupted_and_resumed(settings, tmp_path / "run", forget="fused_adam")
    assert not optimizer_groups(tmp_path / "run")[0]["fused"]
    whole = run("AMPCF", "ml-100k", config_dict={**settings, "run_dir": str(tmp_path / "whole")})
    assert resumed["result"]["config_hash"] == whole["result"]["config_hash"]
    assert resumed["result"]["test"] == whole["result"]["test"]


def interrupted_and_resumed(settings, path, forget=None):
    """A run that is stopped at its second validation and resumed; ``forget``: a setting that its folder does not name."""

    def stop(epoch, score):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("AMPCF", "ml-100k", config_dict={**settings, "run_dir": str(path)}, callback=stop)
    if forget:
        folder = RunFolder(path)
        written = yaml.safe_load(folder.config_file.read_text())
        del written[forget]
        text = yaml.safe_dump(written, sort_keys=True, allow_unicode=True)
        write_text(folder.config_file, text)
        sign(folder, text)
    return run(resume=str(path))


def sign(folder, text):
    """Enter the digest of a changed config.yaml, as an older version would have written it."""
    described = json.loads(folder.run_file.read_text())
    described["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    write_text(folder.run_file, json.dumps(described))
