"""Print explanation sentences of a converted data set, chosen by a seed, to be judged by eye (docs/explanations.md).

python docs/explanations.py dataset/musical-instruments-explained [--rows=50] [--seed=2020]
"""

import argparse
import random
from pathlib import Path


def sample(folder, rows, seed):
    """``(feature, sentence)`` of some of the interactions that have one, in a fixed order."""
    folder = Path(folder)
    head, *lines = (folder / f"{folder.name}.inter").read_text(encoding="utf-8").splitlines()
    names = [cell.partition(":")[0] for cell in head.split("\t")]
    cells = [dict(zip(names, line.split("\t"))) for line in lines]
    explained = [(row["feature"], row["explanation"]) for row in cells if row["explanation"]]
    return random.Random(seed).sample(explained, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of the data set")
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--seed", type=int, default=2020)
    given = parser.parse_args()
    for number, (feature, sentence) in enumerate(sample(given.folder, given.rows, given.seed), 1):
        print(f"{number:3}  {feature}: {sentence}")
