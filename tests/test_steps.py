"""``max_steps``, ``warmup_steps`` and ``gradient_accumulation_steps``: what they compute, resuming, and who refuses them."""

import math

import numpy as np
import pytest
import torch
import upstream_models
from resume_runs import finish, interrupt_at, make, same_files

from recbole_persona import run
from recbole_persona.config import Config
from recbole_persona.errors import UserError
from recbole_persona.runs import RunFolder, config_hash
from recbole_persona.train.steps import SteppedOptimizer
from recbole_persona.upstream.files import load_tree

STEPS = ("max_steps", "warmup_steps", "gradient_accumulation_steps")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return upstream_models.write_tiny(tmp_path_factory.mktemp("data"))


@pytest.fixture
def trained(data, tmp_path):
    """``trained(model, folder, **settings)``: a trainer after its ``fit``, and its loaders; 10 batches an epoch for BPR."""

    def train(name, folder="run", stage=0, **settings):
        model, shared = upstream_models.stages(name)[stage]
        trainer, loaders = make(model, shared | {"train_batch_size": 40}, data, tmp_path / folder, **settings)
        trainer.fit(loaders[0], loaders[1], show_progress=False)
        return trainer, loaders

    return train


def weights(trainer) -> dict:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def slow(trainer, batches, *, epochs, accumulation=1, warmup=0, max_steps=math.inf, clip=None) -> dict:
    """The weights by the definition: a loss that is the mean over the batches of a step, and plain Adam."""
    model, step = trainer.model, 0
    optimizer = torch.optim.Adam(model.parameters(), lr=trainer.learning_rate)
    for _ in range(epochs):
        epoch = list(batches)
        for start in range(0, len(epoch), accumulation):
            if step == max_steps:
                break
            step += 1
            group = epoch[start : start + accumulation]
            optimizer.param_groups[0]["lr"] = trainer.learning_rate * min(1.0, step / warmup if warmup else 1.0)
            optimizer.zero_grad()
            (sum(model.calculate_loss(batch) for batch in group) / len(group)).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), **clip)
            optimizer.step()
    return weights(trainer)


def close(first, second, atol=1e-6):
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], atol=atol, err_msg=name)


# what is computed


@pytest.mark.parametrize(
    ("settings", "epochs", "steps"),
    [
        ({"max_steps": 23}, 3, 23),  # within the third epoch
        ({"max_steps": 20}, 2, 20),  # at the end of the second
        ({"max_steps": 99}, 4, 40),  # `epochs` is the other bound
        ({"warmup_steps": 25}, 4, 40),
        ({"gradient_accumulation_steps": 4}, 4, 12),  # 4 + 4 + 2 batches an epoch
        (
            {"gradient_accumulation_steps": 4, "warmup_steps": 5, "max_steps": 7, "clip_grad_norm": {"max_norm": 0.02}},
            3,
            7,
        ),
    ],
)
def test_steps_are_those_of_the_definition(settings, epochs, steps, trained, data, tmp_path):
    trainer, _ = trained("BPR", eval_step=3, **settings, learning_rate=0.05)
    assert (trainer.steps, len(trainer.train_loss_dict)) == (steps, epochs)
    model, stage = upstream_models.stages("BPR")[0]
    plain, loaders = make(model, stage | {"train_batch_size": 40}, data, tmp_path / "slow", learning_rate=0.05)
    assert len(loaders[0]) == 10
    names = {"warmup_steps": "warmup", "gradient_accumulation_steps": "accumulation", "clip_grad_norm": "clip"}
    before = weights(plain)
    expected = slow(plain, loaders[0], epochs=epochs, **{names.get(key, key): value for key, value in settings.items()})
    close(weights(trainer), expected)
    assert any((value - before[name]).abs().max() > 0.1 for name, value in expected.items())


def test_clipping_acts_on_the_mean_of_the_batches(trained):
    """One step of SGD at rate 1 moves the weights by the gradient: in full below the limit, by the limit above it."""
    settings = {"gradient_accumulation_steps": 10, "learner": "sgd", "learning_rate": 1.0, "epochs": 1}
    start = weights(trained("BPR", "start", epochs=0)[0])
    moved = {}
    for limit in (None, 1e3, 1e-3):
        clip = limit and {"max_norm": limit}
        after = weights(trained("BPR", f"{limit}", **settings, clip_grad_norm=clip)[0])
        moved[limit] = math.sqrt(sum((value - start[name]).double().square().sum() for name, value in after.items()))
    assert moved[1e3] == moved[None] > 0.01
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-2)


