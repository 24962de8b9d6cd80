"""Metrics over lists of recommendations, in RecBole's evaluator: TDD, ILD, PersonaEntropy, PersonaUsage; and over heads.

Every metric of lists computes one value per case (a user; for sequential models a test row) and averages the cases for which
it is defined. ``docs/metrics.md`` has the equations.
"""

from abc import ABC, abstractmethod
from functools import partial

import numpy as np
import scipy.sparse as sp
from recbole.evaluator.base_metric import AbstractMetric, TopkMetric
from recbole.utils import EvaluatorType

from recbole_persona.errors import UserError
from recbole_persona.evaluate.distances import DISTANCES
from recbole_persona.evaluate.passes import value_mode_name
from recbole_persona.evaluate.ruler import SVD_DIM

_CELLS = 4_000_000  # numbers held at once: what bounds the memory


class ListMetric(TopkMetric, ABC):
    """A metric whose value at ``k`` is the mean over cases of a value of the first ``k`` recommendations.

    Args:
        config: RecBole's ``Config``.
    """

    name: str

    @abstractmethod
    def at(self, k, lists, struct) -> np.ndarray:
        """The values at one cut-off.

        Args:
            k: the cut-off.
            lists: (cases, k) recommended items, 0 behind the last candidate.
            struct: what the collector gathered.

        Returns:
            (cases,) float64, NaN where the value is not defined.
        """

    def per_user(self, struct) -> dict[str, np.ndarray]:
        """Unrounded values of every case, by metric key such as ``tdd@10``."""
        lists = struct.get("rec.list").numpy()
        return {f"{self.name}@{k}": self.at(k, lists[:, :k], struct) for k in self.topk}

    def calculate_metric(self, dataobject):
        values = self.per_user(dataobject)
        return {key: round(_mean(value), self.decimal_place) for key, value in values.items()}


class TDD(ListMetric):
    """Taste-distribution distance: how far the tastes of a list are from the tastes of the user's training items.

    Our reading of the measure of Barkan et al., RecSys 2020, whose definition is not public. ``tdd_tastes`` says what a
    taste is, ``tdd_clusters`` how many there are, ``tdd_distance`` what is measured between the two distributions.
    """

    name, smaller = "tdd", True
    metric_need = ["rec.list", "data.tastes"]

    def __init__(self, config):
        super().__init__(config)
        tastes, self.distance = config["tdd_tastes"], config["tdd_distance"]
        _check_option("tdd_tastes", tastes, ["svd-kmeans"])
        if self.distance not in DISTANCES:
            raise UserError(f"tdd_distance is one of {', '.join(DISTANCES)}, not {self.distance!r}.")
        if type(config["tdd_clusters"]) is not int or config["tdd_clusters"] < 2:
            raise UserError(f"tdd_clusters is a number of clusters, 2 or more, not {config['tdd_clusters']!r}.")

    def at(self, k, lists, struct):
        tastes = from_training(struct, "data.tastes", self.name)
        distance = DISTANCES[self.distance]
        if self.distance == "wasserstein":
            if tastes.centroids is None:
                raise UserError("tdd_distance wasserstein needs tastes with a place; set tdd_tastes to svd-kmeans.")
            distance = partial(distance, centroids=tastes.centroids)
        users = struct.get("rec.users").numpy()
        values = np.full(len(users), np.nan)
        for part in _chunks(len(users), width=tastes.items.shape[1]):
            history = tastes.users[users[part]].toarray()  # (b, C)
            shown = (_list_matrix(lists[part], tastes.items.shape[0]) @ tastes.items).toarray()  # (b, C)
            defined = history.any(1) & shown.any(1)
            values[part][defined] = distance(history[defined], shown[defined])
        return values


class ILD(ListMetric):
    """Intra-list distance: mean distance of the pairs of a list, 0 for a list of one.

    ``ild_ruler`` says what is compared: vectors by 1 - cosine, sets of tokens by 1 - Jaccard. Items of which nothing is
    known are at distance 1 from all others.
    """

    name = "ild"
    metric_need = ["rec.list", "data.item_profiles"]

    def __init__(self, config):
        super().__init__(config)
        _check_option("ild_ruler", config["ild_ruler"], ["svd"])

    def at(self, k, lists, struct):
        profiles = from_training(struct, "data.item_profiles", self.name)
        dense = isinstance(profiles, np.ndarray)
        alike = _shared_direction if dense else _shared_tokens
        values = np.empty(len(lists))
        for part in _chunks(len(lists), width=k * (profiles.shape[1] if dense else 32)):
            values[part] = alike(lists[part], profiles)
        length = (lists > 0).sum(1)
        pairs = length * (length - 1) / 2
        return np.where(pairs > 0, 1 - values / np.maximum(pairs, 1), 0.0)


