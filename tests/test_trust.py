"""Loading somebody's run folder runs nothing that is not installed here, unless this command names it or has --trust."""

import hashlib
import json
import os
import re
import shutil
import site
import sys

import pytest
import yaml
from board_files import BPR, ran, results, written
from recbole.quick_start import load_data_and_model
from tiny import command, write_tiny

import recbole_persona
from recbole_persona.cli import main
from recbole_persona.config import shipped
from recbole_persona.errors import UserError
from recbole_persona.runs import RunFolder
from recbole_persona.upstream.files import load_tree, save_tree

HOSTILE = """
from pathlib import Path
from recbole.model.general_recommender import BPR
Path({marker!r}).touch()
class Hostile(BPR):
    pass
"""
READERS = [
    "evaluate --run=run",
    "recommend --run=run --all",
    "explain --run=run --user=u1",
    "generate --run=run --user=u1 --item=i1",
    "--resume=run",
]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A folder with a data set and a finished run of BPR."""
    place = tmp_path_factory.mktemp("honest")
    recbole_persona.run("BPR", "tiny", config_dict=write_tiny(place))
    return place


@pytest.fixture
def place(honest, tmp_path, monkeypatch):
    """A copy of it as the working folder, which holds a module that leaves a mark where it is imported."""
    shutil.copytree(honest / "run", tmp_path / "run")
    (tmp_path / "hostile.py").write_text(HOSTILE.format(marker=str(tmp_path / "marker")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("hostile", "installed", "spaces")]:
        del sys.modules[name]


def rewrite(run, **settings):
    """Change settings of a run as somebody would who wants it to look whole."""
    folder = RunFolder(run)
    text = yaml.safe_dump(yaml.safe_load(folder.config_file.read_text()) | settings)
    folder.config_file.write_text(text)
    described = folder.description() | {"config_sha256": hashlib.sha256(text.encode()).hexdigest()}
    folder.run_file.write_text(json.dumps(described))


def refusal(capsys, typed):
    assert main(typed.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "--trust" in printed.err and not printed.out
    return printed.err


@pytest.mark.parametrize("typed", READERS)
def test_a_module_of_the_working_folder_is_not_run(place, capsys, typed):
    rewrite("run", model="hostile:Hostile")
    sentence = refusal(capsys, typed)
    assert "in run would run the module 'hostile'" in sentence and not (place / "marker").exists()


@pytest.mark.parametrize("typed", ["evaluate --run=run --trust", "evaluate --run=run --model=hostile:Hostile",
                                     "--resume=run --trust", "--resume=run --model=hostile:Hostile"])  # fmt: skip
def test_it_is_run_where_the_command_trusts_it_or_names_it(place, capsys, typed):
    rewrite("run", model="hostile:Hostile")
    assert main(typed.split()) == 0
    assert "ndcg@3" in capsys.readouterr().out and (place / "marker").exists()


def test_python_callers_say_trust(place):
    rewrite("run", model="hostile:Hostile")
    for read in (recbole_persona.load, recbole_persona.recommend, recbole_persona.explain):
        with pytest.raises(UserError, match="trust=True"):
            read("run", **({"user": "u1"} if read is recbole_persona.explain else {}))
    with pytest.raises(UserError, match="trust=True"):
        recbole_persona.run(resume="run")
    assert not (place / "marker").exists()
    loaded = recbole_persona.load("run", trust=True)
    assert type(loaded.model).__name__ == "Hostile"
    recbole_persona.load("run")  # what is imported already runs nothing new


def test_a_class_that_the_caller_gives_is_trusted(place):
    from hostile import Hostile

    rewrite("run", model="hostile:Hostile")
    assert recbole_persona.run(Hostile, resume="run")["result"]["model"] == "BPR"


def test_another_model_than_that_of_the_run_is_not_continued(place):
    with pytest.raises(UserError, match="a run with other settings"):
        recbole_persona.run("Pop", resume="run")


def test_recboles_own_way_to_load_is_no_way_round(place):
    file = "run/model.safetensors"
    tree = load_tree(file)
    tree["config"]["model"] = "hostile:Hostile"
    tree["config"].final_config_dict["run_dir"] = None
    save_tree(tree, file)
    with pytest.raises(UserError, match=r"in run/model\.safetensors would run the module 'hostile'"):
        load_data_and_model(file)
    assert not (place / "marker").exists() and not (place / "log").exists()
    assert type(load_data_and_model(file, trust=True)[1]).__name__ == "Hostile"
    save_tree({"state_dict": {}}, file)
    with pytest.raises(UserError, match="holds no model with its settings"):
        load_data_and_model(file)


def test_what_is_installed_is_trusted_and_what_hides_behind_it_is_not(place, monkeypatch):
    packages, marker = place / "site", place / "marker"
    for name, file in {
        "installed": packages / "installed/models.py",
        "spaces.good": packages / "spaces/good.py",  # packages without __init__.py are found in several folders
        "spaces.bad": place / "spaces/bad.py",
        "nowhere": place / "installed/nowhere.py",  # a folder of the same name, further down the path
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HOSTILE.format(marker=str(place / name)))
    (packages / "installed/__init__.py").touch()
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(packages)])
    for name in ("spaces.bad", "installed.nowhere", "no_such_module", "antigravity", ".hostile", "hostile.inner"):
        rewrite("run", model=f"{name}:Hostile")
        with pytest.raises(UserError, match="which is not installed"):
            recbole_persona.load("run")
    for name in ("installed.models", "spaces.good"):
        rewrite("run", model=f"{name}:Hostile")
        assert type(recbole_persona.load("run").model).__module__ == name
    (place / "installed/__init__.py").touch()
    (place / "installed/models.py").write_text(HOSTILE.format(marker=str(marker)))
    for name in ("installed", "installed.models"):
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(place))
    rewrite("run", model="installed.models:Hostile")  # now the working folder comes first
    with pytest.raises(UserError, match="which is not installed"):
        recbole_persona.load("run")
    assert not marker.exists()


def test_paths_of_recboles_and_our_own_classes_need_no_trust(place):
    for model in ("recbole.model.general_recommender.bpr:BPR", "recbole:BPR"):
        rewrite("run", model=model)
        assert type(recbole_persona.load("run").model).__name__ == "BPR"


@pytest.mark.parametrize(
    ("settings", "named", "sentence"),
    [
        ({"trust_remote_code": True, "backbone": "a/b"}, "trust_remote_code=False", "comes with the model 'a/b'"),
        ({"attn_implementation": "a/kernel"}, "attn_implementation=None", "run the kernel 'a/kernel'"),
        ({"lora": {"megatron_config": {"a": 1}, "megatron_core": "megatron.x"}}, "lora={}", "the module 'megatron.x'"),
        ({"judge_url": "http://a.host/v1", "metrics": ["NDCG", "judge"]}, "metrics=['NDCG']", "to a.host (judge_url)"),
    ],
)
def test_other_settings_that_run_code_or_send_texts(place, capsys, settings, named, sentence):
    rewrite("run", **settings, allow_unknown=True)
    assert sentence in refusal(capsys, "evaluate --run=run")
    key = named.partition("=")[0]
    if key == "metrics":
        assert main(["evaluate", "--run=run", f"--{named}"]) == 0  # the command itself says what is to be done
        assert "ndcg@3" in capsys.readouterr().out
    else:  # BPR has no use for them: nothing is refused but that
        assert main(["evaluate", "--run=run", f"--{named}"]) == 2
        assert capsys.readouterr().err.startswith(f"recbole-persona: {key} cannot be changed in a finished run")


def test_an_adapter_beside_a_backbone_names_no_module(place):
    (place / "adapter_config.json").write_text(json.dumps({"megatron_config": {"a": 1}, "megatron_core": "megatron.x"}))
    for key in ("backbone", "bertscore_encoder"):
        rewrite("run", **{"backbone": "scratch:tiny", key: str(place)}, allow_unknown=True)
        with pytest.raises(UserError, match=rf"would run the module 'megatron\.x' \({key}\)"):
            recbole_persona.load("run")
    recbole_persona.load("run", {"bertscore_encoder": None})


def test_a_loaded_run_reports_to_nobody(place):
    rewrite("run", log_wandb=True)
    assert recbole_persona.load("run").config["log_wandb"] is False


def test_a_setting_that_no_run_writes_is_refused(place):
    """With ``local_rank`` RecBole's ``Config`` would join a group of processes at ``ip`` over the network."""
    rewrite("run", local_rank=0, ip="127.0.0.1", port="9", nproc=1)
    with pytest.raises(UserError, match=r"config\.yaml is not as the run wrote it"):
        recbole_persona.load("run", trust=True)


