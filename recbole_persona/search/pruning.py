"""A pruner that asks whether a trial can still become the best, not whether it is behind at the same epoch.

Optuna's median, percentile and halving compare trials epoch by epoch. What learns slowly (a small learning rate, a large
batch) is behind for long and often best in the end: it is what they prune.
"""

from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import TrialState


class GrowthPruner(BasePruner):
    """Prunes a trial whose curve, continued as steeply as of late, would not reach the best complete trial.

    Learning curves flatten, once they have begun to rise, so that a straight line is more than what is to come. The line
    is drawn from the best value so far, with the slope of the last ``window`` epochs, ``horizon`` epochs ahead.

    What a trial has reached by then is about all that it will reach: so it counts as complete with that value, and
    samplers learn from it. Optuna's rank pruned trials by how long they lasted.

    Args:
        n_warmup_steps: epochs of a trial before it is pruned.
        window: epochs over which the slope is taken.
        horizon: epochs for which the line is drawn.

    Raises:
        ValueError: a number below 0, a window below 1.
    """

    def __init__(self, n_warmup_steps=8, window=5, horizon=40):
        if min(n_warmup_steps, horizon) < 0 or window < 1:
            raise ValueError("the numbers are from 0, and window from 1")
        self.n_warmup_steps, self.window, self.horizon = n_warmup_steps, window, horizon

    def prune(self, study, trial):
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        last = max(trial.intermediate_values)
        values = {step: sign * value for step, value in trial.intermediate_values.items()}
        before = [value for step, value in values.items() if step <= last - self.window]
        if not complete or not before or last + 1 < self.n_warmup_steps:
            return False
        best = max(values.values())
        slope = (best - max(before)) / self.window
        return best + slope * self.horizon < max(sign * other.value for other in complete)
