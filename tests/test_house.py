"""The house: floors import downwards, nothing of RecBole is copied, everything is packaged, nothing is unpickled."""

import ast
import configparser
import re
from pathlib import Path

import pytest
import recbole

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "recbole_persona"
FLOORS = [
    {"errors", "progress", "version"},
    {"trust"},
    {"upstream"},
    {"config", "registry", "settings", "unused"},
    {"runs"},
    {"data", "layers"},
    {"lm"},
    {"models"},
    {"evaluate"},
    {"train"},
    {"runner"},
    {"search"},
    {"report", "board"},
    {"cli"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported(file):
    """(line, name inside our package) of every import of ours."""
    package = ("recbole_persona", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            stem = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (stem, node.module or "") if part)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "recbole_persona" else [module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name.split(".")[1]) for name in names if name.startswith("recbole_persona."))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_floors_import_downwards(file):
    here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here not in FLOOR:
        return  # __init__.py and __main__.py stand outside the house
    upwards = [(line, name) for line, name in imported(file) if FLOOR.get(name, -1) > FLOOR[here]]
    beside = [(line, n) for line, n in imported(file) if n != here and FLOOR.get(n) == FLOOR[here]]
    # config knows the registry of names; nothing else on one floor imports its neighbour
    assert not upwards and (not beside or here == "config")


def test_nothing_of_recbole_stands_again():
    """No three lines of code in a row (imports and lone brackets aside), and no single line longer than a signature."""

    def lines(file):
        stripped = (re.sub(r"\s+", " ", line.strip()) for line in file.read_text(encoding="utf-8").splitlines())
        left_out = re.compile(r"#|from |import |\w+(=\w+)?,$")  # the last: an argument of a signature
        return [line for line in stripped if re.search(r"\w{3}", line) and not left_out.match(line)]

    def passages(file):
        code = lines(file)
        return {" ".join(code[i : i + 3]) for i in range(len(code) - 2)} | {line for line in code if len(line) > 90}

    upstream = set().union(*map(passages, Path(recbole.__file__).parent.rglob("*.py")))
    assert not {file.name: passages(file) & upstream for file in SOURCES if passages(file) & upstream}


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    present = {".".join(file.parent.relative_to(ROOT).parts) for file in PACKAGE.rglob("__init__.py")}
    assert listed == present | {"recbole_persona.properties", "recbole_persona.dataset"}


def test_readme_has_two_commands_on_its_first_screen():
    screen = (ROOT / "README.md").read_text().split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", screen, re.S)
    assert len(blocks) == 2 and all(block.count("\n") == 1 for block in blocks)
    assert "run_recbole_persona.py --model=AMPCF --dataset=ml-100k" in blocks[0] and "pytest" in blocks[1]


def test_nothing_is_unpickled_or_evaluated():
    bad = re.compile(
        r"(^|[^._\w])(eval|exec)\(|pickle\.load|cloudpickle|joblib\.load|allow_pickle=True|trust_remote_code=True"
    )
    found = [
        (file.name, line)
        for file in [*SOURCES, *(ROOT / "benchmarks").rglob("*.py")]
        for line in file.read_text().splitlines()
        if bad.search(line) or ("torch.load(" in line and "weights_only=True" not in line and "``" not in line)
    ]
    assert not found
