"""Whom a run can recommend to: users of its data set, and a new user who brings a history.

Both answer alike: ``scores(members, seen)`` (B, n_items), ``seen(members)`` (rows, items), and for models that explain
``pairs(members, items)``, ``explain(members, items) -> Explanation``. ``members`` (B,) are positions among the people,
items are internal ids.
"""

import difflib

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_persona.errors import UserError
from recbole_persona.evaluate.collector import with_items
from recbole_persona.layers.explanation import Explanation
from recbole_persona.runner.ranking import (
    ONLY_KNOWN,
    all_scores,
    history_row,
    is_sequential,
    last_rows,
    user_rows,
)

NEW_USER = "new user"


def find_people(loaded, users=None, history=None, skip_unknown=False):
    """The people that external ids name: known users (all of them if None), or one new user with a history.

    Raises:
        UserError: an unknown id, no id, both users and a history, a model that has nothing for a new user.
    """
    dataset = loaded.dataset
    if history is None:
        users = [users] if np.isscalar(users) else users
        ids = (
            active_users(loaded)
            if users is None
            else internal_ids(dataset, dataset.uid_field, dict.fromkeys(users), "user")
        )
        return KnownUsers(loaded, ids)
    if users is not None:
        raise UserError("Name users or a history, not both.")
    items = internal_ids(dataset, dataset.iid_field, history, "item", skip_unknown)
    if hasattr(loaded.model, "fold_in"):
        return FoldedUser(loaded, items)
    if is_sequential(loaded):
        return SequenceUser(loaded, items)
    raise UserError(f"{loaded.config['model']} {ONLY_KNOWN}")


def active_users(loaded) -> np.ndarray:
    """Internal ids of the users with interactions (with a sequence that is long enough, for sequential models)."""
    if is_sequential(loaded):
        return np.flatnonzero(last_rows(loaded.dataset) >= 0)
    return np.flatnonzero(np.diff(loaded.dataset.inter_matrix(form="csr").indptr))


def internal_ids(dataset, field, tokens, what, skip_unknown=False) -> np.ndarray:
    """Internal ids of external ones (str or int).

    Raises:
        UserError: ids that the data set lacks (unless they are to be skipped), or none at all.
    """
    known = dataset.field2token_id[field]
    tokens = [str(token) for token in tokens]
    unknown = [token for token in tokens if not known.get(token)]  # 0 is padding
    if unknown and not skip_unknown:
        names = ", ".join(map(repr, unknown[:10])) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        examples = list(known)[1:]
        near = difflib.get_close_matches(unknown[0], examples, n=3, cutoff=0.5) if len(examples) < 10**5 else []
        hint = f"near {unknown[0]!r} are {', '.join(near)}" if near else f"it has {', '.join(examples[:3])} …"
        raise UserError(f"{dataset.dataset_name} has no {what} {names}; {hint}.")
    ids = np.array([known[token] for token in tokens if known.get(token)], dtype=np.int64)
    if not len(ids):
        raise UserError(f"No {what} of {dataset.dataset_name} is named; write external ids, separated by commas.")
    return ids


def items_to_explain(loaded, people, topk, items, texts):
    """The best unseen items of the first of the people, or those named.

    Args:
        items: external ids, or None.
        texts: titles of the items.

    Returns:
        internal ids (N,), and for each ``{user, rank, item, title, score}``, the rank being that among the unseen items.
    """
    first = np.zeros(1, dtype=np.int64)
    seen = people.seen(first)
    scores = people.scores(first, seen if items is None else None)[0]  # (I,)
    unseen = scores.clone()
    unseen[seen[1]] = -torch.inf
    if items is None:
        values, chosen = torch.topk(unseen, min(topk, len(unseen)))
        chosen = chosen[torch.isfinite(values)]
    else:
        chosen = torch.as_tensor(internal_ids(loaded.dataset, loaded.dataset.iid_field, items, "item"))
        chosen = chosen.to(scores.device)
    ranks = 1 + (unseen > scores[chosen].unsqueeze(1)).sum(dim=1)
    tokens = loaded.dataset.id2token(loaded.dataset.iid_field, chosen.cpu().numpy())
    return chosen, [
        {
            "user": str(people.labels[0]),
            "rank": rank,
            "item": str(token),
            "title": texts.titles.get(token, ""),
            "score": score,
        }
        for token, rank, score in zip(tokens, ranks.tolist(), scores[chosen].tolist())
    ]


