"""Tests of significance, against scipy, hand values, and simulated data of which the truth is known."""

import json
import tracemalloc
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from evaluate_data import Personas, prepared
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recbole_persona.errors import UserError
from recbole_persona.evaluate import significance
from recbole_persona.evaluate.per_user import evaluate_with_table
from recbole_persona.evaluate.significance import (
    TESTS,
    average_seeds,
    compare,
    compare_metrics,
    corpus_counts,
    holm,
    paired_bootstrap,
)

CORPUS = ["ItemCoverage", "ShannonEntropy", "GiniIndex"]


def pair(n=200, gain=0.02, seed=0):
    """Values like a user's NDCG: between 0 and 1, most of them 0, alike in both systems."""
    rng = np.random.default_rng(seed)
    users = pd.Index([f"u{i}" for i in range(n)])
    baseline = np.where(rng.random(n) < 0.6, 0.0, rng.random(n))
    ours = np.clip(baseline + gain + 0.1 * rng.normal(size=n) * (rng.random(n) < 0.5), 0, 1)
    return pd.Series(ours, users), pd.Series(baseline, users)


def scipy_permutation(differences, n_resamples=9999):
    return stats.permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=500,
        random_state=np.random.default_rng(1),
    ).pvalue


def test_against_scipy():
    ours, baseline = pair()
    differences = (ours - baseline).to_numpy()
    found = {test: compare(ours, baseline, test) for test in TESTS}
    assert found["t"].p == pytest.approx(stats.ttest_rel(ours, baseline).pvalue, rel=1e-9)
    assert found["wilcoxon"].p == pytest.approx(stats.wilcoxon(ours - baseline).pvalue, rel=1e-9)
    assert 0 < found["permutation"].p < 0.01
    boot = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=9999, random_state=np.random.default_rng(1)
    ).confidence_interval
    for one in found.values():
        assert one.n == 200 and one.difference == pytest.approx(differences.mean())
        assert one.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
        assert (one.low, one.high) == pytest.approx((boot.low, boot.high), abs=0.05 * (boot.high - boot.low))


@pytest.mark.parametrize("gain", [0.0, 0.004, -0.004])
def test_permutation_against_scipy(gain):
    ours, baseline = pair(gain=gain, seed=3)
    wanted = scipy_permutation((ours - baseline).to_numpy())
    assert compare(ours, baseline).p == pytest.approx(wanted, abs=4 * np.sqrt(wanted * (1 - wanted) / 9999) + 4e-4)


@pytest.mark.parametrize("n", [2, 3, 7, 13])
def test_few_users_are_permuted_in_all_ways_as_scipy_does(n):
    ours, baseline = np.random.default_rng(n).random((2, n)).round(1)  # ties among the sums
    baseline[0] = ours[0] + 0.3
    assert compare(ours, baseline).p == pytest.approx(scipy_permutation(ours - baseline), rel=1e-12)


def test_the_tail_that_recbole_tests_is_the_wrong_one():
    """RecBole's significance_test.py: ours is clearly better, and p is 1."""
    ours, baseline = pair(gain=0.1)
    assert stats.ttest_rel(ours, baseline, alternative="less").pvalue > 0.999
    for test in TESTS:
        found = compare(ours, baseline, test)
        assert found.p < 1e-3 and found.difference > 0 and found.low > 0


@pytest.mark.parametrize("test", TESTS)
def test_false_positives_are_as_many_as_they_should_be(test):
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(500):
        ours, baseline = np.where(rng.random((2, 60)) < 0.5, 0.0, rng.random((2, 60)))
        hits += compare(ours, baseline, test, n_resamples=499).p < 0.05
    assert 0.03 <= hits / 500 <= 0.07


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(300):
        ours, baseline = 0.1 + rng.exponential(size=120), rng.exponential(size=120)
        found = compare(ours, baseline, "t", n_resamples=499, level=0.9)
        held += found.low <= 0.1 <= found.high
    assert 0.85 <= held / 300 <= 0.94


