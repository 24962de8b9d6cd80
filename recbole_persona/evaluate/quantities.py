"""What is known of users before any model: quantities that a result can be split by. Training interactions only."""

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import entr

from recbole_persona.data.training_part import training_interactions, training_matrix
from recbole_persona.evaluate.distances import jensen_shannon
from recbole_persona.evaluate.ruler import svd_vectors, tastes

_USERS = 2**16  # whose vectors are in memory at once
_DRAWS = 200  # histories drawn at every length
_HALVINGS = 20  # random halves of every history
_LENGTHS = 64  # at most so many lengths are simulated; between them the expectation is interpolated


def user_quantities(config, train_dataset) -> pd.DataFrame:
    """History length, breadth of taste and diversity of every user.

    Args:
        config: RecBole's ``Config``; ``tdd_tastes`` and ``tdd_clusters`` say what a taste is.
        train_dataset: the data set of the training loader.

    Returns:
        One row per user, without the padding user: ``user`` (external id); ``history_length``, distinct training items;
        ``taste_entropy``, natural-log entropy of the user's tastes; ``taste_entropy_excess``, that minus what a user of
        the same history length has who draws items by popularity (short histories have a low entropy by themselves);
        ``diversity``, mean pairwise cosine distance of the training items under the SVD ruler, 0 for a single item;
        ``taste_drift``, where the data have times: Jensen-Shannon distance between the tastes of the older and the newer half of
        the training items, minus what halves have that are drawn at random (0: no more drift than chance). A user without
        training items has length 0 and NaN elsewhere.

    Raises:
        UserError: as :func:`~recbole_persona.evaluate.ruler.tastes`.
    """
    matrix, found = training_matrix(train_dataset), tastes(config, train_dataset)
    length = np.asarray(matrix.sum(1)).ravel().astype(np.int64)
    popularity = np.asarray(matrix.sum(0)).ravel()
    entropy = _entropy(found.users)
    columns = {
        "taste_entropy": entropy,
        "taste_entropy_excess": entropy - _expected_entropy(found.items, popularity, length, config["split_seed"]),
        "diversity": _diversity(matrix, svd_vectors(matrix, config["split_seed"]), length),
    }
    if train_dataset.time_field in train_dataset.inter_feat:
        columns["taste_drift"] = _drift(train_dataset, found.items, config["split_seed"])
    columns = {name: np.where(length > 0, values, np.nan) for name, values in columns.items()}
    users = train_dataset.id2token(train_dataset.uid_field, np.arange(len(length)))
    return pd.DataFrame({"user": users, "history_length": length, **columns}).iloc[1:].reset_index(drop=True)


def _entropy(shares) -> np.ndarray:
    """Entropy (m,) of the rows of a sparse matrix (m, C)."""
    shares = shares.tocsr()
    terms = entr(shares.data).clip(min=0.0)  # a share may lie a rounding above one
    return np.asarray(sp.csr_array((terms, shares.indices, shares.indptr), shares.shape).sum(1)).ravel()


def _expected_entropy(items, popularity, length, seed) -> np.ndarray:
    """Mean taste entropy of histories whose items are drawn by popularity, at every user's length: (n_users,).

    Args:
        items: sparse (n_items, C), tastes of the items.
        popularity: (n_items,), training interactions.
        length: (n_users,), history lengths.
    """
    rng, chance = np.random.default_rng(seed), popularity / popularity.sum()
    simulated = np.unique(np.geomspace(1, length.max(), _LENGTHS).round().astype(int))
    expected = []
    for size in simulated:
        drawn = rng.choice(len(chance), (_DRAWS, size), p=chance)
        place = np.repeat(np.arange(_DRAWS), size), drawn.ravel()
        histories = sp.coo_array((np.full(drawn.size, 1 / size), place), shape=(_DRAWS, len(chance))).tocsr()
        expected.append(_entropy(histories @ items).mean())
    return np.interp(np.log(np.maximum(length, 1)), np.log(simulated), expected)


def _diversity(matrix, vectors, length) -> np.ndarray:
    """1 - mean cosine of all pairs of a user's items: (|sum v|^2 - sum |v|^2) / 2 is the sum of the cosines.

    Args:
        matrix: sparse 0/1 (n_users, n_items).
        vectors: (n_items, d), of length one.
        length: (n_users,).
    """
    squares = np.empty(len(length))
    for start in range(0, len(length), _USERS):
        part = slice(start, start + _USERS)
        squares[part] = ((matrix[part] @ vectors) ** 2).sum(1)
    cosines = (squares - matrix @ (vectors**2).sum(1)) / 2
    pairs = length * (length - 1) / 2
    return np.where(pairs > 0, 1 - cosines / np.maximum(pairs, 1), 0.0)


def _drift(dataset, items, seed) -> np.ndarray:
    """Distance of the tastes of a user's halves in time, minus its mean over random halves: (n_users,), NaN below two items.

    Args:
        items: sparse (n_items, C), tastes of the items.
    """
    users, chosen, times = training_interactions(dataset, dataset.uid_field, dataset.iid_field, dataset.time_field)
    rng = np.random.default_rng(seed)
    in_time = _half_distance(users, chosen, np.lexsort((times, users)), items, dataset.user_num)
    by_chance = [
        _half_distance(users, chosen, np.lexsort((rng.random(len(users)), users)), items, dataset.user_num)
        for _ in range(_HALVINGS)
    ]
    return in_time - np.mean(by_chance, axis=0)


def _half_distance(users, chosen, order, items, n_users) -> np.ndarray:
    """Jensen-Shannon distance between the tastes of each user's first and second half in ``order``; NaN where one is empty."""
    users, chosen = users[order], chosen[order]
    counts = np.bincount(users, minlength=n_users)
    place = np.arange(len(users)) - (counts.cumsum() - counts)[users]
    second = 2 * place >= counts[users]
    halves = []
    for part in (~second, second):
        matrix = sp.coo_array((np.ones(part.sum()), (users[part], chosen[part])), shape=(n_users, items.shape[0]))
        halves.append(matrix.tocsr())
    distances = np.full(n_users, np.nan)
    whole = np.flatnonzero(counts > 1)
    for start in range(0, len(whole), _USERS):
        some = whole[start : start + _USERS]
        first, then = (np.asarray((half[some] @ items).todense()) for half in halves)
        distances[some] = jensen_shannon(first / first.sum(1, keepdims=True), then / then.sum(1, keepdims=True))
    return distances