def test_defaults_from_elsewhere_count_as_well(place):
    """The name of a data set leads to a file of its defaults, and may lead astray."""
    (place / "aside").mkdir()
    (place / "aside.yaml").write_text("trust_remote_code: True\n")
    folder = shipped("properties") / "dataset"
    rewrite("run", dataset=os.path.relpath(place / "aside", folder), data_path=str(folder))
    with pytest.raises(UserError, match=r"trust_remote_code"):
        recbole_persona.load("run")


@pytest.mark.parametrize("name", [".lock", "train.log", "state", "state/last.txt"])
def test_a_run_is_not_continued_through_a_link(place, name):
    (place / "precious").write_text("kept") if "." in name else shutil.move(place / "run" / name, place / "precious")
    (place / "run" / name).unlink(missing_ok=True)
    (place / "run" / name).symlink_to(place / "precious")
    (place / "run/result.json").unlink()
    with pytest.raises(UserError, match=rf"{re.escape(name)} is a link"):
        recbole_persona.run(resume="run")
    assert "." not in name or (place / "precious").read_text() == "kept"


def test_another_module_in_the_folder_of_a_run_is_another_run(place):
    rewrite("run", model="hostile:Hostile")
    settings = write_tiny(place) | {"run_dir": "run"}
    with pytest.raises(UserError, match="holds a run with other settings"):
        recbole_persona.run("BPR", "tiny", config_dict=settings)
    assert not (place / "marker").exists()


