"""The values of single users beside a page: what the file holds, and what a row that is run again is compared with."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from board_files import BPR, POP, PROTOCOL, ran, written

from recbole_persona.board.per_user import read_per_user, read_values, write_values
from recbole_persona.errors import UserError
from recbole_persona.runs import RunFolder

KNN = {"name": "ItemKNN", "model": "ItemKNN"}
CHANGED = {"name": "BPR, changed", "model": "BPR", "config": {"learning_rate": 0.1}, "seeds": [7, 8]}
EARLIER = CHANGED | {"config": {"learning_rate": 0.0001}}
ROWS = [BPR, KNN, CHANGED]
PRIMARY = "ndcg@3"
TESTED = ("n", "difference", "low", "high", "p", "p_holm", "df", "effect", "se")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished board."""
    folder = tmp_path_factory.mktemp("finished")
    ran(written(folder, ROWS, baseline="BPR"))
    return folder


@pytest.fixture(scope="module")
def earlier(finished, tmp_path_factory):
    """The folder of the board before one of its rows was changed, without its runs."""
    folder = tmp_path_factory.mktemp("earlier") / "board"
    shutil.copytree(finished, folder)
    ran(written(folder, [BPR, KNN, EARLIER], baseline="BPR"))
    shutil.rmtree(folder / "runs")
    return folder


@pytest.fixture
def board(earlier, tmp_path):
    """A copy of it, to be spoiled, with the YAML file of today."""
    shutil.copytree(earlier, tmp_path, dirs_exist_ok=True)
    return written(tmp_path, ROWS, baseline="BPR")


def rows_of(folder):
    return {row["name"]: row for row in json.loads((folder / "board.json").read_text())}


def kept(folder):
    return folder / "board.per_user.csv.gz"


def test_the_file_holds_the_values_of_the_runs_in_the_order_of_the_users(finished):
    table = read_per_user(kept(finished))
    assert list(table) == ["dataset", "row", "seed", "metric", "user", "value"] and set(table["metric"]) == {PRIMARY}
    compared = 0
    for folder in map(RunFolder, (finished / "runs").iterdir()):
        result = folder.result()
        row = "BPR, changed" if result["seed"] > 2 else result["model"]
        found = table[(table["row"] == row) & (table["seed"] == result["seed"])]
        values = folder.per_user().sort_values("user")[PRIMARY].to_numpy()
        assert list(found["user"]) == list(range(40))
        assert np.allclose(found["value"], values, rtol=5e-5, atol=0)
        compared += 1
    assert compared * 40 == 6 * 40 == len(table)
    assert f"NDCG@3 of every user, entry and seed: `{kept(finished).name}`." in (finished / "board.md").read_text()
    assert b"u1" not in gzip.decompress(kept(finished).read_bytes())  # no id of a user


@pytest.mark.parametrize("name", ["BPR, changed", "BPR"])
def test_a_row_that_is_run_again_is_compared_as_if_all_had_run(name, board, finished):
    """Also where it is the row that the others are tested against."""
    if name == "BPR":  # whose settings did not change: all is as it was
        expected = rows_of(board.parent)
        file = written(board.parent, [BPR, KNN, EARLIER], baseline="BPR")
    else:
        expected, file = rows_of(finished), board
    found, _ = ran(file, rows=[name])
    assert {row: found[row]["rank"] for row in found} == {row: expected[row]["rank"] for row in expected}
    for row in ("ItemKNN", "BPR, changed"):
        ours, whole = (one[row]["comparisons"][PRIMARY] for one in (found, expected))
        assert ours["test"] == whole["test"] == "users and seeds" and ours["against"] == "BPR"
        assert {key: ours[key] for key in TESTED} == pytest.approx({key: whole[key] for key in TESTED}, rel=1e-3)
    assert found["BPR, changed"]["comparisons"]["recall@3"]["test"] == "unpaired"  # of which nothing is kept
    best, whole = (
        next(row["best_against_second"] for row in one.values() if row["rank"] == 1) for one in (found, expected)
    )
    assert best["against"] == whole["against"] and best["p"] == pytest.approx(whole["p"], rel=1e-3)
    assert "only NDCG@3 is tested" in file.with_suffix(".md").read_text()
    if name == "BPR, changed":
        pd.testing.assert_frame_equal(
            read_per_user(kept(board.parent)).sort_values(["row", "seed", "user"], ignore_index=True),
            read_per_user(kept(finished)).sort_values(["row", "seed", "user"], ignore_index=True),
        )


