"""Scores of sampled candidates by sequential models, every history read once.

RecBole's ``predict`` reads a history anew for each of its candidates: with 100 negatives SASRec takes a hundred times as long
as it takes to rank all items.
"""

import torch
from recbole.utils import EvaluatorType, ModelType

_CELLS = 1 << 24  # scores in memory at a time (histories x items)
_TOLERANCE = 1e-4  # of the largest score


def scores_of(model, rows, items):
    """(B, C) scores of the candidates (B, C) of rows, by a model that looks at them alone or ranks all items."""
    if hasattr(model, "score_candidates"):
        return model.score_candidates(rows, items)
    return model.full_sort_predict(rows).view(-1, model.n_items).gather(1, items)


class CandidateScores:
    """Mixed into a trainer: the candidates of a history are looked up in the model's scores of all items.

    Only where these are the scores that ``predict`` gives (the first case of every evaluation is compared), and not for a
    model that says ``scores_pairs = True``: one that looks at the history with the candidate in mind. A model with
    ``score_candidates(rows, items)`` sees all candidates (B, C) of a history, and gives (B, C) scores.
    """

    _once: bool | None = None  # whether histories are read once in this evaluation; None before its first batch

    def _neg_sample_batch_eval(self, batched_data):
        rows, cases, positive_u, positive_i = batched_data
        target = getattr(rows, "target", None)  # of the batch, that every row belongs to; known to our loader alone
        if target is None or self.config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            return super()._neg_sample_batch_eval(batched_data)
        if hasattr(self.model, "score_candidates"):
            scores = self._chosen(rows, target)
        else:
            if self._once is None:
                self._once = self._same_scores(rows, target, cases == 0)
            if not self._once:
                return super()._neg_sample_batch_eval(batched_data)
            scores = self._looked_up(rows, target)
        if self.config["eval_type"] == EvaluatorType.RANKING:
            lists = scores.new_full((int(positive_u[-1]) + 1, self.tot_item_num), -torch.inf)
            scores = lists.index_put_((cases, rows[self.config["ITEM_ID_FIELD"]]), scores)
        return rows, scores, positive_u, positive_i

    def _chosen(self, rows, target):
        """(R,) scores of the rows' items, each among those of its history, which all have as many."""
        by_history = target.argsort(stable=True).view(int(target.max()) + 1, -1)  # (B, C)
        items = rows[self.config["ITEM_ID_FIELD"]][by_history]
        histories = type(rows)({name: value[by_history[:, 0]] for name, value in rows.interaction.items()})
        found = self.model.score_candidates(histories.to(self.device), items.to(self.device))
        scores = torch.empty(len(target), device=self.device, dtype=found.dtype)
        scores[by_history] = found
        return scores

    def _looked_up(self, rows, target):
        """(R,) scores of the rows' items. ``target``: (R,), for every row the number of its history, from 0."""
        histories, items = int(target.max()) + 1, rows[self.config["ITEM_ID_FIELD"]]
        some_row = torch.empty(histories, dtype=torch.int64)
        some_row[target] = torch.arange(len(target))  # any row of a history has all of it
        step = max(1, _CELLS // self.model.n_items)
        scores = torch.empty(len(target), device=self.device)
        for start in range(0, histories, step):
            part = {name: value[some_row[start : start + step]] for name, value in rows.interaction.items()}
            of_all = self.model.full_sort_predict(type(rows)(part).to(self.device)).view(-1, self.model.n_items)
            inside = (target >= start) & (target < start + step)
            scores[inside] = of_all[target[inside] - start, items[inside]]
        return scores

    def _same_scores(self, rows, target, case) -> bool:
        """Whether both ways give the rows of a case (R,) the same scores."""
        if getattr(self.model, "scores_pairs", False):
            return False
        some = type(rows)({name: value[case] for name, value in rows.interaction.items()})
        try:
            found = self._looked_up(some, target[case])
        except NotImplementedError:
            return False
        wanted = self.model.predict(some.to(self.device)).view(-1)
        return bool((found - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