def test_the_run_that_user_vectors_names_is_no_way_round(place):
    rewrite("run", model="hostile:Hostile")
    own = write_tiny(place) | {"user_vectors": str(place / "run"), "run_dir": str(place / "own")}
    with pytest.raises(UserError, match="would run the module 'hostile'"):
        recbole_persona.run("BPR", "tiny", config_dict=own)
    assert not (place / "marker").exists()


# --- boards and searches read their own runs back ---------------------------------------------------------------------


def test_a_board_reads_back_what_its_own_file_names(place):
    """Its module, and settings that run code; the runs of a killed board go on, done ones are re-ranked."""
    rows = [
        {"name": "Own", "model": "hostile:Hostile", "config": {"trust_remote_code": True}},
        {"name": "Own + MMR", "rerank": {"of": "Own", "method": "mmr", "weights": [0.5]}},
        BPR,
    ]
    keys = {"seeds": [1], "baseline": "BPR", "splits": {"history_length": 2}}
    board = written(place, rows, **keys)
    assert ran(board)[1]["failed"] == 0
    before = results(place)
    for result in before:
        if "mmr" in result.parent.name or "BPR" in result.parent.name:
            result.unlink()
    del sys.modules["hostile"]
    rows, found = ran(board)
    assert found["failed"] == 0 and {row["status"] for row in rows.values()} == {"run"}
    kept = [result for result in before if "Hostile" in result.parent.name and "mmr" not in result.parent.name]
    assert len(kept) == 1 and results(place)[kept[0]] == before[kept[0]]


def test_a_run_that_somebody_put_into_a_boards_folder_is_not_trusted(place):
    rows = [BPR, {"name": "BPR + MMR", "rerank": {"of": "BPR", "method": "mmr", "weights": [0.5]}}]
    board = written(place, rows, seeds=[1], baseline="BPR")
    ran(board)
    trained, reranked = sorted((file.parent for file in results(place)), key=lambda run: len(run.name))
    rewrite(trained, model="hostile:Hostile")
    (reranked / "result.json").unlink()
    rows, found = ran(board)
    assert "would run the module 'hostile'" in rows["BPR + MMR"]["failed"][0]["reason"] and found["failed"] == 1
    assert not (place / "marker").exists()


def test_a_search_that_a_board_opens_names_no_module(place):
    (place / "study").mkdir()
    (place / "study/study.json").write_text(json.dumps({"best_config": "best.yaml"}))
    (place / "study/best.yaml").write_text("model: hostile:Hostile\n")
    board = written(place, [BPR, {"name": "Opened", "study": "study"}], seeds=[1], baseline="BPR")
    with pytest.raises(UserError, match=r"name it in the row: model: hostile:Hostile, config_files: \[.*best\.yaml\]"):
        ran(board)
    assert not (place / "marker").exists()


def test_a_search_goes_on_with_a_module_that_its_command_names(place):
    settings = {key: value for key, value in write_tiny(place).items() if key not in ("run_dir", "embedding_size")}
    (place / "space.yaml").write_text("embedding_size: {choices: [2, 4]}\n")
    asked = command("tune", model="hostile:Hostile", dataset="tiny", space="space.yaml", seeds="1", **settings)
    assert main([*asked, "--trials=1"]) == 0
    del sys.modules["hostile"]
    assert main([*asked, "--trials=2", "--resume"]) == 0
