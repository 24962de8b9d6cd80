"""Run folders: what is written is read again, the hashes say what they must, no fault breaks what stands.

The faults are those of :mod:`test_bad_input`: one sentence, status 2, every earlier file whole.
"""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed
from tiny import HEADER, SMALL, command, contents, interactions, refused, with_line, write_tiny

from recbole_persona import run
from recbole_persona.config import Config
from recbole_persona.errors import UserError
from recbole_persona.runner.training import load
from recbole_persona.runs import RunFolder, default_path, split_hash
from recbole_persona.upstream.files import load_tree


@pytest.fixture
def tiny(tmp_path):
    return partial(write_tiny, tmp_path)


# --- what is written is read again ------------------------------------------------------------------------------------


def test_tables_and_ids_are_read_as_they_were(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    table = pd.DataFrame({"user": ["1", "01", "NA", "ünï"], "ndcg@10": [0.1, 1 / 3, np.pi, np.nan], "n": [1, 2, 3, 4]})
    folder.write_per_user(table)
    pd.testing.assert_frame_equal(folder.per_user(), table)
    first = folder.per_user_file.read_bytes()
    folder.write_per_user(table)
    assert folder.per_user_file.read_bytes() == first  # the same table is the same file
    folder.write_result({"test": {"ndcg@10": 1 / 3}})
    assert folder.result() == {"test": {"ndcg@10": 1 / 3}} and folder.complete


def test_the_default_folder_names_the_run():
    config = Config("BPR", "ml-100k", config_dict={"seed": 7})
    assert default_path(config).parts[:-1] == ("runs",) and default_path(config).name.startswith("ml-100k-BPR-7-")
    path = Config("recbole.model.general_recommender:BPR", "ml-100k")
    assert default_path(path).name.startswith("ml-100k-BPR-2020-")


# --- the hash of a split ----------------------------------------------------------------------------------------------


def split_of(folder, lines, **settings):
    (folder / "tiny").mkdir(exist_ok=True)
    (folder / "tiny/tiny.inter").write_text("\n".join([HEADER, *lines]) + "\n")
    config = Config("BPR", "tiny", config_dict=SMALL | {"data_path": str(folder), **settings})
    config["load_col"] = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    init_seed(config["split_seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    return split_hash([loader._dataset for loader in loaders])


def test_the_split_hash_knows_no_order_of_rows(tmp_path):
    lines = interactions().strip().split("\n")[1:]
    by_time = {"eval_args": {"order": "TO", "split": {"LS": "valid_and_test"}}}  # the same split, whatever the order
    shuffled = [lines[n] for n in np.random.default_rng(1).permutation(len(lines))]
    first = split_of(tmp_path, lines, **by_time)
    assert split_of(tmp_path, shuffled, **by_time) == first
    assert split_of(tmp_path, lines[:-1], **by_time) != first
    assert split_of(tmp_path, [line.replace("u3\t", "other\t") for line in lines], **by_time) != first


def test_the_split_depends_on_its_seed_alone(tmp_path):
    lines = interactions().strip().split("\n")[1:]
    first = split_of(tmp_path, lines)
    assert split_of(tmp_path, lines, seed=5, embedding_size=8) == first
    assert split_of(tmp_path, lines, split_seed=5) != first


def test_two_runs_in_one_process_are_alike(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/tiny.inter").write_text(interactions())
    settings = SMALL | {"data_path": str(tmp_path), "epochs": 2, "run_dir": None}
    first, other, again = (
        run("BPR", "tiny", config_dict=settings | {"run_dir": str(tmp_path / name), "seed": seed})
        for name, seed in (("first", 1), ("other", 2), ("again", 1))
    )
    assert (
        first["test_result"] == again["test_result"] and first["result"]["split_hash"] == other["result"]["split_hash"]
    )
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "other", "again")]
    left, right = (load_tree(tmp_path / name / "model.safetensors") for name in ("first", "again"))
    for key, value in left["state_dict"].items():
        assert torch.equal(value, right["state_dict"][key])
    assert weights[0] != weights[1]


def test_nothing_is_left_of_a_run_that_is_not_saved(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = tiny() | {"run_dir": None}
    before = contents(tmp_path)
    outcome = run("BPR", "tiny", config_dict=settings, saved=False)
    assert outcome["run_dir"] is None and outcome["test_result"] and contents(tmp_path) == before


# --- faults of a folder -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of BPR on a small data set; tests take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data/tiny").mkdir(parents=True)
    (folder / "data/tiny/tiny.inter").write_text(interactions())
    settings = SMALL | {"epochs": 2, "data_path": str(folder / "data"), "run_dir": str(folder / "run")}
    run("BPR", "tiny", config_dict=settings)
    return folder / "run", settings


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run", finished[1] | {"run_dir": str(tmp_path / "run")}


def test_a_finished_run_is_returned_as_it_is(copied):
    folder, settings = copied
    before = contents(folder)
    outcome = run("BPR", "tiny", config_dict=settings)
    assert outcome["result"] == json.loads((folder / "result.json").read_text()) and contents(folder) == before
    assert run(resume=str(folder))["result"] == outcome["result"]


def test_a_finished_run_with_other_settings_is_refused(copied):
    folder, settings = copied
    before = contents(folder)
    for resume in (False, True):
        with pytest.raises(UserError, match="holds a run with other settings"):
            run("BPR", "tiny", config_dict=settings | {"epochs": 3}, resume=resume)
    with pytest.raises(UserError, match="holds a run with other settings"):
        run(resume=str(folder), config_dict={"learning_rate": 0.5})
    assert contents(folder) == before


def test_what_is_no_run_cannot_be_resumed(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/diary.txt").write_text("dear diary")
    assert "There is no run folder" in refused(capsys, f"--resume={tmp_path}/nothing")
    assert "is not the folder of a run" in refused(capsys, f"--resume={tmp_path}/other")
    assert contents(tmp_path / "other").keys() == {tmp_path / "other/diary.txt"}


def test_a_foreign_folder_is_not_cleared(tiny, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/diary.txt").write_text("dear diary")
    with pytest.raises(UserError, match="is not the folder of a run"):
        run("BPR", "tiny", config_dict=tiny() | {"run_dir": str(tmp_path / "other")}, rerun=True)
    assert (tmp_path / "other/diary.txt").read_text() == "dear diary"


def test_a_run_of_another_format_is_refused(copied, capsys):
    folder, _ = copied
    described = json.loads((folder / "state/run.json").read_text())
    (folder / "state/run.json").write_text(json.dumps(described | {"format": 99}))
    before = contents(folder)
    assert "was written in run format 99" in refused(capsys, f"--resume={folder}")
    with pytest.raises(UserError, match="this version reads format 1"):
        load(folder)
    assert contents(folder) == before


def unfinished(folder):
    (folder / "result.json").unlink()
    return folder


def test_an_unfinished_run_names_resume(copied, capsys):
    folder, settings = copied
    before = contents(unfinished(folder))
    assert f"--resume={folder}" in refused(capsys, "--model=BPR", "--dataset=tiny", **settings)
    with pytest.raises(UserError, match="is not complete; continue it with --resume"):
        load(folder)
    assert contents(folder) == before


# What reading a finished run says of each of its files, when it is missing or cut short.
READ = {
    "config.yaml": ("lacks config.yaml", "truncated or edited"),
    "state/run.json": ("lacks config.yaml or state/run.json", "not valid JSON"),
    "model.safetensors": ("no file .*model.safetensors", "cannot be read"),
    "result.json": ("is not complete", "not valid JSON"),
    "ids.json": ("no file .*ids.json", "not valid JSON"),
    "per_user.csv.gz": ("no file .*per_user.csv.gz", "cannot be read"),
}


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_reading_a_run_with_a_broken_file(copied, name, fault):
    folder, _ = copied
    (folder / name).unlink() if fault == "missing" else cut(folder / name)
    before = contents(folder)
    read = {"ids.json": RunFolder(folder).ids, "per_user.csv.gz": RunFolder(folder).per_user}.get(
        name, lambda: load(folder)
    )
    with pytest.raises(UserError, match=READ[name][fault == "truncated"]):
        read()
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["config.yaml", "state/run.json", "state/last.safetensors"])
def test_resuming_a_run_with_a_truncated_file(copied, capsys, name):
    folder, _ = copied
    unfinished(folder)
    cut(folder / name)
    before = contents(folder)
    assert refused(capsys, f"--resume={folder}")
    after = contents(folder)
    assert {path: text for path, text in after.items() if path in before and path.name != "train.log"} == {
        path: text for path, text in before.items() if path.name != "train.log"
    }


class Bomb:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("form", ["pickle", "torch.save"])
@pytest.mark.parametrize("place", ["model.safetensors", "state/last.safetensors"])
def test_a_pickle_is_refused_and_not_read(copied, tmp_path, form, place):
    folder, _ = copied
    bomb = {"state_dict": Bomb(tmp_path / "exploded")}
    if form == "pickle":
        (folder / place).write_bytes(pickle.dumps(bomb, protocol=4))
    else:
        torch.save(bomb, folder / place)
    with pytest.raises(UserError, match="is a pickled checkpoint of RecBole, which could run code"):
        load(folder) if place == "model.safetensors" else run(resume=str(unfinished(folder)))
    assert not (tmp_path / "exploded").exists()


def test_a_folder_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/run", Path("/proc/run")):
        with pytest.raises(UserError, match="cannot be written"):
            run("BPR", "tiny", config_dict=tiny() | {"run_dir": str(place)})


def test_data_that_changed_since_the_run(finished, copied, tmp_path):
    folder, _ = copied
    (tmp_path / "data/tiny").mkdir(parents=True)
    (tmp_path / "data/tiny/tiny.inter").write_text(with_line("u0\tnew\t1\t1"))
    with pytest.raises(UserError, match="has changed since the run"):
        load(folder, {"data_path": str(tmp_path / "data")})


# --- other processes --------------------------------------------------------------------------------------------------


def process(settings, **options):
    """A command line in a process of its own, which trains for long."""
    arguments = command("--model=BPR", "--dataset=tiny", **settings | {"epochs": 100_000, "stopping_step": 100_000})
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "recbole_persona", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def wait_for(condition, child, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_interrupt_and_a_second_process(tiny, capsys):
    """Ctrl-C: status 130, one sentence that names --resume, a state that loads; meanwhile the folder is held."""
    settings = tiny()
    folder = Path(settings["run_dir"])
    child = process(settings)
    try:
        wait_for((folder / "state/last.safetensors").is_file, child)
        with pytest.raises(UserError, match="Another process is at work"):
            run("BPR", "tiny", config_dict=settings)
        child.send_signal(signal.SIGINT)
        _, printed = child.communicate(timeout=120)
    finally:
        child.kill()
    last = printed.strip().splitlines()[-1]
    assert child.returncode == 130 and f"--resume={folder}" in last and "Traceback" not in printed
    with pytest.raises(UserError, match="--resume"):
        run("BPR", "tiny", config_dict=settings | {"epochs": 100_000, "stopping_step": 100_000})
    assert load_tree(folder / "state/last.safetensors") and not list(folder.rglob("*.tmp"))


def test_a_full_disk(tiny, capsys):
    """A limit on the size of a file stands for a full disk: status 2, one sentence, and what was saved before loads."""
    settings = tiny() | {"embedding_size": 4}
    run("BPR", "tiny", config_dict=settings)
    folder = Path(settings["run_dir"])
    before = contents(folder)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    other = settings | {"run_dir": str(folder.with_name("large")), "embedding_size": 20_000}
    child = process(other, preexec_fn=limit)
    _, printed = child.communicate(timeout=300)
    lines = [line for line in printed.strip().splitlines() if line.startswith("recbole-persona: ")]
    assert child.returncode == 2 and len(lines) == 1 and "Traceback" not in printed
    assert "File too large" in lines[0] and not list(folder.parent.rglob("*.tmp"))
    assert contents(folder) == before


def test_what_a_killed_write_left_is_swept(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run" / ".config.yaml.killed.tmp").mkdir(parents=True)
    with folder.lock():
        assert [path.name for path in folder.path.iterdir()] == [".lock"]


def test_what_an_interrupted_write_left_is_swept(tmp_path):
    """Interrupts at random moments of writes, which also hit where a temporary file is made and removed."""
    interrupts = []

    def interrupt(signum, frame):
        interrupts.append(frame)
        raise KeyboardInterrupt  # lost where the garbage collector calls back (hypothesis)

    folder = RunFolder(tmp_path / "run")
    moments = np.random.default_rng(7).uniform(1e-4, 5e-3, size=200)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for moment in moments:
            interrupts.clear()
            with suppress(KeyboardInterrupt), folder.lock():
                signal.setitimer(signal.ITIMER_REAL, moment)
                while not interrupts:
                    folder.write_result({"test": {"ndcg@10": moment}})
            assert not list(folder.path.rglob("*.tmp"))
            assert not folder.complete or folder.result()["test"]
    finally:
        signal.signal(signal.SIGALRM, before)