def history_pairs(loaded, rows, items) -> Interaction:
    """Rows of a sequential model (B,) with the items (B,) they are to be scored with, on the model's device."""
    dataset = loaded.dataset
    items = torch.as_tensor(items).cpu().unsqueeze(1)
    return with_items(rows, items, dataset.iid_field, dataset.get_item_feature()).to(loaded.config["device"])


class KnownUsers:
    """Users of the data set, by internal ids (n,).

    Attributes:
        labels: (n,) external ids.
    """

    def __init__(self, loaded, ids):
        self.loaded, self.ids = loaded, ids
        self.labels = loaded.dataset.id2token(loaded.dataset.uid_field, ids)
        self._known = loaded.dataset.inter_matrix(form="csr")

    def scores(self, members, seen=None):
        return all_scores(self.loaded, user_rows(self.loaded, self.ids[members]), seen)

    def seen(self, members):
        """Everything that they are known to have interacted with, in any part of the split."""
        rows, items = self._known[self.ids[members]].nonzero()
        if is_sequential(self.loaded):  # a data set that comes split has interactions that stand in lists alone
            lists = user_rows(self.loaded, self.ids[members])[self.loaded.dataset.item_id_list_field].numpy()
            listed = lists.nonzero()
            rows, items = np.concatenate([rows, listed[0]]), np.concatenate([items, lists[listed]])
        return rows, items

    def history(self) -> np.ndarray:
        """The first one's training interactions."""
        train = self.loaded.train_data._dataset.inter_feat
        dataset = self.loaded.dataset
        return np.unique(train[dataset.iid_field][train[dataset.uid_field] == self.ids[0]].numpy())

    def pairs(self, members, items) -> Interaction:
        """(user, item) rows on the model's device; for a sequential model, (history, item) rows."""
        dataset = self.loaded.dataset
        if is_sequential(self.loaded):
            return history_pairs(self.loaded, user_rows(self.loaded, self.ids[members]), items)
        rows = {dataset.uid_field: torch.as_tensor(self.ids[members]), dataset.iid_field: torch.as_tensor(items).cpu()}
        return dataset.join(Interaction(rows)).to(self.loaded.config["device"])

    def explain(self, members, items) -> Explanation:
        return self.loaded.model.explain(self.pairs(members, items))


class NewUser:
    """One user who is not in the data set; the history is all that is known."""

    labels = np.array([NEW_USER])

    def __init__(self, loaded, items):
        self.loaded, self.items = loaded, items

    def seen(self, members):
        return np.zeros_like(self.items), self.items

    def history(self) -> np.ndarray:
        return np.unique(self.items)


class SequenceUser(NewUser):
    """A new user as a sequential model reads them: the items in their order."""

    def scores(self, members, seen=None):
        return all_scores(self.loaded, history_row(self.loaded, self.items), seen)

    def pairs(self, members, items) -> Interaction:
        row = history_row(self.loaded, self.items)
        return history_pairs(self.loaded, row.repeat_interleave(len(members)), items)


class FoldedUser(NewUser):
    """A new user whose personas are learned from the history, the items as they are."""

    def __init__(self, loaded, items):
        super().__init__(loaded, np.unique(items))
        self.personas = loaded.model.fold_in([self.items])  # (1, K, d)

    def scores(self, members, seen=None):
        scores = self.loaded.model.score_all(self.personas)
        scores[:, 0] = -torch.inf  # padding
        return scores

    def pairs(self, members, items) -> Interaction:
        return Interaction({self.loaded.dataset.iid_field: torch.as_tensor(items)}).to(self.loaded.config["device"])

    def explain(self, members, items) -> Explanation:
        items = torch.as_tensor(items).to(self.personas.device)
        personas = self.personas.expand(len(items), -1, -1)  # (B, K, d)
        return Explanation("persona", self.loaded.model.weights_for(personas, items), personas)
