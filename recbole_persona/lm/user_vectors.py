"""Vectors of users, made of the training part, and the users who are most like each.

A user without training interactions has a vector of zeros and no neighbours. Someone who is met later with a history gets
a vector of its items (:func:`folded`).

Shapes: U users, I items, D dimensions, n neighbours; row 0 is RecBole's padding.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from recbole_persona.data.training_part import pair_matrix, training_matrix
from recbole_persona.errors import UserError
from recbole_persona.layers.matrix_factorisation import factorise, solved
from recbole_persona.layers.neighbours import nearest_users

FITTED = ("pmf", "bivae")  # all else that user_vectors names is the folder of a run
CONTROLS = ("random_vectors", "random_neighbours", "mean")
CELLS = 2**24  # cosines of new users with all users at a time


class UserSpace(NamedTuple):
    """What is known of the users of a training part.

    Attributes:
        vectors: (U, D), of unit length or zero.
        items: (I, D), what the vector of a new user is made of; made here if None.
        neighbours: (U, n) int64, the nearest first, 0 where there is none; looked up here if None.
    """

    vectors: torch.Tensor
    items: torch.Tensor | None = None
    neighbours: torch.Tensor | None = None


def user_space(config, dataset) -> UserSpace:
    """The space that ``user_vectors``, ``n_neighbours`` and ``control`` ask for.

    What the runner has found stands in ``dataset.user_space``: the vectors of another run, or the whole space of this run
    when it is read again.

    Raises:
        UserError: ``user_vectors`` names a run that nobody has looked up, cornac or faiss is missing.
    """
    given = getattr(dataset, "user_space", None)
    if given is not None and given.neighbours is not None:
        return given
    source, size, seed = config["user_vectors"], config["user_vector_size"], config["split_seed"]
    chosen = training_matrix(dataset, np.float32)
    known = torch.from_numpy(np.diff(chosen.indptr) > 0)
    items, generator = None, torch.Generator().manual_seed(seed)
    if config["control"] == "random_vectors":
        vectors = torch.randn(len(known), size, generator=generator)
    elif source == "pmf":
        vectors, items = factorise(chosen, size, seed=seed)
    elif source == "bivae":
        vectors = bivae(chosen, size, seed)
    elif given is not None:
        vectors = given.vectors
    else:
        raise UserError(
            f"user_vectors: {source} is looked up by recbole_persona.run and recbole_persona.load; a script of your own "
            "puts the vectors into dataset.user_space (recbole_persona.lm.user_vectors.UserSpace)."
        )
    vectors = normalize(vectors * known.unsqueeze(1), dim=1)
    known = vectors.any(dim=1)
    if items is None:
        items = torch.from_numpy(chosen.T.tocsr() @ vectors.numpy())
    neighbours = nearest_users(vectors, config["n_neighbours"], known)
    if config["control"] == "random_neighbours":
        members = known.nonzero().squeeze(1)
        drawn = members[torch.randint(len(members), neighbours.shape, generator=generator)]
        neighbours = torch.where(neighbours > 0, drawn, 0)
    return UserSpace(vectors, items.float(), neighbours)


def bivae(chosen, size, seed):
    """(U, D): means of the users' posteriors in BiVAE (Truong, Salah, Lauw, WSDM 2021), by cornac with its own settings.

    Raises:
        UserError: cornac is not installed.
    """
    try:
        from cornac.data import Dataset
        from cornac.models import BiVAECF
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("cornac", "powerlaw"):
            raise
        raise UserError("user_vectors: bivae is fitted by cornac: pip install recbole_persona[cornac].") from None
    users, items = chosen.nonzero()
    data = Dataset.build(list(zip(users.tolist(), items.tolist(), [1.0] * len(users))), seed=seed)
    with torch.random.fork_rng(devices=[]):  # cornac seeds torch for everybody
        found = BiVAECF(k=size, seed=seed, use_gpu=False).fit(data).get_user_vectors()
    vectors = torch.zeros(chosen.shape[0], size)
    vectors[list(data.uid_map)] = torch.from_numpy(found)
    return vectors


def folded(histories, lengths, items, solves):
    """(R, D) unit vectors of users who are known by their histories alone; zeros for an empty one.

    Args:
        histories: (R, T) items, the first ``lengths`` (R,) of them.
        items: (I, D), of :class:`UserSpace`.
        solves: whether the items are those of ``pmf``, and the vector what the last step of its fit would find for such a
            user; else it is the direction of the mean of the users who chose the items, every choice counted once.
    """
    inside = torch.arange(histories.shape[1], device=histories.device) < lengths.unsqueeze(1)
    rows, _ = (inside & (histories > 0)).nonzero(as_tuple=True)
    chosen = histories[inside & (histories > 0)]
    met = pair_matrix(rows.cpu().numpy(), chosen.cpu().numpy(), (len(histories), len(items)), np.float32)
    own = items.cpu()
    vectors = solved(met, own) if solves else torch.from_numpy(met @ own.numpy())
    return normalize(vectors, dim=1).to(items)


def nearest_to(asked, vectors, n):
    """(R, n) users whose vectors (U, D) have the largest cosine with those asked for (R, D), all pairs compared; 0 for none.

    Users without a vector are no neighbours, and have none.
    """
    known = vectors.any(dim=1)
    found = torch.zeros(len(asked), n, dtype=torch.int64, device=vectors.device)
    for rows in torch.arange(len(asked), device=vectors.device).split(max(1, CELLS // len(vectors))):
        cosine = (asked[rows] @ vectors.T).masked_fill(~known, -torch.inf)
        best, near = cosine.topk(min(n, len(vectors)), dim=1)
        found[rows, : near.shape[1]] = near.masked_fill(best == -torch.inf, 0)
    return found.masked_fill(~asked.any(dim=1, keepdim=True), 0)
