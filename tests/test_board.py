"""A small board that really ran: its numbers are those of its runs, its tests those of the users, its page those of its JSON."""

import csv
import json
import math
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml
from scipy import stats
from tiny import interactions

from recbole_persona.board.leaderboard import leaderboard
from recbole_persona.cli.leaderboard import print_rows
from recbole_persona.evaluate.significance import average_seeds, compare, holm
from recbole_persona.runs import RunFolder, read_json

USERS = 150
BOARD = {
    "title": "Models with & without personas",
    "text": "Made by a test.",
    "protocol": {"metrics": ["NDCG", "TDD"], "topk": [10], "epochs": 3, "load_col": {"inter": ["user_id", "item_id"]}},
    "seeds": [1, 2],
    "primary": "ndcg@10",
    "baseline": "BPR",
    "splits": {"taste_entropy": 4, "size": {"file": "sizes.csv", "groups": 2}},
    "tables": [{"title": "All"}, {"title": "Two", "rows": ["Pop", "AMPCF"], "text": "Only two."}],
    "pictures": [
        {"kind": "intervals", "metric": "ndcg@10"},
        {"kind": "frontier", "x": "tdd@10", "y": "ndcg@10"},
        {"kind": "groups", "split": "taste_entropy", "metric": "ndcg@10"},
        {"kind": "curves", "rows": ["BPR", "AMPCF"]},
    ],
    "rows": [
        {"name": "BPR", "model": "BPR"},
        {"name": "Pop", "model": "Pop"},
        {"name": "ItemKNN", "model": "ItemKNN", "against": "Pop"},
        {"name": "AMPCF", "model": "AMPCF", "config": {"n_personas": 2, "learning_rate": 0.01}},
        {"name": "BPR + MMR", "rerank": {"of": "BPR", "method": "mmr", "weights": [0.3, 0.6], "keep": 0.9}},
        {"name": "Paper", "published": "paper.csv"},
        {"name": "Dear", "model": "NeuMF", "status": "not run"},
    ],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of the board after it ran."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "data/tiny").mkdir(parents=True)
    (folder / "data/tiny/tiny.inter").write_text(interactions(USERS, items=80, each=20))
    board = BOARD | {"datasets": {"tiny": {"data_path": str(folder / "data")}}}
    (folder / "personas.yaml").write_text(yaml.safe_dump(board, sort_keys=False))
    (folder / "paper.csv").write_text("name,NDCG@10,source\nPaper,0.25,Somebody 2020\nOther,0.9,Nobody\n")
    sizes = "".join(f"u{number},{number % 2}\n" for number in range(USERS))
    (folder / "sizes.csv").write_text("user,size\n" + sizes)
    leaderboard(folder / "personas.yaml", runs=folder / "runs")
    return folder


@pytest.fixture(scope="module")
def rows(place):
    return {row["name"]: row for row in read_json(place / "personas.json")}


@pytest.fixture(scope="module")
def runs(place):
    """The two runs of each model, by the model's name."""
    found = {}
    for file in sorted(place.rglob("result.json")):
        if "rerank" not in read_json(file):
            found.setdefault(read_json(file)["model"], []).append(RunFolder(file.parent))
    return found


def test_there_is_a_row_for_everything_and_the_best_comes_first(rows):
    assert {row["name"] for row in BOARD["rows"]} == set(rows)
    assert {rows[name]["status"] for name in ("BPR", "Pop", "ItemKNN", "AMPCF", "BPR + MMR")} == {"run"}
    assert (rows["Paper"]["status"], rows["Dear"]["status"]) == ("published", "not run")
    ranked = [row for row in rows.values() if "rank" in row]
    means = [row["metrics"]["ndcg@10"]["mean"] for row in ranked]
    assert means == sorted(means, reverse=True) and ranked[0]["rank"] == 1
    assert all(not row.get("rank") for row in list(rows.values())[len(ranked) :])


def test_rows_keep_the_contract(rows):
    keys = {"name", "model", "dataset", "protocol", "split_seed", "seeds", "budget", "config", "metrics", "status"}
    assert all(keys <= set(row) for row in rows.values())
    assert rows["AMPCF"]["config"] == {"n_personas": 2, "learning_rate": 0.01} and rows["AMPCF"]["seeds"] == [1, 2]
    assert rows["AMPCF"]["statistics"]["users"] == USERS and rows["AMPCF"]["versions"]["recbole"] == "1.2.1"
    assert rows["AMPCF"]["protocol"]["valid_metric"] == "NDCG@10"  # the primary metric, whatever a model ships with
    assert all(isinstance(json.dumps(row, allow_nan=False), str) for row in rows.values())


@pytest.mark.parametrize("model", ["BPR", "AMPCF", "ItemKNN", "Pop"])
def test_means_and_deviations_are_those_of_the_runs(rows, runs, model):
    for metric in ("ndcg@10", "tdd@10"):
        values = [run.result()["test"][metric] for run in runs[model]]
        found = rows[model]["metrics"][metric]
        assert found["n"] == 2 and found["mean"] == pytest.approx(np.mean(values), abs=1e-4)  # results are rounded
        assert found["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert rows[model]["metrics"]["tdd@10"]["smaller_is_better"]


def test_comparisons_are_those_of_the_users(rows, runs):
    tables = {model: [run.per_user() for run in folders] for model, folders in runs.items()}
    found = rows["AMPCF"]["comparisons"]["ndcg@10"]
    judge = compare(average_seeds(tables["AMPCF"], "ndcg@10"), average_seeds(tables["BPR"], "ndcg@10"))
    assert (found["n"], found["test"], found["against"]) == (judge.n, "users and seeds", "BPR")
    assert found["se"] == pytest.approx(judge.se) and found["effect"] == pytest.approx(judge.effect)
    deviations = [rows[name]["metrics"]["ndcg@10"]["std"] for name in ("AMPCF", "BPR")]
    error = math.sqrt(judge.se**2 + sum(std**2 / 2 for std in deviations))
    assert abs(found["difference"]) / error == pytest.approx(stats.t.isf(found["p"] / 2, found["df"]))
    assert found["difference"] == pytest.approx(
        rows["AMPCF"]["metrics"]["ndcg@10"]["mean"] - rows["BPR"]["metrics"]["ndcg@10"]["mean"]
    )
    assert found["low"] < found["difference"] < found["high"]
    assert rows["ItemKNN"]["comparisons"]["ndcg@10"]["against"] == "Pop"
    assert "comparisons" not in rows["BPR"]


def test_p_values_are_corrected_over_the_rows_of_the_data_set(rows):
    found = [row["comparisons"]["ndcg@10"] for row in rows.values() if "comparisons" in row]
    assert len(found) == 4
    assert holm([one["p"] for one in found]) == pytest.approx([one["p_holm"] for one in found])


def test_the_best_is_tested_against_the_second(rows):
    (best,) = [row for row in rows.values() if "best_against_second" in row]
    found = best["best_against_second"]
    second = next(row for row in rows.values() if row["name"] == found["against"])
    assert (best["rank"], second["rank"], found["metric"]) == (1, 2, "ndcg@10")
    assert found["difference"] > 0


def test_published_numbers_are_shown_and_never_tested(place, rows):
    row = rows["Paper"]
    assert row["metrics"] == {"ndcg@10": {"mean": 0.25, "std": None, "n": None}} and row["source"] == "Somebody 2020"
    assert not {"rank", "comparisons", "best_against_second", "splits", "cost"} & set(row)
    assert "| Paper (published) | 0.2500 |" in (place / "personas.md").read_text()


def test_groups_of_users_share_out_all_users(rows, runs):
    entropy, size = (rows["AMPCF"]["splits"][name] for name in ("taste_entropy", "size"))
    users = rows["AMPCF"]["comparisons"]["ndcg@10"]["n"]
    assert len(entropy) == 4 and len(size) == 2 and [group["group"] for group in size] == ["0", "1"]
    for groups in (entropy, size):
        assert sum(group["n"] for group in groups) == users
        mean = sum(group["n"] * group["metrics"]["ndcg@10"]["mean"] for group in groups) / users
        assert mean == pytest.approx(rows["AMPCF"]["metrics"]["ndcg@10"]["mean"])
    tables = {name: [run.per_user() for run in runs[name]] for name in ("AMPCF", "BPR")}
    ours, base = (average_seeds(tables[name], "ndcg@10") for name in ("AMPCF", "BPR"))
    even = [user for user in ours.index if int(user[1:]) % 2 == 0]
    judge = stats.ttest_rel(ours[even], base[even]).confidence_interval()
    found = size[0]["metrics"]["ndcg@10"]
    assert found["se"] == pytest.approx((ours - base)[even].sem())
    assert found["low"] < judge.low < found["difference"] < judge.high < found["high"]  # seeds make it wider
    assert "difference" not in rows["BPR"]["splits"]["size"][0]["metrics"]["ndcg@10"]


def test_a_re_ranked_row_knows_its_weights(rows):
    row = rows["BPR + MMR"]
    assert [point["weight"] for point in row["frontier"]] == [0.0, 0.3, 0.6]
    assert len(row["rerank"]["chosen"]) == 2 and row["rerank"]["of"] == "BPR"
    assert row["frontier"][0]["metrics"]["ndcg@10"] == pytest.approx(
        rows["BPR"]["metrics"]["ndcg@10"]["mean"], abs=1e-4
    )
    assert row["budget"]["minutes"] < rows["BPR"]["budget"]["minutes"] + rows["BPR"]["cost"]["train_seconds"]


def test_cost_is_told(rows):
    cost = rows["AMPCF"]["cost"]
    assert cost["n_parameters"] > USERS * 2 and cost["epochs"] == 3 and cost["train_seconds"] > 0
    assert cost["evaluate_ms_per_user"] > 0 and math.isfinite(cost["peak_mib"])
    assert cost["steps"] % 3 == 0 and cost["steps"] >= 3


def test_curves_tell_what_each_minute_bought(rows, runs):
    for curve, run in zip(rows["AMPCF"]["curves"], runs["AMPCF"]):
        minutes, scores = zip(*curve)
        assert len(curve) == 3 and sorted(minutes) == list(minutes)
        assert max(scores) == pytest.approx(run.result()["best_valid_score"], abs=1e-4)
    assert rows["Pop"]["curves"] and "curves" not in rows["Paper"]


def pages(folder):
    return {file.suffix: file.read_bytes() for file in folder.glob("personas.*") if file.suffix not in (".yaml", ".gz")}


def test_the_page_is_printed_again_from_yaml_and_json_alone(place, tmp_path, monkeypatch):
    """Also in another folder, without the runs, the data, or the files that rows and splits name."""
    before = pages(place)
    assert set(before) == {".md", ".tex", ".csv", ".json", ".svg"}
    for suffix in (".yaml", ".json"):
        shutil.copy(place / f"personas{suffix}", tmp_path)
    monkeypatch.chdir(tmp_path)
    leaderboard(tmp_path / "personas.yaml", print_only=True)
    assert pages(tmp_path) == before
    assert {file.name for file in tmp_path.iterdir()} == {f"personas{suffix}" for suffix in (*before, ".yaml")}


def test_the_markdown_page_says_what_it_must(place):
    page = (place / "personas.md").read_text()
    for part in (
        "# Models with & without personas\n\nMade by a test.",
        "![Models with & without personas](personas.svg)",
        "150 users, 80 items",
        "`split_seed` 2020; ranking mode full, seen items masked; training stops on NDCG@10",
        "### Two\n\nOnly two.",
        "corrected by Holm for 4 rows",
        "Best against second:",
        "NDCG@10 by taste entropy of the user",
        "### Cost",
        "| AMPCF | `n_personas: 2`, `learning_rate: 0.01` |",
        "| Dear (not run) |",
        "Somebody 2020; published numbers are not tested.",
        "recbole 1.2.1",
    ):
        assert part in page, part
    tables = [block for block in page.split("\n\n") if block.startswith("| ")]
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
    two = next(table for table in tables if "Pop" in table and "BPR" not in table.split("\n", 1)[1])
    assert two.index("| Pop |") < two.index("| AMPCF |")  # the order of the board, not that of the ranks


def test_csv_and_latex_hold_the_same_numbers(place, rows):
    with open(place / "personas.csv", newline="") as file:
        lines = {(line["name"], line["metric"]): line for line in csv.DictReader(file)}
    for name, row in rows.items():
        for metric, value in row["metrics"].items():
            assert float(lines[name, metric]["mean"]) == value["mean"]
            assert lines[name, metric]["p_holm"] == str(row.get("comparisons", {}).get(metric, {}).get("p_holm", ""))
    assert lines["Dear", ""]["status"] == "not run"
    latex = (place / "personas.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert f"{rows['AMPCF']['metrics']['ndcg@10']['mean']:.4f}" in latex
    assert r"with \& without" in latex or "All, tiny." in latex


def test_the_picture_is_whole_and_bears_no_date(place):
    text = (place / "personas.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg") and "dc:date" not in text


def test_pictures_without_matplotlib_name_the_extra(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r'pip install "recbole_persona\[plots\]"'):
        leaderboard(place / "personas.yaml", print_only=True)


def test_the_screen_shows_what_fits_and_first_what_rows_are_ranked_by(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    metrics = {f"ndcg@{k}": {"mean": k / 100} for k in range(10, 30)}
    print_rows(
        "tiny", [{"name": "BPR", "status": "run", "metrics": metrics, "best_against_second": {"metric": "ndcg@25"}}]
    )
    shown = capsys.readouterr().out
    heads = re.findall(r"ndcg@\d+", shown)
    assert heads[:2] == ["ndcg@25", "ndcg@10"] and f"{20 - len(heads)} more metrics are on the page." in shown
    assert max(map(len, shown.splitlines())) <= 80
