"""All items ranked for many users, a batch at a time, by any model."""

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


def search_for(loaded, topk) -> None:
    """Let a model that finds its items by beams have as many as a list has places."""
    if hasattr(loaded.model, "n_beams"):
        loaded.model.n_beams = min(max(loaded.model.n_beams, topk), loaded.dataset.item_num - 1)


def is_sequential(loaded) -> bool:
    return loaded.config["MODEL_TYPE"].name == "SEQUENTIAL"


def user_rows(loaded, users) -> Interaction:
    """What the model reads of known users, one row each.

    A sequential model reads the history to its end: the last row that it was tested on, the tested item behind it.

    Args:
        users: (B,) internal ids.

    Raises:
        UserError: a user whose history is too short to have a row.
    """
    dataset = loaded.dataset
    if not is_sequential(loaded):
        return dataset.join(Interaction({dataset.uid_field: torch.as_tensor(users)}))
    last = last_rows(dataset)[users]
    if (last < 0).any():
        names = dataset.id2token(dataset.uid_field, np.asarray(users)[last < 0])
        raise UserError(f"The history of user {', '.join(names)} is too short for {loaded.config['model']}.")
    return loaded.test_data.transform(dataset, next_rows(dataset, dataset[torch.as_tensor(last)]))


def last_rows(dataset) -> np.ndarray:
    """(n_users,) index of every user's last row in a sequential data set, -1 where there is none."""
    rows = np.full(dataset.user_num, -1)
    users = dataset.inter_feat[dataset.uid_field].numpy()
    np.maximum.at(rows, users, np.arange(len(users)))  # rows are in the order of time
    return rows


def next_rows(dataset, rows) -> Interaction:
    """The rows that would follow: every list with the row's own value at its end (a full one loses its first)."""
    suffix, length_field = dataset.config["LIST_SUFFIX"], dataset.item_list_length_field
    length = rows[length_field]
    for field in [name for name in rows.interaction if name + suffix in rows.interaction]:
        lists = rows[field + suffix].clone()  # (B, L, ...)
        full = length >= lists.shape[1]
        lists[full] = lists[full].roll(-1, dims=1)
        lists[torch.arange(len(lists)), length.clamp(max=lists.shape[1] - 1)] = rows[field].to(lists.dtype)
        rows.update(Interaction({field + suffix: lists}))
    longest = rows[dataset.iid_field + suffix].shape[1]
    rows.update(Interaction({length_field: (length + 1).clamp(max=longest)}))
    return rows


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
    try:
        scores = _scores(model, rows.to(loaded.config["device"]), dataset, loaded.config)
    except KeyError as error:
        if error.args[0] not in dataset.inter_feat:
            raise
        if error.args[0] == dataset.uid_field:
            raise UserError(f"{loaded.config['model']} {ONLY_KNOWN}") from None
        raise UserError(
            f"{loaded.config['model']} reads {error} of an interaction, which one that has not happened lacks; "
            "train it without that column (load_col)."
        ) from None
    scores = scores.view(-1, dataset.item_num)
    scores[:, 0] = -torch.inf
    return scores


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
