"""Boards that are run again: what is done stays, what changed runs, what failed or was spoiled is told or done again."""

import json
import shutil
from pathlib import Path

import pytest
from board_files import BPR, POP, PROTOCOL, ran, results, written
from tiny import lose

from recbole_persona.board.cells import plan
from recbole_persona.board.leaderboard import check, prepare
from recbole_persona.board.specification import read_board
from recbole_persona.cli import main
from recbole_persona.errors import Busy, UserError
from recbole_persona.runner import evaluate_run
from recbole_persona.runs import RunFolder

AGAIN = {"name": "BPR again", "model": "BPR", "config": {"embedding_size": 4}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished board of BPR and Pop."""
    folder = tmp_path_factory.mktemp("finished")
    ran(written(folder, [BPR, POP], baseline="BPR"))
    return folder


@pytest.fixture
def board(finished, tmp_path):
    """A copy of it, to be spoiled."""
    shutil.copytree(finished, tmp_path / "copy")
    return written(tmp_path / "copy", [BPR, POP], baseline="BPR")


def cells(file):
    described = read_board(file)
    resolved = {(part.dataset, row.name): row for part in described.parts for row in part.rows if row.kind == "model"}
    return plan(described, file.parent / "runs", resolved)


def test_a_cell_lies_where_a_run_of_its_settings_would(board):
    for cell in cells(board):
        result = RunFolder(cell.path).result()
        assert cell.path.name == f"tiny-{result['model']}-{result['seed']}-{result['config_hash']}"


def test_done_cells_are_not_run_again_and_the_page_is_the_same(board):
    before = results(board.parent)
    pages = {file: file.read_bytes() for file in board.parent.glob("board.*")}
    ran(board)
    assert len(before) == 4 and results(board.parent) == before
    assert {file: file.read_bytes() for file in board.parent.glob("board.*")} == pages


def test_a_changed_row_makes_new_cells_and_equal_rows_share_them(board):
    before = results(board.parent)
    changed = {"name": "Pop", "model": "BPR", "config": {"learning_rate": 0.01}}
    rows, _ = ran(written(board.parent, [BPR, AGAIN, changed], baseline="BPR"))
    after = results(board.parent)
    assert len(after) == 6 and before.items() <= after.items()
    assert rows["BPR again"]["metrics"] == rows["BPR"]["metrics"]
    found = rows["BPR again"]["comparisons"]["ndcg@3"]
    assert (found["difference"], found["p"], found["effect"]) == (0.0, 1.0, 0.0)


def test_corpus_metrics_are_bootstrapped_and_auc_is_not_tested(tmp_path):
    protocol = PROTOCOL | {"metrics": ["NDCG", "ItemCoverage", "GAUC", "AUC"], "value_mode": "uni5"}
    rows, _ = ran(written(tmp_path, [BPR, POP], baseline="BPR", protocol=protocol, splits={"history_length": 2}))
    (group,) = rows["Pop"]["splits"]["history_length"]  # in these data all are alike
    assert set(group["metrics"]) == {"ndcg@3", "gauc"} and 0 < group["metrics"]["gauc"]["mean"] < 1
    found = rows["Pop"]["comparisons"]
    assert found["itemcoverage@3"]["test"] == found["gauc"]["test"] == "users and seeds"
    assert (
        found["ndcg@3"]["test"] == "users and seeds" and "auc" not in found and rows["Pop"]["metrics"]["auc"]["n"] == 2
    )


def test_every_data_set_has_its_own_seeds_settings_and_rows(tmp_path):
    data = str(tmp_path / "data")
    file = written(tmp_path, [BPR, POP], baseline="BPR", tables=[{"title": "T", "rows": ["Pop", "BPR"]}])
    shutil.copytree(tmp_path / "data/tiny", tmp_path / "data/other")
    (tmp_path / "data/other/tiny.inter").rename(tmp_path / "data/other/other.inter")
    sets = {
        "tiny": {"data_path": data},
        "other": {"data_path": data, "seeds": [7], "config": {"epochs": 1}, "rows": ["BPR"]},
    }
    file = written(tmp_path, [BPR, POP], baseline="BPR", datasets=sets)
    _, found = ran(file)
    assert [(row["dataset"], row["name"]) for row in found["rows"]].count(("other", "Pop")) == 0
    (other,) = [row for row in found["rows"] if row["dataset"] == "other"]
    assert other["seeds"] == [7] and other["cost"]["epochs"] == 1 and other["metrics"]["ndcg@3"]["std"] is None
    assert "## tiny" in (tmp_path / "board.md").read_text() and "## other" in (tmp_path / "board.md").read_text()


def test_a_cell_that_diverges_is_shown_as_failed_and_the_board_goes_on(tmp_path):
    wild = {"name": "Wild", "model": "BPR", "config": {"learning_rate": 1e30}}
    mmr = {"name": "Wild + MMR", "rerank": {"of": "Wild", "method": "mmr", "weights": [0.5]}}
    file = written(tmp_path, [wild, mmr, BPR], baseline="BPR")
    rows, found = ran(file)
    assert rows["Wild"]["status"] == "failed" and rows["BPR"]["status"] == "run" and found["failed"] == 4
    reason = rows["Wild"]["failed"][0]["reason"]
    assert "not a number" in reason and str(tmp_path) not in reason
    assert rows["Wild + MMR"]["failed"][0]["reason"].startswith("Wild failed: ")
    page = (tmp_path / "board.md").read_text()
    assert "| Wild (failed) |" in page and "Wild, seed 1, failed: " in page
    marks = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("failed.json")}
    ran(file)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("failed.json")} == marks  # not tried again
    before = results(tmp_path)
    ran(file, rerun="failed")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("failed.json")} != marks
    assert results(tmp_path) == before


def test_rerun_runs_every_cell_again(board):
    before = results(board.parent)
    ran(board, rerun=True)
    after = results(board.parent)
    assert before.keys() == after.keys() and all(after[file] > before[file] for file in before)


NEEDED = ("config.yaml", "result.json", "per_user.csv.gz")  # for the page; the rest is for going on and for loading


@pytest.mark.parametrize(
    "lost",
    [
        *[(name,) for name in (*NEEDED, "state", "ids.json", "model.safetensors")],
        ("result.json", "state"),
        ("result.json", "state/last.safetensors"),
        ("result.json", "model.safetensors"),
        ("config.yaml", "result.json", "per_user.csv.gz", "state", "ids.json", "model.safetensors", "train.log"),
    ],
    ids=" ".join,
)
def test_a_half_deleted_run_folder_is_done_again_or_needs_nothing_more(finished, board, lost):
    """The numbers are those of before, and no other cell is touched."""
    before, rows = results(board.parent), json.loads((finished / "board.json").read_text())
    folder = cells(board)[0].path
    lose(folder, *lost)
    again, found = ran(board)
    assert found["failed"] == 0
    assert {row["name"]: (row["metrics"], row.get("comparisons")) for row in rows} == {
        name: (row["metrics"], row.get("comparisons")) for name, row in again.items()
    }
    changed = {file.parent for file, when in results(board.parent).items() if before[file] != when}
    assert changed == ({folder} if set(lost) & set(NEEDED) else set())


@pytest.mark.parametrize("lost", ["model.safetensors", "state"])
def test_what_re_ranking_and_groups_need_of_a_half_deleted_run(board, lost):
    """Re-ranking runs it again; groups of users need no weights, and are refused in a sentence without the state."""
    before = results(board.parent)
    folder = cells(board)[0].path
    lose(folder, lost)
    file = written(board.parent, [BPR, POP], baseline="BPR", splits={"history_length": 2})
    if lost == "state":
        with pytest.raises(UserError, match=f"{folder} is not the folder of a run; it lacks .*state/run.json"):
            ran(file)
    else:
        (everybody,) = ran(file)[0]["BPR"]["splits"]["history_length"]
        assert everybody["n"] == 40
    assert results(board.parent) == before
    mmr = {"name": "BPR + MMR", "rerank": {"of": "BPR", "method": "mmr", "weights": [0.5]}}
    rows, found = ran(written(board.parent, [BPR, POP, mmr], baseline="BPR", splits={"history_length": 2}))
    assert found["failed"] == 0 and rows["BPR + MMR"]["rerank"]["chosen"]
    (everybody,) = rows["BPR + MMR"]["splits"]["history_length"]  # in these data all are alike
    assert everybody["n"] == 40 and everybody["group"] == str(int(everybody["group"]))
    assert {file.parent for file in before if results(board.parent)[file] != before[file]} == {folder}


@pytest.mark.parametrize("name", ["result.json", "per_user.csv.gz"])
def test_a_truncated_file_is_one_sentence_that_says_which_folder_to_delete(board, name):
    folder = cells(board)[0].path
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(UserError, match=f"truncated or edited; delete .*{folder.name} and start again"):
        ran(board)
    shutil.rmtree(folder)
    ran(board)


def test_a_split_that_changed_under_the_board_is_refused(board):
    folder = cells(board)[0].path
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"split_hash": "0" * 16}))
    with pytest.raises(UserError, match=r"one protocol for all rows, but on tiny split_hash is .* in 'BPR, seed 2'"):
        ran(board)


def test_a_cell_that_another_process_holds_is_left_alone(board, monkeypatch):
    cell = cells(board)[0]
    (cell.path / "result.json").unlink()
    waits = []

    def waited(seconds):
        waits.append(cell.open)
        lock.__exit__(None, None, None)  # the other process has gone

    monkeypatch.setattr("recbole_persona.board.cells.time.sleep", waited)
    lock = RunFolder(cell.path).lock()
    lock.__enter__()
    ran(board)
    assert waits == [True] and cell.done


@pytest.mark.slow
def test_a_tuned_row_runs_with_the_best_settings(tmp_path):
    space = {"learning_rate": [0.1, 0.01, 0.0001], "embedding_size": [2, 4]}
    protocol = {key: value for key, value in PROTOCOL.items() if key != "embedding_size"}
    tuned = {
        "name": "BPR tuned",
        "model": "BPR",
        "tune": {"space": space, "trials": 3, "epochs": 1, "sampler": "random"},
    }
    file = written(tmp_path, [POP, tuned], baseline="Pop", protocol=protocol)
    rows, _ = ran(file)
    row = rows["BPR tuned"]
    study = json.loads((tmp_path / "runs/studies/tiny-BPR-tuned/study.json").read_text())
    assert row["config"] == study["best_params"] and row["cost"]["epochs"] == 2
    assert row["budget"]["trials"] == 3 and row["budget"]["search_epochs"] == 3 and study["test"] is None
    assert row["tuned"]["learning_rate"]["best"] == study["best_params"]["learning_rate"]
    page = (tmp_path / "board.md").read_text()
    assert "| BPR tuned | `learning_rate` |" in page and "3 (0 pruned)" in page
    before = results(tmp_path)
    protocol = protocol | {"metrics": ["NDCG", "Recall", "MRR"]}
    ran(written(tmp_path, [POP, tuned], baseline="Pop", protocol=protocol))  # a metric more needs no new search
    assert json.loads((tmp_path / "runs/studies/tiny-BPR-tuned/study.json").read_text()) == study
    assert before.items() <= results(tmp_path).items()

    opened = {"name": "From the study", "study": str(tmp_path / "runs/studies/tiny-BPR-tuned")}
    file = written(tmp_path, [POP, opened], baseline="Pop", protocol=protocol | {"epochs": 1})
    rows, _ = ran(file)
    assert rows["From the study"]["model"] == "BPR" and rows["From the study"]["tuned"] == row["tuned"]


@pytest.mark.slow
def test_a_search_without_hope_is_shown_as_failed_and_the_board_goes_on(tmp_path):
    wild = {"name": "Wild", "model": "BPR", "tune": {"space": {"learning_rate": [1e29, 1e30]}, "trials": 6}}
    mmr = {"name": "Wild + MMR", "rerank": {"of": "Wild", "method": "mmr", "weights": [0.5]}}
    rows, _ = ran(written(tmp_path, [wild, mmr, BPR]))
    assert (rows["Wild"]["status"], rows["Wild + MMR"]["status"], rows["BPR"]["status"]) == ("failed", "not run", "run")
    assert "Wild, its search, failed: The first 5 trials all failed" in (tmp_path / "board.md").read_text()


def test_nothing_runs_before_the_whole_board_is_checked(tmp_path):
    file = written(tmp_path, [BPR, {"name": "Last", "model": "NoSuchModel"}])
    with pytest.raises(UserError, match="Row 'Last' on tiny: There is no model named 'NoSuchModel'"):
        ran(file)
    assert not (tmp_path / "runs").exists()


def test_the_command_line(board, capsys):
    assert main(["leaderboard", str(board), f"--runs={board.parent / 'runs'}", f"--out={board.parent / 'page'}"]) == 0
    assert "BPR" in capsys.readouterr().out and (board.parent / "page/board.md").is_file()
    assert main(["leaderboard", str(board), "--print"]) == 0
    assert main(["leaderboard", str(board), "--print", "--rerun"]) == 2
    assert main(["leaderboard", str(board), "--workers=0"]) == 2
    assert main(["leaderboard", str(board.parent / "none.yaml")]) == 2
    assert main(["leaderboard", str(board), f"--out={board.parent / 'empty'}", "--print"]) == 2
    (board.parent / "board.json").write_text('[{"name": "BPR"}]')
    assert main(["leaderboard", str(board), "--print"]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 5 and all(line.startswith("recbole-persona: ") for line in printed)


def test_a_worker_finds_the_cells_of_its_parent(board):
    described = read_board(board)
    check(described)
    assert [cell.path for cell in prepare(described, board.parent / "runs", None)[0]] == [c.path for c in cells(board)]


def test_a_section_tests_runs_again_by_other_rules(tmp_path):
    sets = {
        "tiny": {"data_path": str(tmp_path / "data")},
        "tiny, nothing masked": {"again": "tiny", "config": {"mask_history": False}},
        "tiny, shorter lists": {
            "again": "tiny",
            "config": {"topk": [2, 3]},
            "seeds": [2],
            "rows": ["Pop"],
        },
    }
    mmr = {"name": "BPR + MMR", "rerank": {"of": "BPR", "method": "mmr", "weights": [0.5]}}
    asked = {"splits": {"history_length": 2}, "tables": [{"title": "All"}, {"title": "Both", "rows": ["Pop", "BPR"]}]}
    file = written(tmp_path, [BPR, POP, mmr], baseline="Pop", datasets=sets, **asked)
    _, found = ran(file)
    of = {(row["dataset"], row["name"]): row for row in found["rows"]}
    assert ("tiny, nothing masked", "BPR + MMR") not in of and len(of) == 6
    assert of["tiny, shorter lists", "Pop"]["seeds"] == [2]
    first, again = of["tiny", "BPR"], of["tiny, nothing masked", "BPR"]
    assert (first["protocol"]["seen_items_masked"], again["protocol"]["seen_items_masked"]) == (True, False)
    assert again["metrics"]["ndcg@3"] != first["metrics"]["ndcg@3"] and again["split_hash"] == first["split_hash"]
    assert again["seeds"] == [1, 2] and again["comparisons"]["ndcg@3"]["n"] == first["comparisons"]["ndcg@3"]["n"]
    tests = [json.loads(file.read_text())["seconds"] for file in tmp_path.glob("runs/tiny-BPR-*-again-*/result.json")]
    assert len(tests) == 2 and again["budget"]["minutes"] == round(sum(each["evaluate"] for each in tests) / 60, 3)
    assert "valid" in first and "valid" not in again
    titles = [line for line in file.with_suffix(".md").read_text().splitlines() if line.startswith(("## ", "### "))]
    both = [place for place, title in enumerate(titles) if title == "### Both"]
    assert len(both) == 2 and max(both) < titles.index("## tiny, shorter lists")  # which has one of the two
    folders = [path for path in (tmp_path / "runs").glob("*-again-*")]
    assert len(folders) == 5 and not any((path / "model.safetensors").exists() for path in folders)
    run_dir = next((tmp_path / "runs").glob("tiny-BPR-1-*/result.json")).parent
    once_more, _ = evaluate_run(run_dir.with_name(run_dir.name.partition("-again")[0]), {"mask_history": False})
    kept = RunFolder(next((tmp_path / "runs").glob("tiny-BPR-1-*-again-*"))).result()
    assert once_more["ndcg@3"] == kept["test"]["ndcg@3"]
    before = results(tmp_path)
    ran(file)
    assert results(tmp_path) == before


def test_a_search_that_another_process_is_at_is_not_taken_for_failed(tmp_path):
    tuned = {**BPR, "tune": {"trials": 1, "space": {"learning_rate": [0.1, 0.01]}}}
    file = written(tmp_path, [tuned])
    study = tmp_path / "runs/studies/tiny-BPR"
    study.mkdir(parents=True)
    with RunFolder(study).lock(), pytest.raises(Busy):
        ran(file)
    rows, found = ran(file)
    assert rows["BPR"]["status"] == "run" and not found["failed"]


def test_a_row_re_ranks_another(tmp_path):
    """Both stages are cells of the board; the second stage's run is that of the same seed."""
    rerank = {"of": "Pop", "method": "model", "by": "BPR", "weights": [1.0], "keep": None, "candidates": 10}
    rows, _ = ran(written(tmp_path, [BPR, POP, {"name": "two stages", "rerank": rerank}]))
    assert rows["two stages"]["status"] == "run" and rows["two stages"]["rerank"]["by"] == "BPR"
    for file in (tmp_path / "runs").glob("*-model-*/result.json"):
        result = json.loads(file.read_text())
        assert json.loads((Path(result["rerank"]["by"]) / "result.json").read_text())["seed"] == result["seed"]
