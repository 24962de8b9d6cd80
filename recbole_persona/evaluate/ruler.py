"""The ruler that taste and diversity are measured with: made from training interactions or item fields, never from a
model under test, so that all methods on one split are measured alike.
"""

from dataclasses import dataclass
from logging import getLogger

import numpy as np
import scipy.sparse as sp
from recbole.utils import FeatureType
from scipy.sparse.linalg import svds
from sklearn.cluster import KMeans

from recbole_persona.data.columns import absent
from recbole_persona.data.training_part import training_matrix
from recbole_persona.errors import UserError

SVD_DIM = 32


@dataclass(frozen=True)
class Tastes:
    """How items and users share out over C tastes.

    Attributes:
        items: sparse (n_items, C), rows sum to one (the padding item: 0). The last taste is that of items of which
            nothing is known: no training interaction, or an empty field.
        users: sparse (n_users, C), mean of ``items`` over the user's distinct training items; 0 for a user with none.
        centroids: (C, d), where the tastes lie; None when they are tokens.
    """

    items: sp.csr_array
    users: sp.csr_array
    centroids: np.ndarray | None


def tastes(config, dataset) -> Tastes:
    """The tastes that ``tdd_tastes`` and ``tdd_clusters`` ask for.

    Args:
        config: RecBole's ``Config``.
        dataset: the data set of the training loader, which holds training interactions only.

    Raises:
        UserError: no such item field, or too few data for the SVD.
    """
    matrix = training_matrix(dataset)
    kind, _, field = config["tdd_tastes"].partition(":")
    profiles = svd_vectors(matrix, config["split_seed"]) if kind == "svd-kmeans" else item_field(dataset, field)
    centroids = None
    if isinstance(profiles, np.ndarray):
        profiles, centroids = _clustered(profiles, config["tdd_clusters"], config["split_seed"])
    known = np.asarray(profiles.sum(1)).ravel() > 0
    unknown = sp.csr_array((~known & (np.arange(len(known)) > 0)).astype(float)[:, None])
    items = _rows_to_one(sp.hstack([profiles, unknown], format="csr"))
    return Tastes(items, _rows_to_one(matrix) @ items, centroids)


def item_profiles(config, dataset):
    """What ``ild_ruler`` compares items by: vectors (n_items, d), or sparse 0/1 rows of tokens (n_items, tokens)."""
    kind, _, field = config["ild_ruler"].partition(":")
    if kind == "svd":
        return svd_vectors(training_matrix(dataset), config["split_seed"])
    return item_field(dataset, field)


def svd_vectors(matrix, seed, dim=SVD_DIM) -> np.ndarray:
    """Unit item vectors from a truncated SVD of the training matrix.

    The matrix is scaled to ``D_u^-1/2 R D_i^-1/2``; its first singular pair is the square roots of the degrees, that is
    popularity and nothing else, and is left out (correspondence analysis). Items are the right singular vectors times
    the singular values.

    Args:
        matrix: sparse 0/1 (n_users, n_items).
        seed: of the start vector.
        dim: singular pairs kept, fewer when the matrix is small.

    Returns:
        (n_items, dim), rows of length one; zeros for items without a training interaction.
    """
    users, items = (np.flatnonzero(np.asarray(matrix.sum(axis)).ravel()) for axis in (1, 0))
    seen = matrix[users][:, items]
    rank = min(dim + 1, min(seen.shape) - 1)
    if rank < 2:
        raise UserError(
            "There are too few users or items for an SVD; set tdd_tastes and ild_ruler to field:<item field>."
        )
    scaled = sp.diags_array(seen.sum(1) ** -0.5) @ seen @ sp.diags_array(seen.sum(0) ** -0.5)
    start = np.random.default_rng(seed).random(min(seen.shape))
    _, values, right = svds(scaled, k=rank, v0=start)
    kept = np.argsort(-values)[1:]
    vectors = np.zeros((matrix.shape[1], rank - 1))
    vectors[items] = right[kept].T * values[kept]
    return _unit(vectors)


def item_field(dataset, field):
    """An item field: unit vectors (n_items, d) of a float sequence, or sparse 0/1 (n_items, tokens) of tokens.

    Raises:
        UserError: the field is not among the loaded item fields, or is a single number.
    """
    if dataset.item_feat is None or field not in dataset.item_feat:
        raise UserError(
            f"Tastes and diversity are read from the item field {field!r}, and {absent(dataset.config, field, 'item')}."
        )
    values = dataset.item_feat[field].numpy()
    if dataset.field2type[field] == FeatureType.FLOAT_SEQ:
        return _unit(values.astype(float))
    if dataset.field2type[field] == FeatureType.FLOAT:
        raise UserError(f"The item field {field!r} is a number; tastes need tokens or a vector (float_seq).")
    values = values.reshape(len(values), -1)
    rows, _ = place = values.nonzero()  # token 0 is padding
    matrix = sp.coo_array((np.ones(len(rows)), (rows, values[place])), shape=(len(values), dataset.num(field))).tocsr()
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix[:, 1:]


def _clustered(vectors, number, seed):
    """k-means over the items that have a vector: ``(sparse 0/1 (n_items, C), centroids (C + 1, d))``.

    The last centroid is the origin, where the items lie that have none.
    """
    known = np.flatnonzero(vectors.any(axis=1))
    distinct = len(np.unique(vectors[known], axis=0))
    if distinct < number:
        getLogger().warning(
            "tdd_clusters is %d, but only %d item vectors differ: %d clusters.", number, distinct, distinct
        )
    model = KMeans(min(number, distinct), n_init=4, random_state=seed).fit(vectors[known])
    members = sp.coo_array(
        (np.ones(len(known)), (known, model.labels_)), shape=(len(vectors), len(model.cluster_centers_))
    )
    return members.tocsr(), np.vstack([model.cluster_centers_, np.zeros(vectors.shape[1])])


def _rows_to_one(matrix) -> sp.csr_array:
    """Rows divided by their sums; empty rows stay empty."""
    sums = np.asarray(matrix.sum(1)).ravel()
    return (sp.diags_array(np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)) @ matrix).tocsr()


def _unit(vectors) -> np.ndarray:
    """Rows divided by their lengths; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
