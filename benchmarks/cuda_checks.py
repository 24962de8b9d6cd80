"""What can only be seen on a GPU: every CUDA test, scores in TF32 and bfloat16 beside those in single precision, and how
often a step of training and one of full ranking wait for the device.

Without a GPU it says so and ends well. Run: ``python benchmarks/cuda_checks.py`` (two minutes on one GPU)
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

TESTS = "cuda or gpu"  # in the names of all tests that need a GPU, see tests/test_cuda_checks.py
LEAVE_ONE_OUT = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
MODELS = {
    "BPR": {},
    "AMPCF": {},
    "SASRec": {**LEAVE_ONE_OUT, "train_neg_sample_args": None},
    "UserEncoder": LEAVE_ONE_OUT,
    "DIN": {**LEAVE_ONE_OUT, "metrics": ["NDCG"], "valid_metric": "NDCG@10"},
}
STEPS = 8


def run_tests() -> int:
    """The exit status of pytest over all CUDA tests; also a skipped one is shown."""
    tests = Path(__file__).parent.parent / "tests"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-rs", "-k", TESTS, str(tests)]
    return subprocess.run(command, check=False).returncode


def prepared(name, device):
    """Trainer, training and test loader of a fresh model on ml-100k."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_persona.config import Config

    settings = {"use_gpu": device == "cuda", "show_progress": False, "state": "ERROR"}
    config = Config(name, "ml-100k", config_dict=settings | MODELS[name])
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.tot_item_num, trainer.item_tensor = test._dataset.item_num, test._dataset.get_item_feature().to(device)
    return trainer, train, test


@contextmanager
def tensor_cores(device):
    """Products of single precision in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


PRECISIONS = {"TF32": tensor_cores, "bfloat16": lambda device: torch.autocast(device, dtype=torch.bfloat16)}


@torch.no_grad()
def compare_precisions(trainer, test, device) -> dict[str, tuple[float, float]]:
    """By precision, the largest difference of a score over the largest score, and the share of the ten best that stay."""
    trainer.model.eval()
    batch = next(iter(test))

    def scores():
        found = trainer._full_sort_batch_eval(batch)[1].double()
        return found.masked_fill(found == -torch.inf, 0.0)

    exact, found = scores(), {}
    best = exact.topk(10).indices
    for name, precision in PRECISIONS.items():
        with precision(device):
            other = scores()
        same = (best.unsqueeze(2) == other.topk(10).indices.unsqueeze(1)).any(dim=2).double().mean()
        found[name] = float((other - exact).abs().max() / exact.abs().max()), float(same)
    return found


@contextmanager
def counted_waits(device):
    """A list that grows by an entry whenever the process waits for the GPU."""
    waits = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            places = [
                f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchronizing" in str(one.message)
            ]
            waits += places


def waits_of_training(trainer, train, device) -> list[str]:
    """Where ``STEPS`` steps of training wait, after one that is not counted."""
    trainer.model.train()
    batches = iter(train)

    def step():
        batch = next(batches).to(device)
        trainer.optimizer.zero_grad()
        loss = trainer.model.calculate_loss(batch)
        sum(loss if isinstance(loss, tuple) else (loss,)).backward()
        trainer.optimizer.step()

    step()
    with counted_waits(device) as waits:
        for _ in range(STEPS):
            step()
    return waits


@torch.no_grad()
def waits_of_ranking(trainer, test, device) -> list[str]:
    """Where the first batch of full ranking waits."""
    trainer.model.eval()
    batch = next(iter(test))
    trainer._full_sort_batch_eval(batch)
    with counted_waits(device) as waits:
        trainer._full_sort_batch_eval(batch)
    return waits


def check(name, device) -> None:
    """Print what there is to see of a model."""
    trainer, train, test = prepared(name, device)
    start = time.perf_counter()
    for precision, (difference, same) in compare_precisions(trainer, test, device).items():
        print(f"{name}, {precision}: scores differ by {difference:.1e} of the largest, {same:.1%} of the ten best stay")
    for what, waits, steps in (
        ("training", waits_of_training(trainer, train, device), STEPS),
        ("full ranking", waits_of_ranking(trainer, test, device), 1),
    ):
        where = ", ".join(f"{place} ({waits.count(place) / steps:g})" for place in dict.fromkeys(waits))
        print(f"{name}, a step of {what}: waits for the device {len(waits) / steps:g} times {where}".rstrip())
    print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing was checked.")
        return 0
    failed = run_tests()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole's trainer writes its logs where it stands
        for name in asked.models:
            check(name, "cuda")
        os.chdir("/")
    return failed


if __name__ == "__main__":
    sys.exit(main())
