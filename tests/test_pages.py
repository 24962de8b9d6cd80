"""The first pages run as they stand: the quickstart as its notebook, from_recbole.md block by block; links lead somewhere."""

import re
import runpy
import shlex
from pathlib import Path

import nbformat
import pytest

from recbole_persona.cli import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
QUICKSTART = runpy.run_path(str(DOCS / "quickstart.py"))
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_notebook_has_the_text_of_the_page():
    made = QUICKSTART["notebook"](QUICKSTART["PAGE"].read_text(encoding="utf-8"))
    kept = nbformat.read(QUICKSTART["NOTEBOOK"], as_version=4)
    nbformat.validate(kept)
    fields = ("id", "cell_type", "source")
    advice = "write it again: python docs/quickstart.py"
    assert [[cell[field] for field in fields] for cell in kept["cells"]] == [
        [cell[field] for field in fields] for cell in made["cells"]
    ], advice


@pytest.mark.slow
def test_the_notebook_runs_in_an_empty_folder(tmp_path):
    cells = QUICKSTART["notebook"](QUICKSTART["PAGE"].read_text(encoding="utf-8"))
    QUICKSTART["execute"](cells, tmp_path)
    printed = [QUICKSTART["printed"](cell) for cell in cells["cells"] if cell["cell_type"] == "code"]
    assert all(printed[:-2]) and printed[-1], "only the block that writes board.yaml prints nothing"
    assert "user C001, 1" in printed[3] and "because you chose" in printed[3]
    assert {"dataset", "runs", "board.md", "board.csv"} <= {entry.name for entry in tmp_path.iterdir()}
    assert "AMPCF, K = 2" in (tmp_path / "board.md").read_text(encoding="utf-8")


def test_the_page_for_users_of_recbole(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for language, block in BLOCK.findall((DOCS / "from_recbole.md").read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(block, "docs/from_recbole.md", "exec"), names)
            continue
        for command in block.strip().splitlines():
            program, *arguments = shlex.split(command)
            assert program == "recbole-persona" and main(arguments) == 0, command
    assert names["result"]["test_result"]["ndcg@10"] > 0
    assert list(names["bpr"].recommend(["196"], topk=3)["item"]) == list(
        names["dataset"].id2token(names["dataset"].iid_field, names["items"][0].cpu())
    ), "recommend and case_study name the same items"
    assert (tmp_path / "studies" / "ml-100k-BPR" / "best.yaml").is_file()


def test_the_readme_shows_what_was_printed():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command, printed = re.search(r"^```text\n\$ (.*)\n(.*?)^```$", readme, re.M | re.S).groups()
    assert command.startswith("recbole-persona explain --run=runs/films --user=196")
    assert printed in (DOCS / "explain.md").read_text(encoding="utf-8"), "docs/explain.py has made other output"
    assert "runs 0 of its 94 models" in readme and "all 94 train" in readme
    upstream = (DOCS / "upstream.md").read_text(encoding="utf-8")
    assert "Bare RecBole runs 0 of 94 " in upstream and "94 of 94 train" in upstream


def test_every_page_stands_in_the_index():
    linked = set(re.findall(r"\]\(([\w.]+)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"index.md"} | {"quickstart.ipynb"}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or there.suffix != ".md" or anchor in anchors(there), f"{page.name}: no heading {target}"
