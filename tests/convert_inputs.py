"""Small input files of tests of convert."""

import gzip
from pathlib import Path

SEQUENCES = "1 a b c\n2 b c\n3 a\n"
REVIEW_2014 = {
    "reviewerID": "A2", "asin": "B1", "reviewerName": "x", "helpful": [3, 4],
    "reviewText": "It's\tgood,\r\nvery \"good\"", "overall": 5.0, "summary": "Great", "unixReviewTime": 1393545600,
}  # fmt: skip


def packed(path, text):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def written(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def counts(done):
    return done.users, done.items, done.interactions
