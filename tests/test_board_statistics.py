"""Variance components on a board: the statistics from the JSON alone, for old pages and new ones."""

import copy
import math
import shutil

import numpy as np
import pytest
from board_files import BPR, POP, ran, results, written
from scipy import stats

from recbole_persona.board.comparisons import add_statistics, deterministic, users_error
from recbole_persona.board.page import mark
from recbole_persona.errors import UserError
from recbole_persona.evaluate.significance import compare
from recbole_persona.evaluate.variance_components import Component, t_test
from recbole_persona.runs import RunFolder


def row(name, mean, std, n, model="BPR", against=None, **found):
    metrics = {"ndcg@10": {"mean": mean, "std": std, "n": n}}
    made = {
        "name": name,
        "model": model,
        "dataset": "tiny",
        "status": "run",
        "metrics": metrics,
        "seeds": list(range(n)),
    }
    if against:
        found = {"n": 900, "difference": 0.01, "effect": 0.2, "low": 0.006, "high": 0.014, "p": 0.0001, **found}
        made["comparisons"] = {"ndcg@10": {"against": against, "test": "permutation", **found}}
    return made


def judged(*rows):
    add_statistics(list(rows))
    return [each.get("comparisons", {}).get("ndcg@10") for each in rows]


def test_one_component_is_the_paired_t_test():
    ours, base = np.random.default_rng(0).random((2, 50))
    judge = stats.ttest_rel(ours, base)
    found = t_test((ours - base).mean(), [Component((ours - base).var(ddof=1) / 50, 49)])
    assert found[2:] == (pytest.approx(judge.pvalue), pytest.approx(49 / 1))
    assert found[:2] == pytest.approx(tuple(judge.confidence_interval()))
    assert t_test(0.0, []) == (0, 0, 1, math.inf) and t_test(0.1, [])[2] == 0


def test_degrees_of_freedom_lie_between_those_of_seeds_and_of_users():
    few, many = Component(1.0, 2), Component(1.0, 1000)
    assert 2 < t_test(1.0, [few, many])[3] < 1002
    assert t_test(1.0, [Component(1e9, 2), many])[3] == pytest.approx(2, rel=1e-3)
    plain = (1 + 1) ** 2 / (1 / 2 + 1 / 1000)
    assert t_test(1.0, [few, many])[3] < plain  # more careful than Satterthwaite's own formula


def test_old_and_new_json_give_the_same_and_printing_twice_changes_nothing():
    old = [row("ours", 0.31, 0.004, 5, against="base"), row("base", 0.30, 0.003, 5)]
    new = copy.deepcopy(old)
    new[0]["comparisons"]["ndcg@10"]["se"] = 0.01 / 0.2 / 30
    found = judged(*old)[0]
    assert found == judged(*new)[0] and found["test"] == "users and seeds"
    error = math.sqrt((0.01 / 0.2 / 30) ** 2 + (0.004**2 + 0.003**2) / 5)
    assert found["p"] == pytest.approx(2 * stats.t.sf(0.01 / error, found["df"]))
    kept = copy.deepcopy(old)
    add_statistics(old)
    assert old == kept


def test_one_seed_of_a_trained_model_has_an_interval_and_no_p():
    ours, base = row("ours", 0.31, None, 1, against="base"), row("base", 0.30, 0.003, 5)
    found = judged(ours, base)[0]
    assert found["p"] is None and found["p_holm"] is None and mark(ours, "ndcg@10") == 0
    assert found["low"] < found["difference"] < found["high"]
    assert found["high"] - found["low"] == pytest.approx(2 * stats.t.ppf(0.975, 899) * 0.01 / 0.2 / 30)


def test_closed_form_needs_one_seed():
    ours, base = row("ours", 0.31, None, 1, "EASE", against="base"), row("base", 0.30, 0.0, 3, "ItemKNN")
    found = judged(ours, base)[0]
    assert found["p"] < 1e-6 and found["df"] == pytest.approx(899) and mark(ours, "ndcg@10") == 1
    assert not deterministic(row("x", 0.3, None, 1, "NCEPLRec")) and not deterministic(row("x", 0.3, 0.001, 3, "Pop"))


def test_a_re_ranked_row_is_paired_with_its_base_by_seed():
    ours, base = row("MMR", 0.31, 0.02, 3, against="base"), row("base", 0.30, 0.02, 3)
    ours["rerank"] = {"of": "base", "method": "mmr"}
    unpaired = copy.deepcopy([ours, base])
    ours["metrics"]["ndcg@10"]["values"] = [0.33, 0.31, 0.29]
    base["metrics"]["ndcg@10"]["values"] = [0.32, 0.30, 0.28]
    assert judged(ours, base)[0]["p"] < 1e-6 < 0.05 < judged(*unpaired)[0]["p"]


def test_holm_leaves_out_what_has_no_p():
    rows = [row(name, 0.31, 0.004, 5, against="base") for name in ("a", "b")]
    rows += [row("c", 0.31, None, 1, against="base"), row("base", 0.30, 0.003, 5)]
    found = judged(*rows)
    assert found[0]["p_holm"] == pytest.approx(2 * found[0]["p"]) and found[2]["p_holm"] is None


def test_the_error_over_users_of_a_difference_of_zero_comes_from_its_interval():
    values = np.random.default_rng(1).normal(size=(2, 400))
    values[0] += (values[1] - values[0]).mean()
    found = compare(*values)
    kept = {"n": 400, "difference": 0.0, "effect": 0.0, "low": found.low, "high": found.high}
    assert users_error(kept) == pytest.approx(found.se, rel=0.05)


