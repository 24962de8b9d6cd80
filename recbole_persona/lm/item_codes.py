"""What an item is called in a language model's text: a short sequence of symbols, one of its own for every item.

Codes are made of the training part alone (and of texts of items), but for ``p5_leaky``. Hua et al., How to Index Item IDs
for Recommendation Foundation Models, SIGIR-AP 2023 (random, sequential, collaborative, title); Rajput et al., Recommender
Systems with Generative Retrieval (TIGER), NeurIPS 2023 (semantic).
"""

from collections import Counter
from logging import INFO, WARNING, getLogger
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_persona.data.histories import HistoryRows
from recbole_persona.data.training_part import training_interactions, training_matrix
from recbole_persona.errors import UserError
from recbole_persona.lm.ragged import Ragged
from recbole_persona.lm.tasks import column_texts

BASE = 256  # symbols of one place of a code
LEAVES = 64  # items at most that a spectral cluster still divides no further
BRANCHES = 8  # parts that a larger one is divided into
SVD_SIZE = 64  # dimensions of the vectors of which semantic codes are made
FIXED_LENGTH = ("random", "sequential", "semantic", "p5_leaky")
CODES = (*FIXED_LENGTH, "collaborative", "title")


class ItemCodes(NamedTuple):
    """Codes of all items.

    Attributes:
        symbols: (n_items, L) int64, which symbol stands at each place; -1 behind the end of a short code, and for the
            padding item.
        words: what each symbol is called; a symbol belongs to one place.
    """

    symbols: np.ndarray
    words: list[str]

    @property
    def texts(self) -> list[str]:
        """The code of every item as it is written, the padding item's empty."""
        words = np.array(self.words)
        return [" ".join(words[row[row >= 0]]) for row in self.symbols]


class TitleCodes(NamedTuple):
    """Items called by their titles.

    Attributes:
        texts: (n_items,) str, all different; the padding item's is empty.
    """

    texts: list[str]
    words = ()


def item_codes(config, dataset):
    """Codes of all items by the keys ``item_codes``, ``code_field``, ``code_levels`` and ``own_symbols``, made of the training
    part.

    Raises:
        UserError: ``title`` without titles, an item without one, settings that mean nothing.
    """
    kind, seed = config["item_codes"], config["split_seed"]
    levels, own = config["code_levels"], config["own_symbols"]
    if own and kind != "semantic":
        raise UserError(f"own_symbols is read by the item_codes semantic, not by {kind}.")
    texts = _item_texts(config, dataset)
    if kind == "title":
        return title_codes(texts)
    if kind == "random":
        return random_codes(dataset.item_num, seed)
    if kind == "sequential":
        return sequential_codes(in_order_of_users(dataset), dataset.item_num)
    if kind == "p5_leaky":
        getLogger().warning(
            "item_codes: p5_leaky numbers items along whole sequences, test items included: it leaks what is to be "
            "predicted, and is here to reproduce published numbers alone."
        )
        return sequential_codes(in_order_of_leaking_users(dataset, seed), dataset.item_num)
    met = training_matrix(dataset)
    if kind == "collaborative":
        return collaborative_codes(met, seed)
    return semantic_codes(semantic_vectors(met, texts, seed), seed, levels, own=own)


def code_tokens(codes, backbone) -> Ragged:
    """Token ids of every item's code, the padding item's empty: symbols of the backbone, or the words of its tokenizer. The
    log says how many tokens a code takes, and how many of them the tokenizer does not know.

    Args:
        codes: of :func:`item_codes`.
        backbone: :class:`~recbole_persona.lm.backbone.Backbone`, with a symbol for each of the codes or with none.
    """
    if backbone.n_symbols:
        symbols = torch.from_numpy(codes.symbols)
        some = symbols >= 0
        offsets = torch.nn.functional.pad(some.sum(dim=1).cumsum(0), (1, 0))
        tokens = Ragged(symbols[some] + backbone.n_tokens, offsets)
    else:
        tokens = backbone.ragged(codes.texts)
    unknown = int((tokens.values == backbone.unknown).sum()) if backbone.unknown is not None else 0
    lengths = tokens.lengths[1:]
    getLogger().log(
        WARNING if unknown else INFO,
        "item_codes: a code takes %.1f tokens, at most %d; %d of the %d tokens of all codes are unknown to the tokenizer%s.",
        *(lengths.double().mean(), lengths.max(), unknown, len(tokens.values)),
        "; code_symbols: True gives each symbol a token of its own" if unknown and codes.words else "",
    )
    return tokens


