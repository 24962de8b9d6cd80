"""References to finished runs become tensors: the vectors of users that a run has learned, for another run to build on."""

import inspect

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from torch import nn

from recbole_persona.data.latest_rows import last_rows, next_rows
from recbole_persona.data.training_part import training_interactions
from recbole_persona.errors import UserError
from recbole_persona.lm.user_vectors import FITTED, UserSpace
from recbole_persona.runner.ranking import is_sequential, user_rows
from recbole_persona.runs import RunFolder
from recbole_persona.train.checkpoint import fitting
from recbole_persona.upstream.files import load_tree

ROWS = 1024  # users, or interactions, at a time


def hand_over(config, datasets, load) -> None:
    """Put the vectors of the run that ``user_vectors`` names into the training data, as ``dataset.user_space``.

    Args:
        datasets: of training, validation and test.
        load: :func:`recbole_persona.runner.training.load`.

    Raises:
        UserError: no finished run, one of another split, one of a model without vectors of users.
    """
    source = config["user_vectors"]
    if source is None or source in FITTED:
        return
    if not RunFolder(source).path.is_dir():
        raise UserError(
            f"user_vectors is {', '.join(FITTED)}, or the folder of a finished run; there is no folder {source!r}."
        )
    loaded = load(source)
    others = [loader._dataset for loader in (loaded.train_data, loaded.valid_data, loaded.test_data)]
    if not all(held_out(one).equals(held_out(other)) for one, other in zip(datasets[1:], others[1:])):
        raise UserError(
            f"The run in {source} has another split, so that its vectors may know what is held out here; "
            "train it with the same eval_args, split_seed and filters."
        )
    vectors, own = run_vectors(loaded), datasets[0]
    place = pd.Index(loaded.dataset.field2id_token[loaded.dataset.uid_field].astype(str))
    place = place.get_indexer(own.field2id_token[own.uid_field].astype(str))  # -1 for those whom the run does not know
    found = vectors[torch.from_numpy(place)]
    found[torch.from_numpy(place <= 0)] = 0
    datasets[0].user_space = UserSpace(found)


def hand_back(config, dataset, file) -> None:
    """Put the space that a run was trained with into its data, from its file of weights: nothing is fitted again."""
    if config["user_vectors"] is None:
        return
    with fitting(file, "a model with user_vectors"):
        weights = load_tree(file)["state_dict"]
        if "user_vectors" in weights:
            dataset.user_space = UserSpace(*(weights[name] for name in ("user_vectors", "item_vectors", "neighbours")))


def held_out(dataset):
    """The pairs of a part by external ids, in an order of their own.

    Which rows train differs between sequential models and others, whose rows are all interactions; what is held out does not.
    """
    columns = {}
    for field in (dataset.uid_field, dataset.iid_field):
        columns[field] = dataset.field2id_token[field].astype(str)[dataset.inter_feat[field].numpy()]
    pairs = pd.DataFrame(columns)
    pairs.columns = ["user", "item"]
    return pairs.sort_values(["user", "item"], ignore_index=True)


@torch.no_grad()
def run_vectors(loaded, held_out=False) -> torch.Tensor:
    """(U, D) float32 vectors of the users of a finished run, by its own ids; zeros for users of whom it knows nothing.

    With ``held_out`` a sequential model reads histories to their ends, as it does to recommend.

    - A sequential model: its state after the training history (``user_state``, or what RecBole's ``forward`` gives for a
      history); with DIN, whose pooling wants a candidate, the mean of the behaviours.
    - A model with personas: what these pool to for the user's own training items, on average. Personas have no order, so
      that one user's first is not another's: side by side they could not be compared.
    - Another model: the vectors that it multiplies with the items', after propagation over its graph.

    Raises:
        UserError: a model without any.
    """
    model = loaded.model
    if is_sequential(loaded):
        vectors = _states(loaded, held_out)
    elif hasattr(model, "n_personas"):
        vectors = _pooled_personas(loaded)
    elif hasattr(model, "restore_user_e"):  # RecBole's graph models keep there what the graph makes of the embeddings
        users = Interaction({loaded.dataset.uid_field: torch.zeros(1, dtype=torch.int64)})
        model.full_sort_predict(users.to(loaded.config["device"]))
        vectors = model.restore_user_e
    else:
        table = getattr(model, "user_embedding", None)
        vectors = table.weight if isinstance(table, nn.Embedding) else None
    if vectors is None or vectors.dim() != 2 or len(vectors) < loaded.dataset.user_num:
        raise UserError(
            f"{loaded.config['model']} has no vectors of users; runs of BPR, LightGCN, AMPCF, UserEncoder, SASRec and "
            "others that score a user's vector with an item's have."
        )
    return vectors[: loaded.dataset.user_num].detach().float().cpu()


def _states(loaded, held_out):
    """(U, D) states after all training interactions, or all; zeros for users without any. None if there are none."""
    model, dataset = loaded.model, loaded.train_data._dataset
    asked = list(inspect.signature(model.forward).parameters)
    if not hasattr(model, "user_state") and asked != ["item_seq", "item_seq_len"]:
        return None
    last, vectors = last_rows(dataset), None
    known = loaded.latest.known if held_out else last >= 0
    for users in np.array_split(np.flatnonzero(known), max(1, len(last) // ROWS)):
        if held_out:
            rows = user_rows(loaded, users)
        else:
            rows = next_rows(dataset, dataset[torch.as_tensor(last[users])])
            rows = loaded.test_data.transform(dataset, rows)
        rows = rows.to(loaded.config["device"])
        if hasattr(model, "user_state"):
            states = model.user_state(rows)
        else:
            states = model(rows[model.ITEM_SEQ], rows[model.ITEM_SEQ_LEN])
        if states.dim() != 2:
            return None
        if vectors is None:
            vectors = states.new_zeros(len(last), states.shape[1])
        vectors[torch.as_tensor(users)] = states
    return vectors


def _pooled_personas(loaded):
    """(U, d), the mean over a user's training items of what the personas pool to for them."""
    dataset, device = loaded.train_data._dataset, loaded.config["device"]
    users, items = map(torch.from_numpy, training_interactions(dataset, dataset.uid_field, dataset.iid_field))
    sums = None
    for rows in torch.arange(len(users)).split(64 * ROWS):
        pairs = Interaction({dataset.uid_field: users[rows], dataset.iid_field: items[rows]}).to(device)
        pooled = loaded.model.explain(pairs).pooled
        if sums is None:
            sums = pooled.new_zeros(dataset.user_num, pooled.shape[1])
        sums.index_add_(0, users[rows].to(device), pooled)
    counts = torch.bincount(users, minlength=dataset.user_num).clamp(min=1).to(sums)
    return sums / counts.unsqueeze(1)