def test_groups_of_users_count_seeds_too_and_only_once():
    ours, base = row("ours", 0.31, 0.004, 5, against="base"), row("base", 0.30, 0.003, 5)
    cell = {"mean": 0.3, "difference": 0.01, "low": 0.006, "high": 0.014}
    ours["splits"] = {"age": [{"group": "0", "n": 100, "metrics": {"ndcg@10": cell}}]}
    judged(ours, base)
    first = dict(cell)
    assert first["low"] < 0.006 and first["se"] == pytest.approx(0.004 / stats.t.ppf(0.975, 99))
    judged(ours, base)
    assert cell == first


def test_a_single_row_is_run_again_and_replaced_without_the_runs_of_the_others(tmp_path):
    changed = {"name": "BPR, changed", "model": "BPR", "config": {"learning_rate": 0.01}}
    knn = {"name": "ItemKNN", "model": "ItemKNN"}
    first, _ = ran(written(tmp_path, [BPR, POP, knn, {**changed, "config": {}}], baseline="Pop"))
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "board.per_user.csv.gz").unlink()  # as on earlier pages
    file = written(tmp_path, [BPR, POP, knn, changed], baseline="Pop")
    second, _ = ran(file, rows=["BPR, changed"])
    assert len(results(tmp_path)) == 2 and second["BPR, changed"]["config"] == {"learning_rate": 0.01}
    assert second["BPR, changed"]["metrics"] != first["BPR, changed"]["metrics"]
    found = second["BPR, changed"]["comparisons"]["ndcg@3"]
    means = [second[name]["metrics"]["ndcg@3"]["mean"] for name in ("BPR, changed", "Pop")]
    assert found["difference"] == pytest.approx(means[0] - means[1])
    assert (found["test"], found["p"], found["low"]) == ("unpaired", None, None)
    kept, before = (one["ItemKNN"]["comparisons"]["ndcg@3"] for one in (second, first))
    assert {key: kept[key] for key in ("se", "p", "low")} == {key: before[key] for key in ("se", "p", "low")}
    ranked = sorted(second.values(), key=lambda row: row["rank"])
    gains = [row["metrics"]["ndcg@3"]["mean"] for row in ranked]
    assert gains == sorted(gains, reverse=True) and "was run again" in (tmp_path / "board.md").read_text()
    third, _ = ran(file, rows=["Pop"])  # the baseline: nothing stale is left
    tests = {name: one["comparisons"]["ndcg@3"]["test"] for name, one in third.items() if name != "Pop"}
    assert tests == {
        "BPR": "unpaired",
        "ItemKNN": "unpaired",
        "BPR, changed": "users and seeds",
    }  # whose values are kept
    for options in ({"rows": ["Nobody"]}, {"rows": ["Pop"], "workers": 2}, {"rows": ["Pop"], "print_only": True}):
        with pytest.raises(UserError):
            ran(file, **options)


def test_a_row_with_seeds_of_its_own_is_a_null_control(tmp_path):
    """The same model with other seeds: users are paired, and the variances over seeds of both rows count."""
    control = {"name": "BPR again", "model": "BPR", "seeds": [5, 6, 7]}
    mmr = {"name": "BPR again + MMR", "rerank": {"of": "BPR again", "method": "mmr", "weights": [0.5]}}
    sets = {
        "tiny": {"data_path": str(tmp_path / "data")},
        "tiny, nothing masked": {"again": "tiny", "config": {"mask_history": False}, "seeds": [2]},
    }
    file = written(tmp_path, [BPR, control, mmr], baseline="BPR", datasets=sets)
    _, found = ran(file)
    of = {(row["dataset"], row["name"]): row for row in found["rows"]}
    ours, base, again = of["tiny", "BPR again"], of["tiny", "BPR"], of["tiny, nothing masked", "BPR again"]
    assert ours["seeds"] == of["tiny", "BPR again + MMR"]["seeds"] == again["seeds"] == [5, 6, 7]
    assert base["seeds"] == [1, 2] and of["tiny, nothing masked", "BPR"]["seeds"] == [2]
    runs = sorted((tmp_path / "runs").glob("tiny-BPR-[567]-????????"))
    assert [RunFolder(run).result()["seed"] for run in runs] == [5, 6, 7]
    tables = [RunFolder(run).per_user().set_index("user")["ndcg@3"] for run in runs]
    theirs = [
        RunFolder(run).per_user().set_index("user")["ndcg@3"] for run in (tmp_path / "runs").glob("*-[12]-????????")
    ]
    compared, metric = ours["comparisons"]["ndcg@3"], "ndcg@3"
    differences = sum(tables) / 3 - sum(theirs) / 2
    variance = (
        differences.var() / 40 + ours["metrics"][metric]["std"] ** 2 / 3 + base["metrics"][metric]["std"] ** 2 / 2
    )
    assert compared["n"] == 40 and compared["difference"] == pytest.approx(differences.mean())
    expected = 2 * stats.t.sf(abs(differences.mean()) / math.sqrt(variance), compared["df"])
    assert compared["test"] == "users and seeds" and compared["p"] == pytest.approx(expected)
    page = file.with_suffix(".md").read_text()
    assert "Seeds of the models: 1, 2; BPR again" in page and "BPR again: 5, 6, 7" in page
    before = results(tmp_path)
    ran(file)
    assert results(tmp_path) == before