def test_accumulated_batches_are_one_large_batch(trained):
    """GRU4Rec's loss is a mean over its 342 rows, without negatives: 3 batches of 19 make one of 57."""
    settings = {"epochs": 3, "dropout_prob": 0.0, "learner": "sgd", "learning_rate": 1.0}
    small, loaders = trained("GRU4Rec", "small", **settings, train_batch_size=19, gradient_accumulation_steps=3)
    assert len(loaders[0]._dataset) == 342
    large, _ = trained("GRU4Rec", "large", **settings, train_batch_size=57)
    assert small.steps == 18 and large.steps is None
    close(weights(small), weights(large), atol=1e-5)


def test_the_model_is_validated_and_saved_at_the_last_step(trained):
    trainer, _ = trained("BPR", max_steps=13, eval_step=4)
    assert [epoch for epoch, *_ in trainer.validations] == [1]
    saved = load_tree(trainer.saved_model_file)
    assert saved["epoch"] == 1
    close(saved["state_dict"], weights(trainer), atol=0)


def test_pretraining_is_saved_at_the_last_step(trained):
    trainer, _ = trained("S3Rec", max_steps=11, pretrain_epochs=9, save_step=5)  # 9 batches an epoch
    assert trainer.steps == 11 and len(trainer.train_loss_dict) == 2
    close(load_tree(trainer.saved_model_file)["state_dict"], weights(trainer), atol=0)


@pytest.mark.parametrize("name", ["KTUP", "NCL"])
def test_trainers_with_an_epoch_of_their_own_stop_too(name, trained):
    trainer, _ = trained(name, max_steps=14, gradient_accumulation_steps=2)
    assert trainer.steps == 14
    assert trainer.validations[-1][0] == max(trainer.train_loss_dict) == load_tree(trainer.state_file)["epoch"] - 1


@pytest.mark.parametrize("name", ["KGAT", "MKR", "RecVAE"])
def test_trainers_of_several_passes_warm_up_and_accumulate(name, trained):
    trainer, _ = trained(name, epochs=2, warmup_steps=1000, gradient_accumulation_steps=3)
    for optimizer in trainer._stepped:
        rate = trainer.learning_rate * (optimizer.steps / 1000 if optimizer.steps else 1)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert trainer.steps > 0


