"""The command line: what is typed becomes files and settings; a mistake is one sentence and status 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_persona.cli import COMMANDS, main, parse_settings
from recbole_persona.cli.run import split_files
from recbole_persona.errors import UserError
from recbole_persona.version import __version__

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["--epochs=3"], {"epochs": 3}),
        (["--learning_rate=1e-3"], {"learning_rate": 0.001}),
        (["--shuffle=False"], {"shuffle": False}),
        (["--shuffle=false"], {"shuffle": False}),
        (["--allow_unknown"], {"allow_unknown": True}),
        (["--topk=[5,10]"], {"topk": [5, 10]}),
        (["--metrics=['NDCG','Recall']"], {"metrics": ["NDCG", "Recall"]}),
        (["--train_neg_sample_args=None"], {"train_neg_sample_args": None}),
        (["--eval_args={'mode':'uni100'}"], {"eval_args": {"mode": "uni100"}}),
        (["--user_inter_num_interval=[5,inf)"], {"user_inter_num_interval": "[5,inf)"}),
        (["--wandb_project=a=b=c"], {"wandb_project": "a=b=c"}),
        (["--wandb_project="], {"wandb_project": ""}),
        (["--data_path=/a folder/of data"], {"data_path": "/a folder/of data"}),
        (["--epochs=3", "--epochs=3"], {"epochs": 3}),
        (
            ["--epochs", "3", "--shuffle", "--weight_decay", "-1e-3"],
            {"epochs": 3, "shuffle": True, "weight_decay": -0.001},
        ),
        (["--metrics=[NDCG,Recall]"], {"metrics": ["NDCG", "Recall"]}),
        (["--metrics", "[NDCG, Recall]"], {"metrics": ["NDCG", "Recall"]}),
        (
            ["--eval_args={split:{RS:[0.8,0.1,0.1]},order:TO,group_by:None}"],
            {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": None}},
        ),
        (["--load_col={inter:[user_id,item_id]}"], {"load_col": {"inter": ["user_id", "item_id"]}}),
        (["--val_interval=[5,inf]"], {"val_interval": "[5,inf]"}),
        (["--wandb_project=[my] [own]"], {"wandb_project": "[my] [own]"}),
        ([], {}),
    ],
)
def test_settings(arguments, settings):
    assert parse_settings(arguments) == settings


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["epochs=3"], "Cannot read 'epochs=3'; write settings as --key=value"),
        (["3", "--epochs"], "Cannot read '3'"),
        (["--epochs", "3", "4"], "Cannot read '4'"),
        (["--epochs", "-e"], "Cannot read '-e'"),
        (["-e=3"], "Cannot read '-e=3'"),
        (["--=3"], "Cannot read '--=3'"),
        (["--"], "Cannot read '--'"),
        (["--epochs=3", "--epochs=4"], "--epochs is given twice, as 3 and 4"),
        ([""], "Cannot read ''"),
    ],
)
def test_settings_that_cannot_be_read(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_settings(arguments)


@given(st.lists(st.text(max_size=30), max_size=4))
def test_odd_arguments_are_read_or_refused(arguments):
    try:
        assert isinstance(parse_settings(arguments), dict)
    except UserError as error:
        assert str(error)


def test_a_huge_argument():
    assert parse_settings(["--wandb_project=" + "x" * 1_000_000]) == {"wandb_project": "x" * 1_000_000}
    nested = "[" * 100_000
    assert parse_settings([f"--wandb_project={nested}"]) == {"wandb_project": nested}


def test_config_files_as_people_type_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml", "my own.yaml", "x,y.yaml"):
        (tmp_path / name).write_text("epochs: 1\n")
    assert split_files("a.yaml") == ["a.yaml"]
    assert (
        split_files("a.yaml,b.yaml")
        == split_files("a.yaml b.yaml")
        == split_files(" a.yaml , b.yaml ")
        == ["a.yaml", "b.yaml"]
    )
    assert split_files("my own.yaml") == ["my own.yaml"] and split_files("x,y.yaml") == ["x,y.yaml"]
    assert split_files("my own.yaml,b.yaml") == ["my own.yaml", "b.yaml"]
    assert split_files("") == split_files(",") == []
    assert split_files("no.yaml") == ["no.yaml"] and split_files("a.yaml,") == ["a.yaml"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set named ``tiny``, two config files, and a finished run of BPR with seed 3."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "dataset/tiny").mkdir(parents=True)
    rows = "".join(f"u{u}\ti{(u + i) % 12}\t{i}\n" for u in range(9) for i in range(8))
    (folder / "dataset/tiny/tiny.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    (folder / "a.yaml").write_text("epochs: 9\nembedding_size: 4\nmetrics: [NDCG]\n")
    (folder / "b.yaml").write_text("epochs: 1\ntopk: [3]\nvalid_metric: NDCG@3\n")
    return folder


@pytest.mark.parametrize(
    "typed",
    [
        "--model=BPR --dataset=tiny --config_files=a.yaml,b.yaml --seed=3 --run_dir=run",
        "run --model=BPR --dataset=tiny --config_files a.yaml b.yaml --seed=3 --run_dir=run",
        "-m BPR -d tiny --seed=3 --config_files a.yaml b.yaml --run_dir=run",
        "--run_dir=run --seed=3 --dataset tiny --model bpr --config_files=a.yaml,b.yaml",
        "--resume=run",
    ],
)
def test_the_same_run_typed_in_several_ways(place, monkeypatch, capsys, typed):
    """The first trains; the others find it finished, with the same settings (others would be refused)."""
    monkeypatch.chdir(place)
    assert main(typed.split()) == 0
    assert "BPR on tiny, seed 3" in capsys.readouterr().out
    settings = yaml.safe_load((place / "run/config.yaml").read_text())
    assert (settings["epochs"], settings["topk"], settings["embedding_size"]) == (1, [3], 4)


def test_config_files_in_one_quoted_argument(place, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["--model=BPR", "--dataset=tiny", "--config_files", "a.yaml b.yaml", "--seed=3", "--run_dir=run"]) == 0


def test_a_later_file_wins_and_the_command_line_above_all(place, monkeypatch):
    monkeypatch.chdir(place)
    assert main("-m BPR -d tiny --config_files b.yaml a.yaml --seed=3 --epochs=2 --run_dir=other".split()) == 0
    assert yaml.safe_load((place / "other/config.yaml").read_text())["epochs"] == 2
    assert json.loads((place / "other/result.json").read_text())["epochs"] == 2


def test_nothing_is_written_outside_the_run_folder(place, monkeypatch):
    monkeypatch.chdir(place)
    before = set(place.iterdir())
    assert main("-m BPR -d tiny --config_files=a.yaml,b.yaml".split()) == 0
    assert set(place.iterdir()) - before == {place / "runs"}
    (run,) = (place / "runs").iterdir()
    assert re.fullmatch(r"tiny-BPR-2020-[0-9a-f]{8}", run.name)


def test_options_are_not_guessed(capsys):
    assert main(["--model=BPR", "--dataset=ml-100k", "--resum=there"]) == 2
    assert "no config key 'resum'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["--rerun=5"], "see recbole-persona run --help"),
        (["evaluate"], "the following arguments are required: --run"),
        (["doctor", "--epochs=3"], "unrecognised arguments: --epochs=3"),
        (["run", "--model"], "expected one argument"),
    ],
)
def test_a_wrong_command_is_one_sentence(capsys, arguments, sentence):
    assert main(arguments) == 2
    printed = capsys.readouterr().err.strip()
    assert sentence in printed and "\n" not in printed


def test_help_and_version(capsys):
    assert main([]) == 0 and "doctor" in capsys.readouterr().out
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == f"recbole-persona {__version__}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and f"recbole-persona {command}" in capsys.readouterr().out


def test_doctor_finds_nothing_to_mend(capsys):
    assert main(["doctor"]) == 0
    assert "repairs of RecBole are in force" in capsys.readouterr().out


def test_a_reader_that_goes_away():
    child = subprocess.Popen(
        [sys.executable, "-m", "recbole_persona", "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    child.stdout.close()
    assert "Traceback" not in child.stderr.read() and child.wait() in (0, 1)


def test_it_starts_as_a_program():
    arguments = [str(ROOT / "run_recbole_persona.py"), "--model=BRP", "--dataset=ml-100k"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no model named 'BRP'" in done.stderr
