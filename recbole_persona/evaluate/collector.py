"""RecBole's ``Collector``, which gathers what our metrics need as well, and joins the batches once.

It stands in for RecBole's everywhere. What RecBole's metrics get from it is equal to what they get from RecBole's own,
but for one thing: ItemCoverage, AveragePopularity, GiniIndex and TailPercentage work, whose data (numbers, counters)
RecBole 1.2.1 sends through ``.cpu()`` (evaluator/collector.py:227).
"""

from types import SimpleNamespace
from typing import NamedTuple

import torch
from recbole.data.interaction import Interaction
from recbole.evaluator.collector import Collector as RecboleCollector
from recbole.evaluator.collector import DataStruct

from recbole_persona.errors import UserError
from recbole_persona.evaluate import ruler, text_pass

# What is gathered here, from the list of recommendations; the upstream body must not gather it a second time.
_LISTS = ("rec.items", "rec.topk", "rec.list", "rec.personas")


class Personas(NamedTuple):
    """Personas behind the recommendations: natural-log entropy of the weights and the heaviest persona, per place."""

    entropy: torch.Tensor  # (cases, K)
    dominant: torch.Tensor  # (cases, K)
    number: int


class Batches(DataStruct):
    """Keeps the batches apart until they are asked for; joining them at every batch takes quadratic time."""

    def __init__(self):
        super().__init__()
        self.batches: dict[str, list[torch.Tensor]] = {}

    def update_tensor(self, name, value):
        self.batches.setdefault(name, []).append(value.clone().detach())

    def joined(self, name) -> torch.Tensor:
        """All rows of ``name`` gathered so far."""
        parts = self.batches[name]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