def test_a_step_that_a_scaler_leaves_out_is_not_counted():
    """float16 on a GPU: torch's scaler skips a step whose gradients overflow."""
    weight = torch.nn.Parameter(torch.ones(2))
    stepped = SteppedOptimizer(torch.optim.SGD([weight], lr=0.5), [weight], warmup_steps=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for factor in (math.inf, 1.0, 1.0):
        stepped.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(stepped)
        scaler.update()
    assert stepped.steps == 2
    assert torch.equal(weight.detach(), torch.full((2,), 1 - 0.25 - 0.5))


# resuming


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "BPR",
            {
                "max_steps": 17,
                "warmup_steps": 9,
                "gradient_accumulation_steps": 2,
                "clip_grad_norm": {"max_norm": 0.01},
            },
        ),
        ("BPR", {"warmup_steps": 1000}),
        ("RecVAE", {"warmup_steps": 20, "gradient_accumulation_steps": 3}),
        ("KTUP", {"max_steps": 31, "warmup_steps": 30}),
    ],
)
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stopped_run_ends_with_the_same_bits(name, settings, epoch, data, tmp_path):
    model, stage = upstream_models.stages(name)[0]
    stage |= {"train_batch_size": 40}
    whole, loaders = make(model, stage, data, tmp_path / "whole", **settings)
    expected = finish(whole, loaders)
    stopped, loaders = make(model, stage, data, tmp_path / "stopped", **settings)
    stopped._check_nan = interrupt_at(epoch, stopped)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        stopped.fit(loaders[0], loaders[1], show_progress=False)
    resumed, loaders = make(model, stage, data, tmp_path / "stopped", **settings)
    resumed.resume()
    assert resumed.start_epoch == epoch and 0 < resumed.steps < whole.steps
    assert finish(resumed, loaders) == expected and resumed.steps == whole.steps
    same_files(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_that_made_its_steps_does_not_train_further(trained, data, tmp_path):
    trainer, _ = trained("BPR", max_steps=12)
    again, loaders = make(*upstream_models.stages("BPR")[0], data, tmp_path / "run", train_batch_size=40, max_steps=12)
    again.resume()
    again.fit(loaders[0], loaders[1], show_progress=False)
    assert again.steps == 12 and again.train_loss_dict == trainer.train_loss_dict
    close(weights(again), weights(trainer), atol=0)


def test_a_state_of_other_settings_is_refused(trained, data, tmp_path):
    trained("BPR", epochs=1, warmup_steps=3)
    trained("BPR", "plain", epochs=1)
    for folder, settings in (("run", {}), ("plain", {"warmup_steps": 3})):
        with pytest.raises(UserError, match=r"does not fit this trainer .*'optimizer\."):
            make(*upstream_models.stages("BPR")[0], data, tmp_path / folder, **settings)[0].resume()


def test_a_run_that_is_stopped_and_resumed_reports_its_steps(data, tmp_path):
    settings = {"data_path": str(data.parent), "train_batch_size": 40, "max_steps": 13, "warmup_steps": 10}
    settings |= {"epochs": 9, "gradient_accumulation_steps": 2}  # 5 steps an epoch
    whole = run("BPR", "tiny", config_dict={**settings, "run_dir": str(tmp_path / "whole")})["result"]
    assert (whole["steps"], whole["epochs"], len(whole["validations"])) == (13, 3, 3)

    def stop(epoch, score):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("BPR", "tiny", config_dict={**settings, "run_dir": str(tmp_path / "stopped")}, callback=stop)
    resumed = run(resume=str(tmp_path / "stopped"))["result"]
    for key in ("steps", "epochs", "best_valid", "test", "config_hash"):
        assert resumed[key] == whole[key]
    same_files(tmp_path / "whole", tmp_path / "stopped")


# which settings, and for whom


def test_the_defaults_leave_the_hash_and_the_optimizer_as_they_were(trained):
    default = Config("BPR", "ml-100k")
    before = Config("BPR", "ml-100k")
    for key in STEPS:
        del before.final_config_dict[key]
    assert config_hash(default) == config_hash(before)
    others = [{"max_steps": 5}, {"warmup_steps": 5}, {"gradient_accumulation_steps": 2}]
    hashes = {config_hash(Config("BPR", "ml-100k", config_dict=settings)) for settings in others}
    assert len(hashes | {config_hash(default)}) == 4
    trainer, _ = trained("BPR", epochs=1)
    assert type(trainer.optimizer) is torch.optim.Adam and trainer.steps is None
    assert set(load_tree(trainer.state_file)["steppers"]["optimizer"]) == {"state", "param_groups"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1; it is 0"),
        ({"max_steps": 2.5}, "max_steps must be a whole number of at least 1; it is 2.5"),
        ({"warmup_steps": -1}, "warmup_steps must be a whole number of at least 0"),
        ({"warmup_steps": None}, "warmup_steps must be a whole number of at least 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be a whole number of at least 1"),
        ({"gradient_accumulation_steps": 2, "enable_scaler": True}, "does not work with enable_scaler"),
        ({"model": "RecVAE", "max_steps": 5}, "RecVAE goes through the data several times in an epoch"),
    ],
)
def test_what_cannot_act_is_refused_before_anything_is_written(settings, sentence, tmp_path):
    settings = dict(settings)
    with pytest.raises(UserError, match=sentence):
        run(settings.pop("model", "BPR"), "ml-100k", config_dict={**settings, "run_dir": str(tmp_path / "run")})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["KGAT", "MKR"])
def test_a_trainer_of_several_passes_refuses_max_steps(name, trained):
    with pytest.raises(UserError, match=f"{name} goes through the data several times"):
        trained(name, max_steps=5)


def test_a_model_without_gradients_says_that_it_does_not_use_them(data, tmp_path, capsys):
    values = {"max_steps": 1, "warmup_steps": 3, "gradient_accumulation_steps": 2}
    settings = {"data_path": str(data.parent), "train_batch_size": 40}
    first = run("Pop", "tiny", config_dict={**settings, "run_dir": str(tmp_path / "a")})["result"]
    second = run("Pop", "tiny", config_dict={**settings, **values, "run_dir": str(tmp_path / "b")})["result"]
    assert first["test"] == second["test"]
    shown = capsys.readouterr().err
    for key in STEPS:
        assert f"Pop does not use the setting {key}: it has no optimiser" in shown
    assert Config("BPR", "ml-100k", config_dict=values).unused_keys == {}
    assert RunFolder(tmp_path / "a").config().unused_keys == {}  # config.yaml names every setting, at its default too
