"""The pages are true: every block of docs/new_model.md runs, and docs/config.md has the keys that there are."""

import re
import runpy
import shlex
import sys
import tempfile
from pathlib import Path

import pytest

from recbole_persona import registry
from recbole_persona.cli import main
from recbole_persona.config import read_yaml, shipped

DOCS = Path(__file__).parent.parent / "docs"
PLACE = Path(tempfile.mkdtemp(prefix="new_model_"))
PAGE = (DOCS / "new_model.md").read_text(encoding="utf-8")
MODEL, WHY, SUITE, NAMED = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(COMMANDS,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
for name, text in (("history_attention", MODEL), ("why", WHY), ("suite_of_the_page", SUITE), ("named", NAMED)):
    (PLACE / f"{name}.py").write_text(text, encoding="utf-8")
sys.path.append(str(PLACE))

from suite_of_the_page import TestHistoryAttention  # noqa: E402, F401  (collected here)


@pytest.fixture(scope="module")
def place():
    """The folder of the page's files, where its commands have been run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PLACE)
        for command in COMMANDS.strip().splitlines():
            program, *arguments = shlex.split(command)
            assert program == "recbole-persona" and main(arguments) == 0, command
        yield PLACE


def test_the_commands_of_the_page(place):
    assert (place / "runs/first/result.json").is_file()


def test_the_explanation_of_the_page(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    runpy.run_path(str(place / "why.py"))
    printed = capsys.readouterr().out
    assert len(re.findall(r"^0\.\d{3}  item ", printed, re.M)) == 3


def test_the_registration_of_the_page(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))
    runpy.run_path(str(place / "named.py"))
    assert "ndcg@10" in capsys.readouterr().out
    assert registry.get_model("history-attention").__name__ == "HistoryAttention"


def test_the_config_page_lists_the_keys_of_ours():
    page = (DOCS / "config.md").read_text(encoding="utf-8")
    table = page.split("## Keys of ours")[1].split("\n## ")[0]
    keys = {key for cell in re.findall(r"^\| (`.*?`) \|", table, re.M) for key in re.findall(r"`(\w+)`", cell)}
    assert keys == read_yaml(shipped("properties") / "overall.yaml").keys()


def test_no_page_names_a_file_that_is_not_there():
    root = DOCS.parent
    for page in DOCS.glob("*.md"):
        for name in re.findall(
            r"`((?:recbole_persona|tests|docs|benchmarks|properties|results)/[\w./-]+\.\w+)`", page.read_text()
        ):
            assert "NAME" in name or (root / name).exists(), f"{page.name} names {name}"
