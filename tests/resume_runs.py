"""Train a model in one go, or stop it half-way and continue in another process, and compare the bits.

:func:`compare` starts two processes, with different hash seeds: the first begins, the second continues and compares.
Settings come from ``upstream_models.yaml``.
"""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
import upstream_models

ROOT = Path(__file__).parent.parent
EPOCHS, HALF = 4, 2
UNTRAINED = ("TRADITIONAL", "DECISIONTREE")  # nothing is trained by gradients: nothing to resume


def gradient_models() -> list[str]:
    """Every model of RecBole that is trained by gradients."""
    import recbole_persona.registry

    names = recbole_persona.registry.recbole_model_names()
    return [name for name in names if upstream_models.model_type(name) not in UNTRAINED]


def make(name, stage, data, run_dir, **overrides):
    """Data, model and trainer of one training stage, in RecBole's steps: ``(trainer, loaders)``."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    settings = stage | {"data_path": str(Path(data).parent), "run_dir": str(run_dir), "epochs": EPOCHS} | overrides
    config = Config(model=name, dataset="tiny", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, loaders[0]._dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), loaders


def epochs(stage, number) -> dict:
    return {"pretrain_epochs": number} if stage.get("train_stage", "").endswith("pretrain") else {"epochs": number}


def finish(trainer, loaders) -> dict:
    """Train to the end and test; returns what a run reports."""
    best = trainer.fit(loaders[0], loaders[1], show_progress=False)
    test = trainer.evaluate(loaders[2], load_best_model=True)
    return {"best": best, "losses": trainer.train_loss_dict, "test": test}


def begin(name, data, folder) -> None:
    """Each stage of a model: once in one go; once stopped after half of its epochs; once interrupted within one."""
    files = []
    for number, (model, stage) in enumerate(upstream_models.stages(name)):
        stage = {key: value.format(*files) if isinstance(value, str) else value for key, value in stage.items()}
        runs = Path(folder) / f"{name}-{number}"
        trainer, loaders = make(model, stage, data, runs / "straight", **epochs(stage, EPOCHS))
        write(runs / "straight.json", finish(trainer, loaders))
        files.append(trainer.saved_model_file)

        trainer, loaders = make(model, stage, data, runs / "stopped", **epochs(stage, HALF))
        trainer.fit(loaders[0], loaders[1], show_progress=False)

        trainer, loaders = make(model, stage, data, runs / "interrupted", **epochs(stage, EPOCHS))
        trainer._check_nan = interrupt_at(HALF, trainer)
        try:
            trainer.fit(loaders[0], loaders[1], show_progress=False)
        except KeyboardInterrupt as error:
            assert "--resume" in str(error)
        write(runs / "stage.json", [model, stage])


def interrupt_at(epoch, trainer):
    """Ctrl-C in the middle of an epoch: RecBole calls this for every batch, after the loss and before the step."""

    def check(loss):
        if trainer._epoch == epoch:
            raise KeyboardInterrupt

    return check


def resume(name, data, folder) -> None:
    """Continue the halves that :func:`begin` left, and compare; raises AssertionError where a bit differs."""
    for runs in sorted(Path(folder).glob(f"{name}-[0-9]")):
        model, stage = json.loads((runs / "stage.json").read_text())
        for half in ("stopped", "interrupted"):
            trainer, loaders = make(model, stage, data, runs / half, **epochs(stage, EPOCHS))
            trainer.resume()
            assert trainer.start_epoch == HALF, f"it resumed at epoch {trainer.start_epoch}"
            write(runs / f"{half}.json", finish(trainer, loaders))
            first, second = ((runs / f"{run}.json").read_text() for run in ("straight", half))
            assert first == second, f"{first} and {second}"
            same_files(runs / "straight", runs / half)


def same_files(first, second) -> None:
    """The state and the best model in two run folders are equal to the bit; raises AssertionError where they differ."""
    from recbole_persona.upstream.files import load_tree

    for file in ("state/last.safetensors", "model.safetensors"):
        trees = [load_tree(run / file) for run in (first, second)]
        for tree in trees:
            tree.pop("config", None)  # it names the folder
            tree.pop("seconds", None)
            tree["validations"] = [(epoch, score) for epoch, _, score in tree.get("validations", [])]
        same(*trees, file)


def same(a, b, where):
    """Two trees are equal to the bit; raises AssertionError with the place of the first difference."""
    assert type(a) is type(b), f"{where} is a {type(a).__name__} and a {type(b).__name__}"
    if isinstance(a, dict):
        assert a.keys() == b.keys(), f"{where} has {sorted(map(str, a.keys() ^ b.keys()))} only once"
        for key in a:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), f"{where} has {len(a)} and {len(b)} parts"
        for number, pair in enumerate(zip(a, b)):
            same(*pair, f"{where}[{number}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.layout == b.layout and a.shape == b.shape, f"{where} has another form"
        if a.layout == torch.sparse_coo:
            same(a._indices(), b._indices(), where)
            same(a._values(), b._values(), where)
        else:
            same(a.detach().numpy(), b.detach().numpy(), where)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), f"{where} differs"
    elif hasattr(a, "tocsr"):
        same([a.tocsr().data, a.tocsr().indices], [b.tocsr().data, b.tocsr().indices], where)
    else:
        assert a == b or a != a, f"{where} is {a} and {b}"


def write(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, default=float))


def compare(names, folder) -> dict:
    """``{model: None, or what differed}`` for each of ``names``; files go under ``folder``."""
    data = upstream_models.write_tiny(folder)
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, half, str(data), str(folder)],
            env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(Path(folder) / f"{half}.log", "w"), text=True,
        )
        for half, seed in (("begin", "1"), ("resume", "2"))
    ]  # fmt: skip
    errors = {}
    for name in names:
        print(name, file=workers[0].stdin, flush=True)
        errors[name] = json.loads(workers[0].stdout.readline())
        if errors[name] is None:
            print(name, file=workers[1].stdin, flush=True)
    for name in names:
        if errors[name] is None:
            errors[name] = json.loads(workers[1].stdout.readline())
    for worker in workers:
        worker.communicate()
    return errors


def main(half, data, folder) -> None:
    """Do one half for each model named on standard input; answer each with a line of JSON: null, or the error."""
    import recbole_persona  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what RecBole prints must not mix with the answers
    torch.set_num_threads(1)
    for line in sys.stdin:
        name = line.strip()
        try:
            {"begin": begin, "resume": resume}[half](name, data, folder)
            error = None
        except Exception as caught:
            traceback.print_exc()
            error = f"{type(caught).__name__}: {caught}"
        print(json.dumps(error), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