def test_values_that_do_not_belong_to_the_page_are_not_used(board):
    text = gzip.decompress(kept(board.parent).read_bytes()).decode()
    assert "tiny,BPR,1,ndcg@3," in text
    edited = text.replace("tiny,BPR,1,ndcg@3,", "tiny,BPR,1,ndcg@3,0.5 ")
    kept(board.parent).write_bytes(gzip.compress(edited.encode()))
    found, _ = ran(board, rows=["BPR, changed"])
    assert found["BPR, changed"]["comparisons"][PRIMARY]["test"] == "unpaired"


def test_rows_of_another_split_do_not_meet_on_a_page(board):
    data = board.parent / "data/tiny/tiny.inter"
    data.write_text(data.read_text().rpartition("\n")[0].rpartition("\n")[0] + "\n")
    before = {file: file.read_bytes() for file in board.parent.glob("board.*")}
    with pytest.raises(UserError, match="one protocol for all rows, but on tiny split_hash is"):
        ran(board, rows=["BPR, changed"])
    assert {file: file.read_bytes() for file in board.parent.glob("board.*")} == before


def test_a_truncated_file_is_one_sentence_before_anything_runs(board):
    kept(board.parent).write_bytes(kept(board.parent).read_bytes()[:-20])
    for call in (lambda: read_per_user(kept(board.parent)), lambda: ran(board, rows=["BPR, changed"])):
        with pytest.raises(UserError, match=r"truncated or edited\. Delete it to go on without it"):
            call()
    assert not (board.parent / "runs").exists()
    with pytest.raises(UserError, match="There is no file"):
        read_per_user(board.parent / "none.csv.gz")


def test_a_metric_that_is_no_mean_over_users_has_no_file(tmp_path):
    ran(written(tmp_path, [POP], seeds=[1]))
    assert kept(tmp_path).exists()
    protocol = PROTOCOL | {"metrics": ["ItemCoverage"]}
    rows, found = ran(written(tmp_path, [POP], seeds=[1], protocol=protocol, primary="itemcoverage@3"))
    assert not kept(tmp_path).exists() and "per_user" not in rows["Pop"]
    assert all(Path(file).is_file() for file in found["files"])


def test_a_file_that_would_be_too_large_has_fewer_digits_then_fewer_rows_and_says_so(tmp_path, caplog):
    file, random = tmp_path / "page.per_user.csv.gz", np.random.default_rng(0)
    rows = [{"name": str(rank), "dataset": "d", "rank": rank} for rank in (1, 2, 3, 4)]
    for row in rows[:3]:
        row["comparisons"] = {PRIMARY: {"against": "4"}}
    values = {("d", row["name"]): pd.DataFrame(random.random((500, 2)), columns=[1, 2]) for row in rows}
    values["d", "1"].iloc[3, 1] = np.nan
    for limit, digits in ((20_000, 5), (11_500, 4), (9_000, 3)):
        write_values(file, rows, values, PRIMARY, limit)
        assert file.stat().st_size <= limit and [row["per_user"]["digits"] for row in rows] == [digits] * 4
        read = read_values(file, rows, PRIMARY)
        assert all(np.allclose(read[key], values[key], rtol=0.5 * 10 ** (1 - digits), equal_nan=True) for key in values)
        for row in rows:
            del row["per_user"]
    assert not caplog.records
    write_values(file, rows, values, PRIMARY, 4_500)  # room for two of four: the baseline, and the best of the others
    assert ["digits" in row["per_user"] for row in rows] == [True, False, False, True]
    assert rows[1]["per_user"] == {"metric": PRIMARY, "left_out": True} and file.stat().st_size <= 4_500
    assert "no room for the values of 2 on d, 3 on d" in caplog.text
    assert not read_values(file, rows, "mrr@3")
    assert set(read_values(file, rows, PRIMARY)) == {("d", "1"), ("d", "4")}
    write_values(file, rows, read_values(file, rows, PRIMARY), PRIMARY)  # as after a row alone was run again
    assert "left_out" in rows[1]["per_user"] and rows[0]["per_user"]["digits"] == 3
