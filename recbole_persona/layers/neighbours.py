"""The users who are most like a user, by the cosine of their vectors."""

import numpy as np
import torch

from recbole_persona.errors import UserError

EXACT = 200_000  # users up to which all pairs are compared
ASKED = 4096  # users at a time


def nearest_users(vectors, n, known=None, exact=EXACT):
    """The ``n`` nearest users of every user, themselves left out.

    Up to ``exact`` users all pairs are compared, in blocks; more are looked up in an HNSW graph (Malkov, Yashunin, 2020).

    Args:
        vectors: (U, d) float32; row 0 is RecBole's padding user.
        n: neighbours.
        known: (U,) bool, users who may be neighbours; all but the padding user if None.
        exact: users up to which all pairs are compared.

    Returns:
        (U, n) int64 tensor, the nearest first; 0 where there are fewer, and for the padding user.

    Raises:
        UserError: faiss is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError:
        raise UserError("The nearest users are found with faiss: pip install recbole_persona[faiss].") from None
    rows = vectors.detach().float().cpu().numpy()
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.maximum(lengths, 1e-12)
    known = lengths.squeeze(1) > 0 if known is None else known.numpy()
    members = np.flatnonzero(known & (np.arange(len(rows)) > 0))
    index = faiss.IndexFlatIP(rows.shape[1])
    if len(members) > exact:
        index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 100, max(128, 4 * n)
    index.add(rows[members])
    found = np.zeros((len(rows), n), dtype=np.int64)
    for start in range(1, len(rows), ASKED):
        asked = np.arange(start, min(start + ASKED, len(rows)))
        _, place = index.search(rows[asked], min(n + 1, max(1, len(members))))
        near = np.where(place >= 0, members[np.maximum(place, 0)], 0)
        others = near != asked[:, None]
        order = np.argsort(~others, axis=1, kind="stable")[:, :n]  # oneself, if found, goes to the end
        kept = np.take_along_axis(np.where(others, near, 0), order, axis=1)
        found[asked, : kept.shape[1]] = kept
    found[lengths.squeeze(1) == 0] = 0
    return torch.from_numpy(found)
