"""The prepared script of checks on a GPU: it finds every test that needs one, and ends well where there is none."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cuda_checks

    return cuda_checks


def needs_a_gpu():
    """``(file, test)`` of all tests whose body or decorators ask whether there is a GPU."""
    for file in sorted(TESTS.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                text = ast.unparse(node)
                if "cuda.is_available" in text and file != Path(__file__):
                    yield file.name, node.name, text


def test_every_test_that_needs_a_gpu_is_selected(checks):
    words = checks.TESTS.split(" or ")
    found = list(needs_a_gpu())
    assert len(found) >= 9
    for file, name, text in found:
        by_device = re.search(r"parametrize\('device', \['cpu', 'cuda'\]\)", text)
        assert by_device or any(word in name for word in words), f"{file}: {name}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run([sys.executable, BENCHMARKS / "cuda_checks.py"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "There is no GPU here: nothing was checked.\n")


def test_precisions_are_compared(checks, tmp_path, monkeypatch):
    """On the CPU, where TF32 changes nothing and nothing waits."""
    monkeypatch.chdir(tmp_path)
    trainer, train, test = checks.prepared("AMPCF", "cpu")
    found = checks.compare_precisions(trainer, test, "cpu")
    assert found["TF32"] == (0.0, 1.0)
    assert 0 < found["bfloat16"][0] < 0.1 and found["bfloat16"][1] > 0.5
    monkeypatch.setattr(checks, "STEPS", 1)
    assert checks.waits_of_training(trainer, train, "cpu") == checks.waits_of_ranking(trainer, test, "cpu") == []


class Scalars(TorchDispatchMode):
    """Counts the tensors that are read as numbers, for which a process waits where they lie on a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("name", ["AMPCF", "DIN"])
@torch.no_grad()
def test_full_ranking_reads_no_number_for_each_tile(checks, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer, _, test = checks.prepared(name, "cpu")
    users = next(iter(test))[0][:40]
    with Scalars() as scalars:
        trainer.model.eval().full_sort_predict(users)
    assert scalars.count <= 2  # of many tiles
