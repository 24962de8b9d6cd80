"""RecBole's own checkpoints are converted with equal scores, and whatever else a pickle holds is refused, not run."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
import upstream_models
from resume_runs import same
from safetensors.torch import load_file

import recbole_persona  # noqa: F401
from recbole_persona.errors import UserError
from recbole_persona.upstream import convert_checkpoint
from recbole_persona.upstream.files import load_tree

HERE = Path(__file__).parent


# A plain model; two scipy matrices beside the weights; a pickled module among the other parameters.
MODELS = ["BPR", "ItemKNN", "SASRecF"]


@pytest.fixture(scope="module")
def bare_recbole(tmp_path_factory):
    """A folder with checkpoints that RecBole alone wrote, in a process without ``recbole_persona``."""
    folder = tmp_path_factory.mktemp("bare")
    data = upstream_models.write_tiny(folder)
    settings = json.dumps({name: upstream_models.stages(name)[-1][1] for name in MODELS})
    command = [sys.executable, "-W", "ignore", HERE / "bare_recbole.py", data, folder, settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_of_recbole_gives_equal_scores(name, bare_recbole, tmp_path):
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    file, target = bare_recbole / f"{name}.pth", tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="recbole-persona convert checkpoint"):
        load_tree(file)
    convert_checkpoint(file, target)
    config, model, _, train_data, _, test_data = load_data_and_model(str(target))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train_data)
    expected = json.loads((bare_recbole / f"{name}.json").read_text())
    assert trainer.evaluate(test_data, load_best_model=False) == expected
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert trainer.evaluate(test_data, model_file=str(target)) == expected
    assert set(model.state_dict()) <= set(load_file(target))


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def checkpoint(**more):
    return {"config": None, "state_dict": {"w": torch.ones(2)}, **more}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("place", ["top", "key", "inside", "state_dict", "whole"])
def test_a_malicious_pickle_is_refused_and_does_not_run(place, protocol, tmp_path):
    ran = tmp_path / "ran"
    evil = Call(os.system, f"touch {ran}")
    content = {
        "top": lambda: checkpoint(x=evil),
        "key": lambda: checkpoint(x={evil: 1}),
        "inside": lambda: checkpoint(other_parameter={"a": [1, (evil,)]}),
        "state_dict": lambda: {"config": None, "state_dict": evil},
        "whole": lambda: evil,
    }[place]()
    torch.save(content, tmp_path / "evil.pth", pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"posix\.system"):
        convert_checkpoint(tmp_path / "evil.pth", tmp_path / "out")
    assert not ran.exists() and not (tmp_path / "out").exists()


class State:
    """Pickles as an instance of a class with a state; ``__setstate__`` of the real class would be called."""

    def __init__(self, reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda: Call(eval, "1/0"), "eval"),
        (lambda: Call(getattr, torch.Tensor, "numpy"), "getattr"),
        (lambda: Call(subprocess.run, ["false"]), "subprocess.run"),
        (lambda: Call(torch.load, "x"), r"torch\.serialization\.load"),
        (lambda: Call(torch.storage._load_from_bytes, b"x"), "_load_from_bytes"),
        (lambda: Call(np.load, "x"), "numpy.load"),
        (lambda: os.system, r"posix\.system"),
        (lambda: Path("x"), "Path"),
        (lambda: State((dict, (), None, None, iter([(1, Call(os.system, "false"))]))), r"posix\.system"),
    ],
)
def test_what_is_no_plain_value_is_refused_by_name(made, name, tmp_path):
    torch.save(checkpoint(x=made()), tmp_path / "a.pth", pickle_protocol=4)
    with pytest.raises(UserError, match=name):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "out")


def test_values_come_over_as_they_are(tmp_path):
    from recbole.utils import EvaluatorType

    base = torch.arange(12, dtype=torch.float32)
    values = {
        "view": base.reshape(3, 4).T[1:], "half": torch.ones(2, dtype=torch.bfloat16), "empty": torch.empty(0, 3),
        "bool": torch.tensor([True]), "scalar": np.float64(0.25), "array": np.arange(6, dtype=">i4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "words": np.array(["a", "bc"]),
        "objects": np.array([1, "a", None], dtype=object), "enum": EvaluatorType.VALUE, "set": {1, 2},
        "csr": scipy.sparse.random_array((4, 5), density=0.5, format="csr", rng=0),
        "lil": scipy.sparse.lil_matrix(np.eye(3, dtype=np.float32)), "coo": scipy.sparse.coo_matrix(np.eye(2)),
        "device": torch.device("cpu"), "dtype": torch.float16, "size": torch.Size([1, 2]),
        "sparse": torch.eye(3).to_sparse_coo(), "parameter": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    values["array"] = values["array"].astype(">i4")
    for protocol in (2, 4):
        torch.save(checkpoint(other_parameter=values), tmp_path / "a.pth", pickle_protocol=protocol)
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "out")
        back = load_tree(tmp_path / "out")["other_parameter"]
        for key in ("csr", "lil", "coo"):
            assert type(back[key]) is type(values[key]) and np.array_equal(back[key].toarray(), values[key].toarray())
        for key in ("array", "words", "objects"):
            assert np.array_equal(back[key], values[key])
        assert back["size"] == (1, 2)
        for key in values.keys() - {"csr", "lil", "coo", "array", "words", "objects", "size", "half", "scalar"}:
            same(values[key], back[key], key)
        assert back["half"].dtype == torch.bfloat16 and back["scalar"] == 0.25


def test_files_that_are_no_checkpoints_are_sentences(tmp_path):
    good = tmp_path / "good.pth"
    torch.save(checkpoint(), good)
    whole = good.read_bytes()
    for name, content in {"short": whole[:-30], "head": whole[:40], "empty": b"", "text": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            convert_checkpoint(tmp_path / name, tmp_path / "out")
    (tmp_path / "old").write_bytes(pickle.dumps(checkpoint()))
    torch.save([1, 2], tmp_path / "list")
    torch.save(checkpoint() | {"state_dict": "saved/xgboost-temp-best.pth"}, tmp_path / "trees")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", "b")
    for name in ("old", "list", "trees", "module", "zip", "missing"):
        with pytest.raises(UserError, match=name):
            convert_checkpoint(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_a_sentence(tmp_path):
    torch.save(checkpoint(other_parameter={"a": np.arange(3), "b": {1, 2}}), tmp_path / "good.pth", pickle_protocol=4)
    with zipfile.ZipFile(tmp_path / "good.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(records[pickled])
        for place in random.integers(0, len(damaged), 2):
            damaged[place] = int(random.integers(0, 256))
        with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
            for name, content in records.items():
                archive.writestr(name, bytes(damaged) if name == pickled else content)
        try:
            convert_checkpoint(tmp_path / "bad.pth", tmp_path / "out")
        except UserError as error:
            assert "bad.pth" in str(error)