@pytest.mark.parametrize("test", TESTS)
def test_no_difference_and_equal_differences(test):
    ours, _ = pair()
    same = compare(ours, ours + 1e-16, test)  # rounding is no difference
    assert (same.p, same.difference, same.low, same.high, same.effect) == (1.0, 0.0, 0.0, 0.0, 0.0)
    better = compare(ours + 0.25, ours, test)
    assert better.p < 1e-3 and better.effect > 1e6 and better.low == pytest.approx(0.25)
    assert compare([1.0, 2, 3], [0.0, 1, 2], test).effect == np.inf


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40),
    st.sampled_from(sorted(TESTS)),
)
def test_swapping_negates_the_difference_and_keeps_p(pairs, test):
    ours, baseline = np.array(pairs).T
    one, other = compare(ours, baseline, test, n_resamples=199), compare(baseline, ours, test, n_resamples=199)
    assert one.p == pytest.approx(other.p, rel=1e-9) and 0 <= one.p <= 1
    assert one.difference == -other.difference and one.effect == -other.effect
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
    assert one.low <= one.difference + 1e-12 and one.difference <= one.high + 1e-12


def test_users_are_paired_by_name_and_nan_left_out():
    ours, baseline = pair()
    shuffled = baseline.sample(frac=1, random_state=0)
    assert compare(ours, shuffled) == compare(ours, baseline)
    ours.iloc[3], baseline.iloc[[3, 8]] = np.nan, np.nan
    kept = [i for i in range(200) if i not in (3, 8)]
    found = compare(ours, baseline, "t")
    assert found.n == 198 and found == compare(ours.iloc[kept], baseline.iloc[kept], "t")


def test_one_user_and_none():
    one = compare([0.5], [0.25])
    assert (one.n, one.difference) == (1, 0.25) and np.isnan([one.p, one.low, one.high, one.effect]).all()
    none = compare([np.nan], [0.25])
    assert none.n == 0 and np.isnan([none.difference, none.p]).all()
    assert np.isnan(paired_bootstrap(np.ones((1, 2)), np.ones((1, 2)), lambda sums: sums[..., 0]).p)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda a, b: compare(a, b.iloc[:-2]), "2 of ours are missing from the baseline and 0"),
        (lambda a, b: compare(a.iloc[3:], b), "0 of ours are missing from the baseline and 3"),
        (lambda a, b: compare(pd.concat([a, a]), b), "several rows; average them"),
        (lambda a, b: compare(a, b, "sign"), "permutation, wilcoxon, t, not 'sign'"),
        (lambda a, b: compare(a, b, level=95), "between 0 and 1"),
        (lambda a, b: paired_bootstrap(sp.eye_array(3), sp.eye_array(4), sum), "3 and 4 users"),
        (lambda a, b: paired_bootstrap(a.to_frame(), b.iloc[1:].to_frame(), sum), "1 of ours are missing"),
        (lambda a, b: average_seeds([pd.DataFrame({"user": ["x"], "hit@3": [1]})], "ndcg@3"), "it has hit@3"),
        (lambda a, b: corpus_counts([], [], "ndcg@10"), "ndcg@10 is no corpus metric; those are mae"),
        (lambda a, b: corpus_counts([pd.DataFrame({"user": []})], [], "rmse"), "needs the column sum_squared_error"),
    ],
)
def test_mistakes_are_told(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(*pair())


def test_seeds_are_averaged_by_user():
    first = pd.DataFrame({"user": ["a", "b", "b", "c"], "hit@3": [1.0, 0.0, 1.0, np.nan]})
    second = pd.DataFrame({"user": ["c", "b", "a"], "hit@3": [1.0, 1.0, 0.0]})
    found = average_seeds([first, second], "hit@3")
    assert found[["a", "b"]].tolist() == [0.5, 0.75] and np.isnan(found["c"])
    with pytest.raises(UserError, match="1 of ours are missing"):
        average_seeds([first, second.iloc[1:]], "hit@3")


def test_holm_against_hand_values():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.04, np.nan, 0.01]), [0.04, np.nan, 0.02])
    np.testing.assert_allclose(holm([0.7, 0.6]), [1.0, 1.0])
    assert len(holm([])) == 0 and np.isnan(holm([np.nan])).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_decides_as_the_procedure_does(p_values):
    """Reject from the smallest on while p <= level / (those left)."""
    adjusted, level, rejected = holm(p_values), 0.05, set()
    for step, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] * (len(p_values) - step) > level:
            break
        rejected.add(place)
    assert rejected == set(np.flatnonzero(adjusted <= level)) and (adjusted >= p_values).all()


