"""All items ranked for many users, a batch at a time, by any model."""

from contextlib import contextmanager

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_persona.errors import UserError
from recbole_persona.evaluate.seen import seen_column

CELLS = 2**22  # scores in memory at a time (users x items)
ONLY_KNOWN = (
    "can recommend only to users that it was trained on; "
    "a --history needs a run of AMPCF, or of a sequential model that reads items alone."
)


def batches(users, n_items, most):
    """``users`` in parts of at most ``most``, whose scores against all items fit into ``CELLS``."""
    size = max(1, min(most, CELLS // n_items))
    return [users[start : start + size] for start in range(0, len(users), size)]


@contextmanager
def enough_beams(loaded, topk):
    """Let a model that finds its items by beams have as many as a list has places, until the block ends."""
    model = loaded.model
    if not hasattr(model, "n_beams"):
        yield
        return
    own = model.n_beams
    model.n_beams = min(max(own, topk), loaded.dataset.item_num - 1)
    try:
        yield
    finally:
        model.n_beams = own


def is_sequential(loaded) -> bool:
    return loaded.config["MODEL_TYPE"].name == "SEQUENTIAL"


def user_rows(loaded, users) -> Interaction:
    """What the model reads of known users, one row each.

    A sequential model reads the history to its end: the last row that it was tested on, the tested item behind it.

    Args:
        users: (B,) internal ids.

    Raises:
        UserError: a user without interactions, of whom a sequential model has nothing to read.
    """
    dataset = loaded.dataset
    if not is_sequential(loaded):
        return dataset.join(Interaction({dataset.uid_field: torch.as_tensor(users)}))
    known = loaded.latest.known[users]
    if not known.all():
        without = names_of(dataset.id2token(dataset.uid_field, np.unique(np.asarray(users)[~known])))
        raise UserError(f"There is no interaction of user {without} for {loaded.config['model']} to read.")
    return loaded.test_data.transform(dataset, loaded.latest.rows(users))


def names_of(tokens) -> str:
    """Up to ten external ids, in words."""
    more = f" and {len(tokens) - 10} more" if len(tokens) > 10 else ""
    return ", ".join(repr(str(one)) for one in tokens[:10]) + more


def history_row(loaded, items) -> Interaction:
    """What a sequential model reads of a new user: the last of ``items`` (H,) as one row without a user."""
    config, dataset = loaded.config, loaded.dataset
    longest = config["MAX_ITEM_LIST_LENGTH"]
    recent = torch.as_tensor(items[-longest:])
    sequence = torch.zeros(1, longest, dtype=torch.int64)
    sequence[0, : len(recent)] = recent
    row = {
        dataset.iid_field + config["LIST_SUFFIX"]: sequence,
        dataset.item_list_length_field: torch.tensor([len(recent)]),
        dataset.iid_field: torch.zeros(1, dtype=torch.int64),  # the next item is not known
    }
    return loaded.test_data.transform(dataset, Interaction(row))


def all_scores(loaded, rows, seen=None) -> torch.Tensor:
    """(B, n_items) scores of every item for every row; the padding item gets -inf.

    Args:
        seen: (rows, items) that will be left out, for a model that searches among the others.

    Raises:
        UserError: the model reads a field that belongs to a finished interaction.
    """
    model, dataset = loaded.model, loaded.dataset
    if seen is not None and getattr(model, "reads_seen", False):
        rows.update(seen_column(*map(torch.as_tensor, seen), len(rows)))
    with _reading(loaded):
        scores = _scores(model, rows.to(loaded.config["device"]), dataset, loaded.config)
    scores = scores.view(-1, dataset.item_num)
    scores[:, 0] = -torch.inf
    return scores


def pair_scores(loaded, pairs) -> torch.Tensor:
    """(B,) scores of rows with an item each, which are on the model's device.

    Raises:
        UserError: as :func:`all_scores`.
    """
    with _reading(loaded):
        return loaded.model.predict(pairs).view(-1)


@contextmanager
def _reading(loaded):
    """A field that the rows lack becomes a sentence."""
    model, dataset = loaded.config["model"], loaded.dataset
    try:
        yield
    except KeyError as error:
        if error.args[0] not in dataset.inter_feat:
            raise
        if error.args[0] == dataset.uid_field:
            raise UserError(f"{model} {ONLY_KNOWN}") from None
        raise UserError(
            f"{model} reads {error} of an interaction, which one that has not happened lacks; "
            "train it without that column (load_col)."
        ) from None


def _scores(model, rows, dataset, config):
    try:
        return model.full_sort_predict(rows)
    except NotImplementedError:  # as RecBole does: every row with every item, in batches
        items = dataset.get_item_feature().to(config["device"])
        step = max(1, config["eval_batch_size"] // dataset.item_num)
        parts = []
        for start in range(0, len(rows), step):
            some = rows[slice(start, start + step)]
            pairs = some.repeat_interleave(dataset.item_num)
            pairs.update(items.repeat(len(some)))
            parts.append(model.predict(pairs))
        return torch.cat(parts)


def top_items(scores, seen, topk):
    """The best unseen items.

    Args:
        scores: (B, n_items); changed in place.
        seen: (rows, columns) of the items to leave out, or None.
        topk: how many.

    Returns:
        scores (B, k) and items (B, k), k = min(topk, n_items); what has score -inf is no recommendation.
    """
    if seen is not None:
        scores[seen] = -torch.inf
    return torch.topk(scores, min(topk, scores.shape[1]))