class Collector(RecboleCollector):
    """As RecBole's ``Collector``; it knows these needs besides RecBole's own:

    - ``rec.list`` (cases, max topk): recommended items, 0 where there are fewer candidates than places;
    - ``rec.personas``: a :class:`Personas` of these items, from the model's ``explain``;
    - ``model.heads``: how differently the model's heads attend: as trained, at the start, with permuted neighbours;
    - ``data.tastes``: a :class:`~recbole_persona.evaluate.ruler.Tastes`, from the training interactions alone;
    - ``data.item_profiles``: what ILD compares (see :func:`~recbole_persona.evaluate.ruler.item_profiles`).

    The internal user ids of the cases, ``rec.users``, are always there. ``last`` is what was handed out last, so that
    per-user values come from the pass that gave the result.
    """

    def __init__(self, config):
        super().__init__(config)
        self.data_struct = Batches()
        self.needs = {name for name in _LISTS if self.register.need(name)}
        for name in self.needs:
            setattr(self.register, name, False)
        self.item_features = None
        self.cases: list[Interaction] = []  # one row per case, for the model's explain()
        self.last: DataStruct | None = None

    def data_collect(self, train_data):
        dataset = train_data._dataset  # loaders of knowledge models have no `.dataset`
        super().data_collect(SimpleNamespace(dataset=dataset))
        self.item_features = dataset.get_item_feature()
        if self.register.need("data.tastes"):
            self.data_struct.set("data.tastes", ruler.tastes(self.config, dataset))
        if self.register.need("data.item_profiles"):
            self.data_struct.set("data.item_profiles", ruler.item_profiles(self.config, dataset))
        for name, value in text_pass.from_training(self.config, dataset, self.register.need).items():
            self.data_struct.set(name, value)

    def texts(self, model, loader) -> DataStruct:
        """What text metrics need of a part, in place of the batches (:mod:`recbole_persona.evaluate.text_pass`)."""
        self.last = DataStruct()
        found = text_pass.from_model(self.config, model, loader, self.register.need)
        for name, value in {**self.data_struct._data_dict, **found}.items():
            self.last.set(name, value)
        return self.last

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        starts = slice(None)
        if positive_u is not None and len(interaction) > len(scores_tensor):
            starts = _first_rows(len(interaction), len(scores_tensor), positive_u)
        if self.config["USER_ID_FIELD"] in interaction:
            self.data_struct.update_tensor("rec.users", interaction[self.config["USER_ID_FIELD"]][starts])
        if self.needs:
            self._collect_lists(scores_tensor, positive_u, positive_i)
        if "rec.personas" in self.needs:
            self.cases.append(Interaction({name: value[starts] for name, value in interaction.interaction.items()}))

    def _collect_lists(self, scores, positive_u, positive_i):
        """The best items of every case, found once for all that need them. ``scores``: (cases, items)."""
        if max(self.topk) > scores.shape[1]:
            raise UserError(f"topk holds {max(self.topk)}, but the data set has only {scores.shape[1] - 1} items.")
        best, items = torch.topk(scores, max(self.topk), dim=-1)
        if "rec.items" in self.needs:
            self.data_struct.update_tensor("rec.items", items)
        if self.needs & {"rec.list", "rec.personas"}:
            self.data_struct.update_tensor("rec.list", items.masked_fill(best == -torch.inf, 0))
        if "rec.topk" in self.needs:
            hits, counts = _hits(items, positive_u, positive_i, scores.shape[1])
            hits &= best > -torch.inf  # what has no score fills up, and is no hit
            self.data_struct.update_tensor("rec.topk", torch.cat([hits.long(), counts.unsqueeze(1)], dim=1))

    @torch.no_grad()
    def model_collect(self, model):
        super().model_collect(model)
        if "rec.personas" in self.needs:
            lists = self.data_struct.joined("rec.list").cpu()
            self.data_struct.set("rec.personas", self._personas(model, lists))
        if self.register.need("model.heads"):
            start = model.divergence_at_start.item()
            self.data_struct.set("model.heads", (model.head_divergence(), start, model.head_divergence(permuted=True)))

    def _personas(self, model, lists) -> Personas:
        """Entropy and dominant persona of every (case, recommended item). ``lists``: (cases, K)."""
        if not hasattr(model, "explain"):
            raise UserError(needs_personas(self._names("rec.personas"), type(model).__name__))
        size = lists.shape[1]
        step = max(1, self.config["eval_batch_size"] // size)  # cases whose pairs make one batch
        entropies, dominants, number, done = [], [], 0, 0
        for cases in self.cases:
            for start in range(0, len(cases), step):
                rows = cases[slice(start, start + step)]
                items = lists[done : done + len(rows)]
                done += len(rows)
                pairs = with_items(rows, items, self.config["ITEM_ID_FIELD"], self.item_features)
                explanation = model.explain(pairs.to(self.device))
                if explanation.kind != "persona":
                    raise UserError(needs_personas(self._names("rec.personas"), type(model).__name__))
                weights = explanation.weights.double()
                number = weights.shape[1]
                entropies.append(torch.special.entr(weights).sum(1).reshape(-1, size).cpu())  # (b, K)
                dominants.append(weights.argmax(1).reshape(-1, size).cpu())  # (b, K)
        return Personas(torch.cat(entropies), torch.cat(dominants), number)

    def _names(self, need) -> list[str]:
        from recbole.evaluator.register import metric_information

        return [name for name in self.register.metrics if need in metric_information[name]]

    def get_data_struct(self):
        struct = DataStruct()
        for name in self.data_struct.batches:
            struct.set(name, self.data_struct.joined(name).cpu())
        for name, value in self.data_struct._data_dict.items():
            struct.set(name, value.cpu() if isinstance(value, torch.Tensor) else value)
        self.forget_batches()
        self.last = struct
        return struct

    def forget_batches(self) -> None:
        """Drop what was gathered since the last result; what came from the training data stays."""
        self.data_struct.batches.clear()
        self.cases.clear()
        if "rec.personas" in self.data_struct:
            del self.data_struct["rec.personas"]


def needs_personas(metrics, model) -> str:
    """The sentence for a metric over personas and a model that has none."""
    return f"{', '.join(metrics)}: needs a model whose explain() gives personas, such as AMPCF; {model} has none."


def _hits(items, positive_u, positive_i, n_items):
    """Which recommended items (cases, K) are positives of their case, and how many distinct ones each case (cases,) has.

    RecBole marks the positives in a matrix of all cases and items, and sums it.

    Args:
        positive_u, positive_i: (positives,), the case and the item of each; pairs may repeat.
    """
    pairs = torch.unique(positive_u * n_items + positive_i)
    counts = torch.bincount(pairs // n_items, minlength=len(items)).to(items.device)
    cases = torch.arange(len(items), device=items.device).unsqueeze(1)
    return torch.isin(cases * n_items + items, pairs.to(items.device)), counts


def _first_rows(n_rows, n_cases, positive_u):
    """Index of the first row of every case. A case is a block of rows: its positives, then the negatives of each.

    Args:
        n_rows: rows of the batch.
        n_cases: cases in it.
        positive_u: (positives,), number of the case that each positive belongs to.
    """
    rows_per_case = torch.bincount(positive_u, minlength=n_cases) * (n_rows // len(positive_u))
    return rows_per_case.cumsum(0) - rows_per_case


def with_items(cases, items, item_field, item_features=None) -> Interaction:
    """Every case with each of its items, as one batch.

    Args:
        cases: Interaction of B rows.
        items: (B, K) item ids.
        item_field: name of the item id field.
        item_features: Interaction by item id, whose fields go along.

    Returns:
        Interaction of B * K rows, case by case.
    """
    flat = items.reshape(-1)  # (B * K,)
    pairs = cases.repeat_interleave(items.shape[1])
    pairs.update(Interaction({item_field: flat}))
    if item_features is not None:
        pairs.update(Interaction({name: value[flat] for name, value in item_features.interaction.items()}))
    return pairs