def test_paired_bootstrap_of_a_mean_is_that_of_compare():
    ours, baseline = pair()
    counts = [pd.DataFrame({"sum": values, "cases": 1}) for values in (ours, baseline.sample(frac=1, random_state=0))]
    found = paired_bootstrap(*counts, lambda sums: sums[..., 0] / sums[..., 1])
    wanted = compare(ours, baseline)
    assert (found.difference, found.low, found.high) == pytest.approx((wanted.difference, wanted.low, wanted.high))
    assert found.effect == pytest.approx(wanted.effect, rel=0.05) and found.p < 0.01
    swapped = paired_bootstrap(*counts[::-1], lambda sums: sums[..., 0] / sums[..., 1])
    assert (swapped.p, swapped.low, swapped.effect) == pytest.approx((found.p, -found.high, -found.effect))
    same = paired_bootstrap(counts[0], counts[0], lambda sums: sums[..., 0] / sums[..., 1])
    assert (same.p, same.difference, same.low, same.high) == (1.0, 0.0, 0.0, 0.0)


def test_paired_bootstrap_against_scipy():
    """The difference of two RMSE, whose users have different numbers of cases."""
    rng = np.random.default_rng(2)
    cases = rng.integers(1, 9, 150)
    squares = rng.exponential(size=(150, 2)) * cases[:, None] * [0.8, 1.0]
    frames = [pd.DataFrame({"squares": squares[:, i], "cases": cases}) for i in (0, 1)]
    found = paired_bootstrap(*frames, lambda sums: np.sqrt(sums[..., 0] / sums[..., 1]))

    def slow(first, second, cases, axis):
        return np.sqrt(first.sum(axis) / cases.sum(axis)) - np.sqrt(second.sum(axis) / cases.sum(axis))

    judge = stats.bootstrap(
        (*squares.T, cases), slow, paired=True, method="percentile", random_state=np.random.default_rng(1)
    )
    low, high = judge.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    assert found.effect == pytest.approx(found.difference / judge.standard_error / np.sqrt(150), rel=0.05)


def test_corpus_metrics_are_those_of_the_run(folder, elsewhere):
    names = [*CORPUS, "GAUC", "NDCG"]
    results, tables = [], []
    for seed in (1, 2, 3):
        *_, test, _, trainer = prepared(Personas, folder, metrics=names, valid_metric="NDCG@3", seed=seed)
        result, table = evaluate_with_table(trainer, test, load_best_model=False)
        results.append(result)
        tables.append(table.sample(frac=1, random_state=seed))
    n_items = test._dataset.item_num
    for metric in ("itemcoverage@7", "shannonentropy@3", "giniindex@7", "gauc"):
        found = paired_bootstrap(*corpus_counts(tables[:2], tables[2:], metric, n_items), n_resamples=199)
        wanted = (results[0][metric] + results[1][metric]) / 2 - results[2][metric]
        assert found.difference == pytest.approx(wanted, abs=1.01e-4), metric
        assert found.low < found.difference < found.high and found.n == len(tables[0])
        mixed = tables[1].assign(user=tables[1]["user"] + "x")
        with pytest.raises(UserError, match="Not the same users"):
            paired_bootstrap(*corpus_counts(tables[:1], [mixed], metric, n_items))


