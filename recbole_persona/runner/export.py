"""The vectors of a finished run as files, for other programs: ids in clear, numbers in float32."""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from recbole_persona.errors import UserError
from recbole_persona.runner.people import PersonaUsers
from recbole_persona.runner.persona_reasons import has_personas
from recbole_persona.runner.ranking import all_scores, is_sequential, user_rows
from recbole_persona.runner.user_vectors import run_vectors
from recbole_persona.upstream.files import atomic_path, folder_beside, write_text

FORMATS = ("npz", "parquet")
CHECKED = 64  # users whose scores are compared with the products of the vectors
TOLERANCE = 1e-4  # relative to the largest score


class Vectors(NamedTuple):
    """What a run knows of users and items; the padding is left out.

    Attributes:
        user_ids, item_ids: (U,) and (I,) external ids.
        users: (U, D); of a model with personas, what these pool to on average.
        items: (I, D)
        personas: (U, K, D) or None.
        bias: (I,) of the items, or None.
        score: what the model's score is of these: ``"user . item"``, ``"sum of weight * (persona . item) + bias"``, or None.
    """

    user_ids: np.ndarray
    users: np.ndarray
    item_ids: np.ndarray
    items: np.ndarray
    personas: np.ndarray | None = None
    bias: np.ndarray | None = None
    score: str | None = None


@torch.no_grad()
def vectors_of(loaded) -> Vectors:
    """The vectors of a run; those of a sequential model's users are its states after all their interactions.

    Raises:
        UserError: a model without vectors of users and items.
    """
    dataset, model = loaded.dataset, loaded.model
    users, items = run_vectors(loaded, held_out=True), _item_vectors(loaded)
    if items is None or items.shape[1] != users.shape[1]:
        raise UserError(f"{loaded.config['model']} has no vectors of items that belong to its vectors of users.")
    ids = np.arange(1, dataset.user_num)
    personas = bias = score = None
    if has_personas(model):
        personas = PersonaUsers(loaded, ids).personas().float().cpu().numpy()
        score = "sum of weight * (persona . item)"
        if model.item_bias is not None:
            bias, score = model.item_bias[1:].float().cpu().numpy(), f"{score} + bias"
    elif _scores_are_products(loaded, users, items):
        score = "user . item"
    return Vectors(
        dataset.id2token(dataset.uid_field, ids).astype(str),
        users[1:].numpy(),
        dataset.id2token(dataset.iid_field, np.arange(1, dataset.item_num)).astype(str),
        items[1:].numpy(),
        personas,
        bias,
        score,
    )


def _item_vectors(loaded):
    """(I, D) float32 on the CPU, padding included, or None: what users' vectors are multiplied with in most models."""
    model, table = loaded.model, getattr(loaded.model, "item_embedding", None)
    vectors = table.weight if isinstance(table, nn.Embedding) else None
    for name in ("restore_entity_e", "restore_item_e"):  # what a graph makes of them; items are the first entities
        vectors = getattr(model, name, vectors)
    if callable(getattr(model, "item_vectors", None)):
        vectors = model.item_vectors()
    if vectors is None or vectors.dim() != 2 or len(vectors) < loaded.dataset.item_num:
        return None
    return vectors[: loaded.dataset.item_num].detach().float().cpu()


def _scores_are_products(loaded, users, items) -> bool:
    """Whether the model's scores of some users are the products of the vectors."""
    known = np.flatnonzero(loaded.latest.known) if is_sequential(loaded) else np.arange(1, len(users))
    some = known[:: max(1, len(known) // CHECKED)]
    scores = all_scores(loaded, user_rows(loaded, some))[:, 1:].float().cpu()
    apart = (scores - users[some] @ items[1:].T).abs().max()
    return bool(apart <= TOLERANCE * scores.abs().max())


def export_vectors(loaded, out, form="npz") -> list[Path]:
    """Write the vectors of a run into a new folder, whole or not at all.

    ``vectors.npz``, or ``users.parquet`` and ``items.parquet``; ``about.json``; where FAISS is installed and the scores are
    inner products, ``items.faiss`` (docs/serving.md).

    Args:
        out: a folder that does not exist or is empty.
        form: one of ``FORMATS``.

    Returns:
        The files.

    Raises:
        UserError: a model without vectors, another format, a folder with files, pyarrow is missing.
    """
    out = Path(out)
    if form not in FORMATS:
        raise UserError(f"format is one of {', '.join(FORMATS)}, not {form!r}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already and is no empty folder; name another one.")
    write = _write_parquet if form == "parquet" else _write_npz
    if form == "parquet":
        _arrow()
    vectors = vectors_of(loaded)
    temporary = folder_beside(out)
    try:
        folder = temporary / out.name
        folder.mkdir()
        write(folder, vectors, loaded.dataset)
        _write_index(folder, vectors)
        about = {
            "model": loaded.config["model"],
            "dataset": loaded.config["dataset"],
            "users": len(vectors.users),
            "items": len(vectors.items),
            "dimensions": vectors.items.shape[1],
            "personas": None if vectors.personas is None else vectors.personas.shape[1],
            "score": vectors.score,
        }
        write_text(folder / "about.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        names = sorted(file.name for file in folder.iterdir())
        os.replace(folder, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [out / name for name in names]


def _write_npz(folder, vectors, dataset):
    arrays = {
        "user_ids": vectors.user_ids,
        "user_vectors": vectors.users,
        "item_ids": vectors.item_ids,
        "item_vectors": vectors.items,
        "persona_vectors": vectors.personas,
        "item_bias": vectors.bias,
    }
    with atomic_path(folder / "vectors.npz") as file, open(file, "wb") as opened:
        np.savez(opened, **{name: value for name, value in arrays.items() if value is not None})


def _write_parquet(folder, vectors, dataset):
    pa, pq = _arrow()

    def lists(values):
        """Rows of any shape as lists of a fixed size."""
        column = pa.array(values.reshape(-1))
        for size in reversed(values.shape[1:]):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        return column

    users = {dataset.uid_field: pa.array(vectors.user_ids.tolist()), "vector": lists(vectors.users)}
    items = {dataset.iid_field: pa.array(vectors.item_ids.tolist()), "vector": lists(vectors.items)}
    users |= {} if vectors.personas is None else {"personas": lists(vectors.personas)}
    items |= {} if vectors.bias is None else {"bias": lists(vectors.bias)}
    for name, columns in (("users", users), ("items", items)):
        with atomic_path(folder / f"{name}.parquet") as file:
            pq.write_table(pa.table(columns), file)


def _arrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError("Parquet is written by pyarrow: pip install recbole_persona[parquet].") from None
    return pyarrow, pyarrow.parquet


def _write_index(folder, vectors):
    """``items.faiss``, by inner product; a bias is one dimension more, which a persona multiplies with 1."""
    try:
        import faiss
    except ModuleNotFoundError:
        return
    if vectors.score is None:
        return
    items = vectors.items
    if vectors.bias is not None:
        items = np.concatenate([items, vectors.bias[:, None]], axis=1)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(np.ascontiguousarray(items))
    with atomic_path(folder / "items.faiss") as file:
        faiss.write_index(index, file)