def _item_texts(config, dataset):
    """(n_items,) texts of ``code_field``; None without one."""
    field = config["code_field"]
    if config["item_codes"] not in ("title", "semantic"):
        if field is not None:
            raise UserError(f"code_field is read by the item_codes title and semantic, not by {config['item_codes']}.")
        return None
    field = "title" if field is None and config["item_codes"] == "title" else field
    return field and column_texts(dataset, "item", field, f"code_field names {field!r}")


def in_order_of_users(dataset):
    """(N,) items of the training part, user by user, each user's from the oldest to the newest."""
    users, items = training_interactions(dataset, dataset.uid_field, dataset.iid_field)
    place = np.zeros(len(users))  # a user's first item is no row's target
    place[: len(dataset.inter_feat)] = np.arange(1, len(dataset.inter_feat) + 1)  # rows are in the order of time
    return items[np.lexsort((place, users))]


def in_order_of_leaking_users(dataset, seed):
    """As :func:`in_order_of_users` of all parts, the users in a random order, as P5 numbers them."""
    rows = dataset.inter_feat
    if not isinstance(rows, HistoryRows):
        raise UserError(
            "item_codes: p5_leaky numbers whole sequences, which a data set that comes split does not have."
        )
    users, items = (rows.histories.flat[field].numpy() for field in (dataset.uid_field, dataset.iid_field))
    return items[np.random.default_rng(seed).permutation(dataset.user_num)[users].argsort(kind="stable")]


def title_codes(titles) -> TitleCodes:
    """Titles (n_items,), the padding item's first; those that several items bear are numbered."""
    titles = [" ".join(title.split()) for title in titles]
    nameless = [item for item, title in enumerate(titles[1:], start=1) if not title]
    if nameless:
        raise UserError(
            f"{len(nameless)} items have no title (the first is item number {nameless[0]}): no code for them."
        )
    counts, seen, named = Counter(titles), Counter(), [""]
    taken = set(titles)
    for title in titles[1:]:
        name = title
        while counts[title] > 1 and (name == title or name in taken):
            seen[title] += 1
            name = f"{title} {seen[title]}"
        taken.add(name)
        named.append(name)
    return TitleCodes(named)


def random_codes(n_items, seed) -> ItemCodes:
    """Numbers in a random order."""
    return _numbered(np.random.default_rng(seed).permutation(n_items - 1), n_items)