def test_value_metrics_are_those_of_the_run(folder, elsewhere):
    settings = {"metrics": ["RMSE", "MAE", "LogLoss"], "valid_metric": "RMSE", "threshold": {"rating": 3}}
    *_, test, _, trainer = prepared(Personas, folder, eval_args={"mode": "labeled"}, **settings)
    result, table = evaluate_with_table(trainer, test, load_best_model=False)
    perfect = table.assign(sum_squared_error=0.0, sum_absolute_error=0.0, sum_log_loss=0.0)
    for metric in ("rmse", "mae", "logloss"):
        found = paired_bootstrap(*corpus_counts([table], [perfect], metric))
        assert found.difference == pytest.approx(result[metric], abs=0.51e-4) and found.p < 0.01


def test_distinct_items_of_a_resample_are_fewer_and_that_is_taken_out():
    """Two systems that draw items alike do not differ, and the interval lies around the observed difference."""
    rng = np.random.default_rng(9)
    chance = 1 / np.arange(1, 301) ** 0.7

    def table():
        lists = [rng.choice(300, 10, replace=False, p=chance / chance.sum()).tolist() for _ in range(150)]
        return pd.DataFrame({"user": [f"u{i}" for i in range(150)], "items": [json.dumps(row) for row in lists]})

    ps = []
    for _ in range(30):
        counts = corpus_counts([table()], [table()], "itemcoverage@10", 301)
        found = paired_bootstrap(*counts, n_resamples=499)
        assert found.low < found.difference < found.high
        ps.append(found.p)
    assert np.mean(np.array(ps) < 0.05) <= 0.1


def test_memory_does_not_grow_with_users_times_resamples():
    ours, baseline = pair(20_000)
    tracemalloc.start()
    compare(ours, baseline, n_resamples=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20  # users x resamples would be 320 MB for one array, and there are several


def per_user_table(seed, n=40):
    """A per-user table with means, one of them not defined for some users, sums, and lists of items."""
    random = np.random.default_rng(seed)
    values = {name: random.random(n) for name in ("ndcg@3", "recall@3", "personaentropy@3")}
    values["personaentropy@3"][:7] = np.nan
    sums = {name: random.random(n) for name in ("sum_absolute_error", "sum_squared_error")}
    lists = [json.dumps([f"i{item}" for item in random.permutation(9)[:4]]) for _ in range(n)]
    return pd.DataFrame({"user": [f"u{u}" for u in range(n)], **values, **sums, "cases": 2.0, "items": lists})


@pytest.mark.parametrize("cells", [2**21, 500])
@pytest.mark.parametrize("seeds", [(0, 1), (0,)])
def test_one_bootstrap_of_all_metrics_is_one_of_each(cells, seeds, monkeypatch):
    """The same users are drawn, whatever else is measured of them and however many draws are held at a time."""
    ours, baseline = [per_user_table(seed) for seed in seeds], [per_user_table(5)]
    means = ["ndcg@3", "recall@3", "personaentropy@3"]
    corpus = ["mae", "rmse", "itemcoverage@2", "giniindex@2", "shannonentropy@2", "giniindex@3"]
    options = {"n_resamples": 300, "seed": 3}
    wanted = {m: compare(average_seeds(ours, m), average_seeds(baseline, m), "t", **options) for m in means}
    wanted |= {m: paired_bootstrap(*corpus_counts(ours, baseline, m, 10), **options) for m in corpus}
    assert len({one.n for one in wanted.values()}) == 2
    monkeypatch.setattr(significance, "_CELLS", cells)
    found = compare_metrics(ours, baseline, means, corpus, 10, "t", **options)
    assert list(found) == [*means, *corpus]
    for metric, one in found.items():
        numbers, expected = ({k: v for k, v in asdict(c).items() if k != "test"} for c in (one, wanted[metric]))
        assert one.test == wanted[metric].test and numbers == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_all_metrics_of_one_user():
    ours, baseline = [[per_user_table(seed, n=1)] for seed in (0, 1)]
    found = compare_metrics(ours, baseline, ["ndcg@3", "personaentropy@3"], ["rmse", "itemcoverage@2"], 10)
    assert [one.n for one in found.values()] == [1, 0, 1, 1]
    assert all(np.isnan(one.p) and np.isnan(one.low) for one in found.values())
