"""Draw explanation sentences to be judged by a reader, and print the page of those that were (docs/explanations.md).

python docs/explanations.py draw dataset/films --seed=2026 [--rows=40] > drawn.yaml
python docs/explanations.py page results/review-sentences.yaml > results/review-sentences.md
"""

import argparse
import json
import random
import sys
from pathlib import Path

import yaml

VERDICTS = ("right", "wrong")
HEAD = """# Sentences of reviews, read by a reader

Printed by `python docs/explanations.py page results/review-sentences.yaml > results/review-sentences.md`; do not edit.

The sentences were drawn at random by `python docs/explanations.py draw FOLDER --seed=SEED --rows=40`, after the rule was last
changed. The verdicts were typed in by the author of the rule, who read each sentence; no program gives them. A feature is right
when the word is an aspect of the item that the sentence says something about; wrong when it is the item, a kind of item, a
vague word, or not what the sentence speaks of. The rule is in [explanation data](../docs/explanations.md), with the draws it
was developed on.
"""


def draw(folder: Path, rows: int, seed: int) -> dict:
    """Rows with a sentence of a converted data set, chosen by a seed, with a verdict that is to be filled in."""
    head, *lines = (folder / f"{folder.name}.inter").read_text(encoding="utf-8").splitlines()
    names = [cell.partition(":")[0] for cell in head.split("\t")]
    cells = [dict(zip(names, line.split("\t"))) for line in lines]
    explained = [row for row in cells if row["explanation"]]
    notes = json.loads((folder / f"{folder.name}.convert.json").read_text(encoding="utf-8"))["result"]["notes"]
    return {
        "name": folder.name,
        "source": "",
        "command": "",
        "reviews": len(cells),
        "sentences": len(explained),
        "features": notes["features"],
        "seed": seed,
        "read": [
            {"feature": row["feature"], "sentence": row["explanation"], "verdict": "", "why": ""}
            for row in random.Random(seed).sample(explained, rows)
        ],
    }


def page(sets: list[dict]) -> str:
    """The page of drawn sentences with their verdicts, in Markdown."""
    facts = [
        [
            one["name"],
            f"{one['reviews']:,}",
            f"{one['sentences']:,} ({one['sentences'] / one['reviews']:.0%})",
            one["features"],
            one["seed"],
            len(one["read"]),
            sum(row["verdict"] == "wrong" for row in one["read"]),
        ]
        for one in sets
    ]
    parts = [HEAD, table(["data", "reviews", "with a sentence", "features", "seed", "read", "wrong"], facts)]
    for one in sets:
        parts += [f"## {one['name']}\n\n{one['source']}\n\n    {one['command']}\n"]
        rows = [
            [number, row["feature"], row["sentence"], row["verdict"], row["why"]]
            for number, row in enumerate(one["read"], 1)
        ]
        parts.append(table(["", "feature", "sentence", "verdict", "why"], rows))
    return "\n".join(parts)


def table(head, rows) -> str:
    """A table in Markdown."""
    cells = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in cells)


def judged(file: Path) -> list[dict]:
    """Drawn sentences out of a file.

    Raises:
        SystemExit: a sentence has no verdict.
    """
    sets = yaml.safe_load(file.read_text(encoding="utf-8"))
    missing = [row["sentence"] for one in sets for row in one["read"] if row["verdict"] not in VERDICTS]
    if missing:
        raise SystemExit(f"{file}: {len(missing)} sentences have no verdict, the first is {missing[0]!r}")
    return sets


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("folder", type=Path, help="of the converted data set")
    drawing.add_argument("--rows", type=int, default=40)
    drawing.add_argument("--seed", type=int, required=True)
    commands.add_parser("page").add_argument("file", type=Path, help="the drawn sentences, with verdicts")
    given = parser.parse_args()
    if given.command == "draw":
        found = [draw(given.folder, given.rows, given.seed)]
        sys.stdout.write(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=10_000))
    else:
        sys.stdout.write(page(judged(given.file)))