def sequential_codes(items, n_items) -> ItemCodes:
    """Numbers in the order of the first appearance in ``items`` (N,), those of one user behind one another; then the others."""
    first = np.full(n_items, len(items))
    np.minimum.at(first, items, np.arange(len(items)))
    order = first[1:].argsort(kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return _numbered(rank, n_items)


def collaborative_codes(met, seed) -> ItemCodes:
    """Paths in a tree of spectral clusters of the graph of items that the same users chose.

    Args:
        met: (n_users, n_items) sparse array of the training interactions.
    """
    graph = (met.T @ met).tocsr().astype(float)
    graph.setdiag(0)
    n_items = met.shape[1]
    paths, waiting = [[] for _ in range(n_items)], [np.arange(1, n_items)]
    while waiting:
        items = waiting.pop()
        if len(items) <= LEAVES:
            for place, item in enumerate(items):
                paths[item].append(place)
            continue
        part = _parts(graph[items][:, items], min(BRANCHES, len(items)), seed)
        for branch in np.unique(part):
            for item in items[part == branch]:
                paths[item].append(branch)
            waiting.append(items[part == branch])
    return _tree(paths)


def _parts(graph, n_parts, seed):
    """(n,) part of each node; nodes without an edge, and graphs that do not divide, are dealt out evenly."""
    found = np.arange(graph.shape[0]) % n_parts
    linked = np.flatnonzero(np.asarray(graph.sum(axis=0)).ravel() > 0)
    if len(linked) > n_parts:
        spectral = SpectralClustering(n_parts, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
        some = (graph[linked][:, linked] + sp.eye_array(len(linked)) * 1e-6).tocsr()
        some.indices, some.indptr = some.indices.astype(np.int32), some.indptr.astype(np.int32)  # all that it takes
        found[linked] = spectral.fit_predict(some)
    largest = np.bincount(found).max()
    return found if largest < len(found) else np.arange(len(found)) % n_parts


def semantic_codes(vectors, seed, levels, base=BASE, own=False) -> ItemCodes:
    """Residual k-means of ``vectors`` (n_items, d): every level divides what the levels before leave over.

    A last place tells apart the items that share all levels; with ``own`` it is a symbol that no other item has, as in
    the hybrid codes of Hua et al.
    """
    residual = _of_length_one(vectors[1:])
    found = []
    for level in range(levels):
        different = len(np.unique(residual.round(9), axis=0))
        clusters = KMeans(min(base, different), n_init=1, random_state=seed + level).fit(residual)
        found.append(clusters.labels_)
        residual = residual - clusters.cluster_centers_[clusters.labels_]
    codes = np.stack(found, axis=1).astype(np.int64)  # (n_items - 1, levels)
    if own:
        return _named(np.column_stack([codes, np.arange(len(codes))]))
    _, group = np.unique(codes, axis=0, return_inverse=True)
    order = group.ravel().argsort(kind="stable")
    sorted_group = group.ravel()[order]
    first = np.searchsorted(sorted_group, sorted_group)
    among = np.empty(len(order), dtype=np.int64)
    among[order] = np.arange(len(order)) - first
    return _named(np.column_stack([codes, among]))


def _of_length_one(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def semantic_vectors(met, texts, seed) -> np.ndarray:
    """(n_items, d): who chose an item, and beside it, of equal weight, what it is, where there are texts (n_items,)."""
    chosen = collaborative_vectors(met, seed)
    return np.hstack([_of_length_one(chosen), _of_length_one(text_vectors(texts, seed))]) if texts else chosen


def collaborative_vectors(met, seed, size=SVD_SIZE) -> np.ndarray:
    """(n_items, d): right singular vectors, times their values, of the users' rows (n_users, n_items), each of length one."""
    lengths = np.sqrt(met.power(2).sum(axis=1))
    rows = sp.diags_array(1 / np.maximum(lengths, 1e-12)) @ met
    size = min(size, min(rows.shape) - 1)
    _, values, vectors = svds(rows.astype(float), size, rng=np.random.default_rng(seed))
    return vectors.T * values


def text_vectors(texts, seed, size=SVD_SIZE) -> np.ndarray:
    """(n_items, d): the first singular vectors, times their values, of the items' TF-IDF (n_items, words)."""
    try:
        found = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError:
        raise UserError("The texts of code_field hold no words: semantic codes cannot be made of them.") from None
    size = min(size, min(found.shape) - 1)
    return TruncatedSVD(size, random_state=seed).fit_transform(found) if size else found.toarray()


def _numbered(numbers, n_items) -> ItemCodes:
    """Codes of items 1 to n_items - 1 with numbers (n_items - 1,): their digits to a base, all of one length."""
    length = 1
    while BASE**length < n_items:
        length += 1
    places = BASE ** np.arange(length - 1, -1, -1)
    return _named(numbers[:, None] // places % BASE)


def _tree(paths) -> ItemCodes:
    length = max(map(len, paths))
    codes = np.full((len(paths) - 1, length), -1)
    for row, path in zip(codes, paths[1:]):
        row[: len(path)] = path
    return _named(codes)


def _named(codes) -> ItemCodes:
    """Symbols of their own for each place of codes (n_items - 1, L), and for the padding item none."""
    used = codes.max(axis=0) + 1
    starts = np.append(0, used.cumsum())
    symbols = np.full((len(codes) + 1, codes.shape[1]), -1)
    symbols[1:] = np.where(codes >= 0, codes + starts[:-1], -1)
    words = [f"<{chr(97 + place)}_{number}>" for place, count in enumerate(used) for number in range(count)]
    if len(np.unique(symbols, axis=0)) < len(symbols):
        raise UserError("Two items have the same code.")
    return ItemCodes(symbols, words)