class PersonaEntropy(ListMetric):
    """Mean entropy of the persona weights behind a list, as a share of its most: 0 one persona speaks, 1 all alike."""

    name, smaller = "personaentropy", True
    metric_need = ["rec.list", "rec.personas"]

    def at(self, k, lists, struct):
        personas = struct.get("rec.personas")
        entropy = np.where(lists > 0, personas.entropy.numpy()[:, :k], 0.0) / np.log(max(personas.number, 2))
        return _ratio(entropy.sum(1), (lists > 0).sum(1))


class PersonaUsage(ListMetric):
    """Share of the user's personas that weigh most for at least one item of the list; the rest are dead there."""

    name = "personausage"
    metric_need = ["rec.list", "rec.personas"]

    def at(self, k, lists, struct):
        personas = struct.get("rec.personas")
        case, place = np.nonzero(lists)
        used = np.zeros((len(lists), personas.number), dtype=bool)
        used[case, personas.dominant.numpy()[case, place]] = True
        return used.mean(1)


class HeadDivergence(AbstractMetric):
    """How differently the heads attend to the neighbours of a user, 0 to 1 (mean Jensen-Shannon divergence, in bits)."""

    metric_type, smaller, place = EvaluatorType.RANKING, False, 0
    metric_need = ["model.heads"]

    def calculate_metric(self, dataobject):
        value = dataobject.get("model.heads")[self.place]
        return {type(self).__name__.lower(): round(value, self.decimal_place)}


class HeadDivergenceStart(HeadDivergence):
    """The same before training: heads differ by chance, too."""

    place = 1


class HeadDivergencePermuted(HeadDivergence):
    """The same with every user attending to the neighbours of another."""

    place = 2


def describe(config) -> dict[str, str]:
    """How the metrics of a config are meant, by metric: options that two results must share to be compared."""
    asked = [str(metric).lower() for metric in config["metrics"]]
    ruler = f"{SVD_DIM}-dimensional SVD of the training matrix, seed {config['split_seed']}"
    said = {}
    if "tdd" in asked:
        tastes = config["tdd_tastes"]
        clusters = f"up to {config['tdd_clusters']} k-means clusters"
        of = f"{clusters} of a {ruler}" if tastes == "svd-kmeans" else f"item {tastes} ({clusters} if it holds vectors)"
        said["tdd"] = f"our reading; {config['tdd_distance']} distance; tastes: {of}"
    if "ild" in asked:
        said["ild"] = f"1 - cosine of a {ruler}" if config["ild_ruler"] == "svd" else f"item {config['ild_ruler']}"
    if "personaentropy" in asked:
        said["personaentropy"] = "entropy of the persona weights over ln(number of personas)"
    if mode := value_mode_name(config):
        said["value metrics"] = mode
    return said


def from_training(struct, need, metric):
    """What the collector made of the training data; UserError when it has not seen them."""
    if need not in struct:
        raise UserError(f"{metric} needs training data: call trainer.eval_collector.data_collect(train_data) first.")
    return struct.get(need)


def _check_option(key, value, names):
    field = isinstance(value, str) and value.startswith("field:") and len(value) > len("field:")
    if value not in names and not field:
        raise UserError(f"{key} is {', '.join(names)} or field:<item field>, not {value!r}.")


def _mean(values) -> float:
    """Mean over the cases for which the value is defined; NaN when there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _ratio(total, count):
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _chunks(length, width):
    step = max(1, _CELLS // max(width, 1))
    return [slice(start, start + step) for start in range(0, length, step)]


def _list_matrix(lists, n_items) -> sp.csr_array:
    """Sparse (cases, n_items): every item of a list has the share 1 / length of it."""
    case, place = np.nonzero(lists)
    shares = 1 / np.maximum((lists > 0).sum(1), 1)
    return sp.coo_array((shares[case], (case, lists[case, place])), shape=(len(lists), n_items)).tocsr()


def _shared_direction(lists, vectors):
    """Sum of the cosines of all pairs of a list: (|sum v|^2 - sum |v|^2) / 2. ``vectors``: (n_items, d)."""
    chosen = vectors[lists]  # (b, k, d), the padding item is a zero vector
    return ((chosen.sum(1) ** 2).sum(1) - (chosen**2).sum((1, 2))) / 2


def _shared_tokens(lists, tokens):
    """Sum of the Jaccard similarities of all pairs of a list. ``tokens``: sparse 0/1 (n_items, tokens)."""
    size = np.asarray(tokens.sum(1)).ravel()
    total = np.zeros(len(lists))
    for second in range(1, lists.shape[1]):
        right = tokens[lists[:, second]]
        for first in range(second):
            common = np.asarray(right.multiply(tokens[lists[:, first]]).sum(1)).ravel()
            union = size[lists[:, first]] + size[lists[:, second]] - common
            total += np.divide(common, union, out=np.zeros(len(lists)), where=union > 0)
    return total
