"""Trainers with a run folder: what they write, what they refuse, and what a model keeps outside its ``state_dict``."""

import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import resume_runs
import scipy.sparse
import torch
import upstream_models
from recbole.trainer import Trainer
from recbole.trainer import trainer as upstream
from resume_runs import make, same
from safetensors.torch import load_file

from recbole_persona.errors import UserError
from recbole_persona.train.checkpoint import load_model_state, save_model_state
from recbole_persona.train.outside import changed_since, put_back, remember
from recbole_persona.train.random_state import generator_states, process_state, set_generator_states, set_process_state
from recbole_persona.train.trainer import _half_precision, resumable
from recbole_persona.upstream.files import load_tree, save_tree


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return upstream_models.write_tiny(tmp_path_factory.mktemp("data"))


@pytest.fixture
def bpr(data, tmp_path, monkeypatch):
    """``bpr(**settings)`` makes a trainer of BPR with its loaders, in the run folder ``run`` of an empty directory."""
    monkeypatch.chdir(tmp_path)
    _, stage = upstream_models.stages("BPR")[0]
    return lambda run_dir=tmp_path / "run", **settings: make("BPR", stage, data, run_dir, **settings)


def fit(trainer, loaders, **options):
    return trainer.fit(loaders[0], loaders[1], show_progress=False, **options)


def written(folder) -> set:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


# what is written, and where


@pytest.mark.parametrize(
    "name", [name for name in vars(upstream) if name.endswith("Trainer") and name != "AbstractTrainer"]
)
def test_every_trainer_of_recbole_can_stand_below(name):
    upstream_class = getattr(upstream, name)
    ours = resumable(upstream_class)
    assert issubclass(ours, upstream_class) and ours.__name__ == name
    assert resumable(upstream_class) is ours and resumable(ours) is ours


