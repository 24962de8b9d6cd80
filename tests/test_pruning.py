"""Our pruner against its definition, in loops, and against the curves that others are wrong about."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_persona.search.pruning import GrowthPruner

values = st.floats(-1, 1, allow_nan=False)
curves = st.lists(values, min_size=1, max_size=25)


def study_of(direction, finals):
    study = optuna.create_study(direction=direction)
    study.add_trials([optuna.trial.create_trial(value=value) for value in finals])
    return study


def trial_of(curve):
    reports = dict(enumerate(curve))
    return optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED, intermediate_values=reports)


def slowly(finals, curve, warmup, window, horizon):
    """The definition, for what should grow."""
    epochs = len(curve)
    if not finals or epochs < max(warmup, window + 1):
        return False
    best_then = best_now = curve[0]
    for epoch in range(epochs):
        best_now = max(best_now, curve[epoch])
        if epoch < epochs - window:
            best_then = max(best_then, curve[epoch])
    drawn = best_now + (best_now - best_then) / window * horizon
    return drawn < max(finals)


@settings(max_examples=200, deadline=None)
@given(st.lists(values, max_size=5), curves, st.integers(0, 9), st.integers(1, 8), st.integers(0, 50))
def test_against_its_definition(finals, curve, warmup, window, horizon):
    pruner = GrowthPruner(warmup, window, horizon)
    expected = slowly(finals, curve, warmup, window, horizon)
    assert pruner.prune(study_of("maximize", finals), trial_of(curve)) == expected
    turned = study_of("minimize", [-final for final in finals])
    assert pruner.prune(turned, trial_of([-value for value in curve])) == expected


def test_a_slow_starter_is_kept_and_what_has_stopped_growing_is_not():
    study = study_of("maximize", [0.25, 0.20, 0.22])
    slow = [0.01 * epoch for epoch in range(10)]  # behind all others, and growing
    flat = [0.20] * 10  # ahead of it, and done
    assert not GrowthPruner().prune(study, trial_of(slow))
    assert GrowthPruner().prune(study, trial_of(flat))


@pytest.mark.parametrize("options", [{"window": 0}, {"horizon": -0.1}, {"n_warmup_steps": -1}])
def test_numbers_that_mean_nothing(options):
    with pytest.raises(ValueError, match="the numbers are from 0"):
        GrowthPruner(**options)
