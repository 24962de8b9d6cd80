"""Boards for tests: small ones on the tiny data set, written to a folder."""

import yaml
from tiny import interactions

from recbole_persona.board.leaderboard import leaderboard

PROTOCOL = {
    "split_seed": 2020,
    "metrics": ["NDCG", "Recall"],
    "topk": [3],
    "epochs": 2,
    "embedding_size": 4,
    "eval_batch_size": 64,
    "load_col": {"inter": ["user_id", "item_id"]},
}
BPR = {"name": "BPR", "model": "BPR"}
POP = {"name": "Pop", "model": "Pop"}


def written(place, rows, name="board", **keys):
    """Write ``<name>.yaml`` and the data set ``tiny`` under ``place``; keys replace those of the board."""
    data = place / "data" / "tiny"
    data.mkdir(parents=True, exist_ok=True)
    (data / "tiny.inter").write_text(interactions(users=40, items=30, each=12))
    board = {
        "title": "A board",
        "datasets": {"tiny": {"data_path": str(place / "data")}},
        "protocol": PROTOCOL,
        "seeds": [1, 2],
        "primary": "ndcg@3",
        "rows": rows,
        **keys,
    }
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in board.items() if value is not None}, sort_keys=False))
    return file


def ran(file, **options):
    """The rows of the board by name, and what ``leaderboard`` returned; its runs lie beside it."""
    found = leaderboard(file, runs=file.parent / "runs", **options)
    return {row["name"]: row for row in found["rows"]}, found


def results(place):
    """Every result.json of the runs, with the time when it was written."""
    return {file: file.stat().st_mtime_ns for file in sorted((place / "runs").rglob("result.json"))}