def test_nothing_is_written_outside_the_run_folder(bpr, tmp_path):
    trainer, loaders = bpr()
    fit(trainer, loaders)
    trainer.evaluate(loaders[2])
    files = {name for name in written(tmp_path) if "tensorboard/" not in name}
    assert files == {"run/model.safetensors", "run/state/last.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert any("run/tensorboard/events" in name for name in written(tmp_path))


def test_the_best_weights_are_there_for_everybody(bpr, tmp_path):
    trainer, loaders = bpr()
    fit(trainer, loaders)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert set(weights) == {"user_embedding.weight", "item_embedding.weight"}
    before = os.path.getmtime(tmp_path / "run" / "tensorboard")
    other, loaders = bpr(seed=7)  # testing a finished run
    load_model_state(other.model, tmp_path / "run" / "model.safetensors")
    assert torch.equal(other.model.user_embedding.weight, weights["user_embedding.weight"])
    other.evaluate(loaders[2])
    assert os.path.getmtime(tmp_path / "run" / "tensorboard") == before


def test_unsaved_training_leaves_no_files(bpr, tmp_path):
    trainer, loaders = bpr()
    fit(trainer, loaders, saved=False)
    assert not {name for name in written(tmp_path) if "tensorboard" not in name}


def test_without_a_run_folder_recbole_writes_as_it_does(bpr, tmp_path):
    settings = {"run_dir": None, "checkpoint_dir": str(tmp_path / "saved"), "epochs": 1}
    trainers = [bpr(**settings)[0] for _ in range(3)]
    assert len({trainer.saved_model_file for trainer in trainers}) == 3  # made in one second
    trainer, loaders = bpr(**settings)
    fit(trainer, loaders)
    first = trainer.evaluate(loaders[2])
    assert load_tree(trainer.saved_model_file)["epoch"] == 0 and not (tmp_path / "run").exists()
    assert trainer.evaluate(loaders[2], model_file=trainer.saved_model_file) == first
    with pytest.raises(UserError, match="--run_dir"):
        trainer.resume()


def test_a_model_that_was_never_validated_is_kept(bpr, tmp_path):
    trainer, loaders = bpr(epochs=2)
    trainer.fit(loaders[0], None, show_progress=False)
    assert torch.equal(
        load_file(tmp_path / "run" / "model.safetensors")["item_embedding.weight"], trainer.model.item_embedding.weight
    )


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_trees_stay_in_the_run_folder(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, stage = upstream_models.stages(name)[0]
    stage |= {"lgb_params": {"objective": "binary", "num_threads": 1}, "lgb_num_boost_round": 3}
    stage |= {"xgb_nthread": 1, "xgb_num_boost_round": 3}
    trainer, loaders = make(model, stage, data, tmp_path / "run", epochs=1)
    trainer.fit(loaders[0], loaders[1], saved=True, show_progress=False)
    first = trainer.evaluate(loaders[2], load_best_model=True)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert "model.safetensors" in written(tmp_path / "run")
    other, loaders = make(model, stage, data, tmp_path / "run", epochs=1)
    assert other.evaluate(loaders[2], load_best_model=True) == first
    with pytest.raises(UserError, match="--rerun"):
        other.resume()


def test_wandb_writes_into_the_run_folder(bpr, tmp_path, monkeypatch):
    wandb, seen = ModuleType("wandb"), {}
    wandb.run = None

    def init(project, config):
        seen.update(project=project, folder=os.environ["WANDB_DIR"])
        wandb.run = SimpleNamespace(summary={})

    wandb.init = init
    wandb.define_metric = lambda *args, **kwargs: None
    wandb.log = lambda metrics, commit: seen.setdefault("metrics", []).append(metrics)
    wandb.run = None
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    trainer, loaders = bpr(log_wandb=True, wandb_project="mine", epochs=1)
    assert not seen  # a run that is refused begins none
    fit(trainer, loaders)
    assert seen["project"] == "mine" and seen["folder"] == str(tmp_path / "run")
    assert any("train/train_loss" in metrics for metrics in seen["metrics"]) and "WANDB_DIR" not in os.environ


# resuming


def test_a_finished_run_does_not_train_further(bpr, tmp_path):
    trainer, loaders = bpr(epochs=3)
    result, test = fit(trainer, loaders), trainer.evaluate(loaders[2])
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("model.safetensors", "state/last.safetensors")}
    again, loaders = bpr(epochs=3)
    again.resume()
    assert fit(again, loaders) == result and again.best_valid_result == trainer.best_valid_result
    assert again.train_loss_dict == trainer.train_loss_dict and again.evaluate(loaders[2]) == test
    assert all((tmp_path / "run" / name).read_bytes() == content for name, content in before.items())


def test_an_early_stopped_run_does_not_train_further_and_more_epochs_continue_another(bpr, tmp_path):
    stopping = {"epochs": 50, "stopping_step": 1, "learning_rate": 1.0}
    trainer, loaders = bpr(**stopping)
    result = fit(trainer, loaders)
    reached = len(trainer.train_loss_dict)
    assert reached < 50
    again, loaders = bpr(**stopping)
    again.resume()
    assert fit(again, loaders) == result and len(again.train_loss_dict) == reached

    short, loaders = bpr(tmp_path / "short", epochs=2)
    fit(short, loaders)
    longer, loaders = bpr(tmp_path / "short", epochs=4)
    longer.resume()
    fit(longer, loaders)
    assert list(longer.train_loss_dict) == [0, 1, 2, 3]


@pytest.mark.parametrize("cumulative, epochs", [(False, 7), (True, 4)])
def test_patience_is_of_a_row_or_of_all_validations(cumulative, epochs, bpr, tmp_path):
    """Better in every other epoch up to the fifth; two validations without a gain are borne, the third ends training."""
    scores = iter([0.1, 0.05, 0.2, 0.15, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    trainer, loaders = bpr(epochs=10, stopping_step=1, cumulative_patience=cumulative)
    trainer._valid_epoch = lambda *args, **kwargs: (next(scores), {"mrr@10": 0.0})
    fit(trainer, loaders)
    assert trainer._epoch + 1 == epochs


def test_there_must_be_a_state_of_this_model(bpr, data, tmp_path):
    trainer, loaders = bpr(epochs=1)
    with pytest.raises(UserError, match=r"nothing to resume.*last\.safetensors"):
        trainer.resume()
    fit(trainer, loaders)
    _, stage = upstream_models.stages("DMF")[0]
    with pytest.raises(UserError, match="is the state of BPR"):
        make("DMF", stage, data, tmp_path / "run")[0].resume()
    with pytest.raises(UserError, match=r"last\.safetensors is of another model.*size mismatch"):
        bpr(embedding_size=8)[0].resume()


def test_a_state_of_another_version_is_refused(bpr, tmp_path):
    trainer, loaders = bpr(epochs=1)
    fit(trainer, loaders)
    save_tree(load_tree(trainer.state_file) | {"format": 99}, trainer.state_file)
    with pytest.raises(UserError, match="another version"):
        bpr(epochs=1)[0].resume()


def test_a_state_sets_no_attribute_that_training_does_not_declare(bpr, tmp_path):
    """A state whose progress names ``saved_model_file`` made resuming write over that file."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    trainer, loaders = bpr(tmp_path / "run", epochs=2)
    trainer.fit(loaders[0], loaders[1])
    state = load_tree(trainer.state_file)
    for part, planted in (("progress", {"saved_model_file": str(victim)}), ("bindings", {"logger": "optimizer"})):
        save_tree({**state, part: {**state[part], **planted}}, trainer.state_file)
        other, _ = bpr(tmp_path / "run", epochs=4)
        with pytest.raises(UserError, match="does not fit this trainer"):
            other.resume()
    assert victim.read_text() == "mine"


def test_metrics_of_two_types_resume_too(bpr, tmp_path):
    metrics = {"metrics": ["NDCG", "AUC"], "valid_metric": "AUC"}
    whole = resume_runs.finish(*bpr(tmp_path / "whole", epochs=4, **metrics))
    fit(*bpr(tmp_path / "half", epochs=2, **metrics))
    trainer, loaders = bpr(tmp_path / "half", epochs=4, **metrics)
    trainer.resume()
    assert resume_runs.finish(trainer, loaders) == whole and set(whole["test"]) == {"ndcg@10", "auc"}
    resume_runs.same_files(tmp_path / "whole", tmp_path / "half")


@pytest.mark.parametrize("file", ["model.safetensors", "state/last.safetensors"])
def test_a_truncated_file_is_named(file, bpr, tmp_path):
    trainer, loaders = bpr(epochs=1)
    fit(trainer, loaders)
    path = tmp_path / "run" / file
    path.write_bytes(path.read_bytes()[:-100])
    for read in (trainer.resume, lambda: trainer.evaluate(loaders[2])):
        if file.startswith("model") or read == trainer.resume:
            with pytest.raises(UserError, match=rf"{path.name} cannot be read"):
                read()


# what goes wrong while it trains


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(bpr, tmp_path):
    trainer, loaders = bpr(epochs=6)

    def poison(epoch, score):
        if epoch == 2:
            with torch.no_grad():
                for embedding in (trainer.model.user_embedding, trainer.model.item_embedding):
                    embedding.weight.fill_(1e25)  # finite; their products are not

    with pytest.raises(UserError, match=r"is not a number in epoch 3: lower learning_rate \(now 0.001\)") as stopped:
        fit(trainer, loaders, callback_fn=poison)
    for file in ("model.safetensors", "state/last.safetensors"):
        assert str(tmp_path / "run" / file) in str(stopped.value)
        assert all(torch.isfinite(t.float()).all() for t in load_file(tmp_path / "run" / file).values())


def test_weights_that_are_no_numbers_are_never_saved(bpr, tmp_path):
    trainer, loaders = bpr(epochs=6)

    def poison(epoch, score):
        if epoch == 2:
            with torch.no_grad():
                trainer.model.item_embedding.weight[3] = float("nan")

    with pytest.raises(UserError, match=r"A weight of item_embedding\.weight is not a number in epoch 2"):
        fit(trainer, loaders, callback_fn=poison)
    state = load_tree(tmp_path / "run" / "state" / "last.safetensors")
    assert state["epoch"] == 2 and torch.isfinite(state["model"]["state_dict"]["item_embedding.weight"]).all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_last_epoch_and_says_how_to_go_on(number, bpr, tmp_path):
    trainer, loaders = bpr(epochs=6)
    handler = signal.getsignal(signal.SIGTERM)

    def stop(epoch, score):
        if epoch == 2:
            os.kill(os.getpid(), number)
            time.sleep(1)

    with pytest.raises(KeyboardInterrupt, match=r"stopped in epoch 2; continue it with --resume=.*/run\."):
        fit(trainer, loaders, callback_fn=stop)
    assert signal.getsignal(signal.SIGTERM) is handler
    again, loaders = bpr(epochs=6)
    again.resume()
    assert again.start_epoch == 2 and len(fit(again, loaders)) == 2


def test_a_full_disk_stops_with_a_sentence_and_leaves_earlier_files_whole(bpr, tmp_path):
    trainer, loaders = bpr(epochs=6)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(epoch, score):
        if epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    try:
        with pytest.raises(UserError, match=r"last\.safetensors could not be written .* whole"):
            fit(trainer, loaders, callback_fn=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    again, loaders = bpr(epochs=6)
    again.resume()
    assert again.start_epoch == 1
    again.evaluate(loaders[2])


# the state of a model outside its state_dict


class Part(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.table = torch.zeros(3)
        self.seen = []


class Model(torch.nn.Module):
    """A bit of everything that RecBole's models keep."""

    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(2, 2)
        self.part = Part()
        self.update, self.anneal, self.centroids, self.constant = 0, 0.0, None, torch.arange(4)
        self.alias = self.part.table
        self.matrix = scipy.sparse.eye_array(3, format="csr")
        self.counts = np.zeros(3)
        self.generator = torch.Generator().manual_seed(1)


def changed_model():
    model = Model()
    remember(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.update, model.anneal, model.centroids = 7, 0.1 + 0.2, torch.randn(2, 2)
    model.part.table[1] = 5.0
    model.part.hidden += 3
    model.part.seen += [1, torch.ones(1)]
    model.matrix = model.matrix * 2
    model.counts[2] = 4
    return model


def test_what_changed_is_found_and_put_back():
    model, other = changed_model(), Model()
    changed = changed_since(model)
    assert set(changed["in_place"]) == {"part.table", "alias", "part.hidden"}
    assert set(changed["replaced"]) == {"update", "anneal", "centroids", "part.seen", "matrix", "counts"}
    remember(other)
    put_back(other, changed)
    assert other.update == 7 and other.anneal == 0.1 + 0.2 and torch.equal(other.centroids, model.centroids)
    assert other.alias is other.part.table and other.part.table[1] == 5 and other.part.hidden.tolist() == [3, 3]
    assert other.part.seen == [1, torch.ones(1)] and other.counts[2] == 4 and other.matrix.sum() == 6
    assert all(a is b for a, b in zip(other.gru._flat_weights, other.gru.parameters()))
    same(changed, changed_since(other), "changed")


def test_what_was_as_built_at_the_time_is_as_built_again():
    model = Model()
    remember(model)
    early = changed_since(model)
    assert early == {"in_place": {}, "replaced": {}}
    model.update, model.centroids = 3, torch.ones(1)  # a cache of later weights
    put_back(model, early)
    assert model.update == 0 and model.centroids is None


def test_what_cannot_be_saved_is_said(caplog):
    model = Model()
    remember(model)
    model.centroids = object()
    assert changed_since(model)["replaced"] == {} and "centroids is a object and changed in training" in caplog.text


def test_counters_of_a_built_in_are_in_the_best_model(data, tmp_path):
    model, stage = upstream_models.stages("MultiVAE")[0]
    trainer, loaders = make(model, stage, data, tmp_path / "run", epochs=2)
    fit(trainer, loaders)
    assert trainer.model.update > 0
    fresh, _ = make(model, stage, data, tmp_path / "other")
    load_model_state(fresh.model, tmp_path / "run" / "model.safetensors")
    assert 0 < fresh.model.update <= trainer.model.update


def test_a_model_alone_can_be_saved_and_loaded(bpr, tmp_path):
    model = bpr()[0].model
    save_model_state(model, tmp_path / "m", epoch=3)
    other = bpr(seed=1)[0].model
    load_model_state(other, tmp_path / "m")
    same(dict(model.state_dict()), dict(other.state_dict()), "weights")
    assert load_tree(tmp_path / "m")["epoch"] == 3


# random numbers


def test_all_sources_of_random_numbers_continue():
    def loader():
        inner = SimpleNamespace(generator=torch.Generator().manual_seed(3), again=None)
        inner.again = inner.generator
        others = {"numpy": np.random.default_rng(1), "old": np.random.RandomState(2), "python": random.Random(3)}
        return SimpleNamespace(parts=[inner, SimpleNamespace(**others)], itself=None)

    def draw(root):
        inner, more = root.parts
        drawn = [
            torch.rand(2, generator=inner.generator).tolist(),
            more.numpy.random(),
            more.old.rand(),
            more.python.random(),
        ]
        return [*drawn, torch.rand(1).item(), np.random.rand(), random.random(), np.random.normal(), random.gauss(0, 1)]

    first = loader()
    first.itself = first
    draw(first)
    states, process = generator_states({"train": first, "valid": None}), process_state()
    assert set(states) == {
        "train.parts.0.generator", "train.parts.1.numpy", "train.parts.1.old", "train.parts.1.python",
    }  # fmt: skip
    expected = draw(first)
    second = loader()
    set_generator_states({"train": second, "valid": None}, states)
    set_process_state(process)
    assert draw(second) == expected
    with pytest.raises(UserError, match=r"train\.parts\.0\.generator"):
        set_generator_states({"train": None}, states)


def test_states_survive_the_file(tmp_path):
    random.gauss(0, 1)
    np.random.normal()
    state = process_state() | {"generator": np.random.default_rng(5).bit_generator.state}
    save_tree(state, tmp_path / "t")
    expected = [torch.rand(1).item(), np.random.normal(), random.gauss(0, 1)]
    back = load_tree(tmp_path / "t")
    assert back["generator"] == state["generator"]
    set_process_state(back)
    assert [torch.rand(1).item(), np.random.normal(), random.gauss(0, 1)] == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["BPR", "MultiVAE", "DiffRec"])
def test_resuming_on_a_gpu(name, data, tmp_path):
    model, stage = upstream_models.stages(name)[0]
    stage = stage | {"gpu_id": "0", "use_gpu": True}
    whole, loaders = make(model, stage, data, tmp_path / "whole", epochs=4)
    expected = resume_runs.finish(whole, loaders)
    half, loaders = make(model, stage, data, tmp_path / "half", epochs=2)
    fit(half, loaders)
    again, loaders = make(model, stage, data, tmp_path / "half", epochs=4)
    again.resume()
    assert next(again.model.parameters()).is_cuda and resume_runs.finish(again, loaders) == expected


def test_mixed_precision_is_bfloat16_on_a_gpu_too(bpr):
    """Where losses are scaled it is float16, as RecBole has it; outside of training nothing is changed."""
    before, seen = torch.get_autocast_dtype("cuda"), []
    trainer, loaders = bpr(enable_amp=True, epochs=1)
    fit(trainer, loaders, callback_fn=lambda epoch, score: seen.append(torch.get_autocast_dtype("cuda")))
    with _half_precision({"enable_scaler": True}):
        seen.append(torch.get_autocast_dtype("cuda"))
    assert seen == [torch.bfloat16, torch.float16] and torch.get_autocast_dtype("cuda") == before


def test_a_trainer_of_a_user_gains_the_same(bpr, tmp_path):
    class Scheduled(Trainer):
        """A schedule is state, as an optimiser is."""

        def __init__(self, config, model):
            super().__init__(config, model)
            self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)

        def _train_epoch(self, *args, **kwargs):
            loss = super()._train_epoch(*args, **kwargs)
            self.schedule.step()
            return loss

    def made(run, **settings):
        plain, loaders = bpr(tmp_path / run, **settings)
        return resumable(Scheduled)(plain.config, plain.model), loaders

    whole = resume_runs.finish(*made("whole", epochs=4))
    fit(*made("half", epochs=2))
    trainer, loaders = made("half", epochs=4)
    trainer.resume()
    assert resume_runs.finish(trainer, loaders) == whole and trainer.optimizer.param_groups[0]["lr"] == 0.001 / 16
