"""Metrics of several types in one run: one evaluation pass per type, one result.

RecBole evaluates either lists (ranking metrics) or labelled scores (value metrics), each with its own form of data; texts that a
model writes are a third.
A pass has its own ``Config`` (a copy that says what the pass measures and how), collector, evaluator and loader; the
upstream ``evaluate`` runs once in each.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from recbole.evaluator import Evaluator
from recbole.evaluator.register import metric_types
from recbole.utils import EvaluatorType

from recbole_persona.data.reads import lacks_labels
from recbole_persona.errors import UserError
from recbole_persona.evaluate.candidates import CandidateScores
from recbole_persona.evaluate.collector import Collector
from recbole_persona.evaluate.negatives import SameNegatives
from recbole_persona.evaluate.protocols import EXCLUDED, config_with, excluded
from recbole_persona.registry import TEXT
from recbole_persona.upstream.files import load_tree


@dataclass
class Pass:
    """One evaluation pass: what it measures, what it gathers, and the data it runs over."""

    config: Any
    collector: Collector
    evaluator: Evaluator
    loader: Any


class EvaluationPasses(CandidateScores):
    """Mixed into a trainer: its ``evaluate`` measures metrics of every type.

    ``passes`` holds the passes of the last evaluation, with what their collectors gathered.
    """

    passes: list[Pass] = []

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """As RecBole's ``evaluate``: the result by metric key, in the order of ``metrics``."""
        whole = Pass(self.config, self.eval_collector, self.evaluator, eval_data)
        self.passes = passes(whole) if eval_data else []
        result = {} if eval_data else None
        for number, one in enumerate(self.passes):
            first = load_best_model and number == 0  # the later passes measure the same weights
            self._once = None
            with self._in(one):
                if one.config["eval_type"] == TEXT:
                    result.update(self._evaluate_texts(one, first, model_file))
                else:
                    result.update(super().evaluate(one.loader, first, model_file, show_progress))
        return in_order(result, self.config["metrics"]) if len(self.passes) > 1 else result

    def _evaluate_texts(self, one, load_best_model, model_file):
        """The metrics of what the model writes for the rows of a part."""
        if load_best_model:
            best = load_tree(model_file or self.saved_model_file)
            self.model.load_state_dict(best["state_dict"])
            self.model.load_other_parameter(best.get("other_parameter"))
        self.model.eval()
        return one.evaluator.evaluate(one.collector.texts(self.model, one.loader))

    @contextmanager
    def _in(self, one):
        kept = self.config, self.eval_collector, self.evaluator
        self.config, self.eval_collector, self.evaluator = one.config, one.collector, one.evaluator
        try:
            yield
        finally:
            self.config, self.eval_collector, self.evaluator = kept
            one.collector.forget_batches()  # of an evaluation that broke off


def passes(whole) -> list[Pass]:
    """The passes that ``metrics`` needs: ``whole`` as it is for metrics of one type, else one per type."""
    kinds = kinds_of(whole.config["metrics"])
    if len(kinds) == 1:
        return [whole]
    made = []
    for kind, metrics in kinds.items():
        config, loader = config_with(whole.config, eval_type=kind, metrics=metrics), whole.loader
        if kind == EvaluatorType.VALUE and EvaluatorType.RANKING in kinds:
            config, loader = value_data(config, whole.loader)
        collector = Collector(config)
        collector.data_struct._data_dict = whole.collector.data_struct._data_dict  # what came from the training data
        collector.item_features = whole.collector.item_features
        made.append(Pass(config, collector, Evaluator(config), loader))
    return made


def check_negatives(config, loader) -> None:
    """Refuse an evaluation that some user has no item left to be a negative for.

    Raises:
        UserError: names the user.
    """
    loaders = [loader]
    if {EvaluatorType.RANKING, EvaluatorType.VALUE} <= set(kinds_of(config["metrics"])):
        loaders.append(value_data(config, loader)[1])
    for one in loaders:
        if isinstance(one, SameNegatives):
            one.check()


def kinds_of(metrics) -> dict:
    """Metric names by type; ranking first, since RecBole's loaders are those of that pass, texts last."""
    kinds = {}
    for metric in metrics:
        kinds.setdefault(metric_types[metric.lower()], []).append(metric)
    return {kind: kinds[kind] for kind in (EvaluatorType.RANKING, EvaluatorType.VALUE, TEXT) if kind in kinds}


def in_order(result, metrics) -> dict:
    """A result with its keys in the order of ``metrics``."""
    names = [metric.lower() for metric in metrics]
    return dict(sorted(result.items(), key=lambda item: names.index(item[0].partition("@")[0])))


def value_mode_name(config) -> str | None:
    """What the value pass of a mixed run measures, in words; None when there is no such pass."""
    if not {EvaluatorType.RANKING, EvaluatorType.VALUE} <= set(kinds_of(config["metrics"])):
        return None
    mode = config["value_mode"] or "labelled rows where the data have labels, else the mode of the lists or uni100"
    if mode == "labeled":
        return mode
    return f"{mode}; negatives from seed {config['split_seed']}, excluded {EXCLUDED[excluded(config)]}"


def value_data(config, eval_data):
    """Config and loader for the value metrics, over the rows of a loader that was made for lists.

    The mode is ``value_mode``; where it is None: ``labeled`` when the data have the label field, else the mode of the
    lists if that is a sampled one, else ``uni100``.
    """
    sampler, dataset = eval_data._sampler, eval_data._dataset
    mode = config["value_mode"]
    if mode is None:
        of_lists = config["eval_args"]["mode"][sampler.phase]
        mode = (
            "labeled" if config["LABEL_FIELD"] in dataset.inter_feat else "uni100" if of_lists == "full" else of_lists
        )
    if mode == "labeled" and config["LABEL_FIELD"] not in dataset.inter_feat:
        raise UserError(lacks_labels(config, "value_mode is labeled"))
    config = config_with(config, eval_args={**config["eval_args"], "mode": {"valid": mode, "test": mode}})
    for phase in ("valid", "test"):
        config._set_eval_neg_sample_args(phase)
    # The loader sorts its rows and declares a label field: the lists' own rows and fields are left as they are.
    rows = dataset.copy(dataset.inter_feat[slice(None)])
    for name in ("field2type", "field2source", "field2seqlen"):
        setattr(rows, name, dict(getattr(dataset, name)))
    return config, SameNegatives(config, rows, sampler)
