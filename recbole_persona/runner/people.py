"""Whom a run can recommend to: users of its data set, and a new user who brings a history.

All answer alike: ``scores(members, seen)`` (B, n_items), ``predict(members, items)`` (B,), ``seen(members)`` (rows, items),
and for models that explain ``pairs(members, items)``, ``explain(members, items) -> Explanation``. ``members`` (B,) are
positions among the people, items are internal ids.
"""

from logging import getLogger

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_persona.errors import UserError, nearest
from recbole_persona.evaluate.collector import with_items
from recbole_persona.layers.explanation import Explanation
from recbole_persona.runner.ranking import (
    ONLY_KNOWN,
    all_scores,
    history_row,
    is_sequential,
    names_of,
    pair_scores,
    user_rows,
)

NEW_USER = "new user"
FOLDED_AT_ONCE = 1024  # users


def find_people(loaded, users=None, history=None, skip_unknown=False):
    """The people that external ids name: known users (all of them if None), or one new user with a history.

    A sequential model has nothing to read of users without an interaction: they are left out, and a warning names them.

    Raises:
        UserError: an unknown id, no id, both users and a history, a model that has nothing for a new user, nobody but
            users without an interaction.
    """
    dataset = loaded.dataset
    if history is None:
        users = [users] if np.isscalar(users) else users
        ids = (
            active_users(loaded)
            if users is None
            else internal_ids(dataset, dataset.uid_field, dict.fromkeys(users), "user")
        )
        if is_sequential(loaded):
            ids = _with_history(loaded, ids)
        return PersonaUsers(loaded, ids) if hasattr(loaded.model, "fold_in") else KnownUsers(loaded, ids)
    if users is not None:
        raise UserError("Name users or a history, not both.")
    items = internal_ids(dataset, dataset.iid_field, history, "item", skip_unknown)
    if hasattr(loaded.model, "fold_in"):
        return FoldedUsers(loaded, np.array([NEW_USER]), [items])
    if is_sequential(loaded):
        return SequenceUser(loaded, items)
    raise UserError(f"{loaded.config['model']} {ONLY_KNOWN}")


def active_users(loaded) -> np.ndarray:
    """Internal ids of the users with interactions."""
    if is_sequential(loaded):
        return np.flatnonzero(loaded.latest.known)
    return np.flatnonzero(np.diff(loaded.interactions.indptr))


def _with_history(loaded, ids):
    """Those of the users whom a sequential model can read; all if it can read none, which the reading refuses."""
    known = loaded.latest.known[ids]
    if known.all() or not known.any():
        return ids
    left_out = names_of(loaded.dataset.id2token(loaded.dataset.uid_field, ids[~known]))
    getLogger().warning(
        "Left out, as there is no interaction for %s to read: user %s.", loaded.config["model"], left_out
    )
    return ids[known]


def internal_ids(dataset, field, tokens, what, skip_unknown=False) -> np.ndarray:
    """Internal ids of external ones (str or int); a text or a number is one id.

    Raises:
        UserError: ids that the data set lacks (unless they are to be skipped), or none at all.
    """
    known = dataset.field2token_id[field]
    tokens = [str(token) for token in ([tokens] if np.isscalar(tokens) else tokens)]
    unknown = [token for token in tokens if not known.get(token)]  # 0 is padding
    if unknown and not skip_unknown:
        examples = list(known)[1:]
        near = nearest(unknown[0], examples, 3) if len(examples) < 10**5 else ""
        hint = near or f"; it has {', '.join(map(repr, examples[:3]))} …"
        whole = ",".join(tokens)
        if len(tokens) > 1 and known.get(whole):
            hint = f"; {whole!r} is one {what}: an id with a comma stands in double quotes"
        raise UserError(f"{dataset.dataset_name} has no {what} {names_of(unknown)}{hint}.")
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
        folded: whether some were not trained on, and have personas that were learned from their histories afterwards.
    """

    folded = False

    def __init__(self, loaded, ids):
        self.loaded, self.ids = loaded, ids
        self.labels = loaded.dataset.id2token(loaded.dataset.uid_field, ids)

    def scores(self, members, seen=None):
        return all_scores(self.loaded, user_rows(self.loaded, self.ids[members]), seen)

    def predict(self, members, items):
        return pair_scores(self.loaded, self.pairs(members, items))

    def seen(self, members):
        """Everything that they are known to have interacted with, in any part of the split."""
        rows, items = self.loaded.interactions[self.ids[members]].nonzero()
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


class SequenceUser:
    """One user who is not in the data set, as a sequential model reads them: the items of the history in their order."""

    labels, folded = np.array([NEW_USER]), False

    def __init__(self, loaded, items):
        self.loaded, self.items = loaded, items

    def scores(self, members, seen=None):
        return all_scores(self.loaded, history_row(self.loaded, self.items), seen)

    def predict(self, members, items):
        return pair_scores(self.loaded, self.pairs(members, items))

    def seen(self, members):
        return np.zeros_like(self.items), self.items

    def history(self) -> np.ndarray:
        return np.unique(self.items)

    def pairs(self, members, items) -> Interaction:
        row = history_row(self.loaded, self.items)
        return history_pairs(self.loaded, row.repeat_interleave(len(members)), items)


class FoldedUsers:
    """Users that the model was not trained on: their personas are learned from the histories, the items as they are.

    Attributes:
        labels: (n,) external ids.
        histories: n arrays of items.
        personas: (n, K, d)
    """

    folded = True

    def __init__(self, loaded, labels, histories):
        self.loaded, self.labels = loaded, labels
        self.histories = [np.unique(items) for items in histories]
        parts = range(0, len(histories), FOLDED_AT_ONCE)
        folded = [loaded.model.fold_in(self.histories[start : start + FOLDED_AT_ONCE]) for start in parts]
        self.personas = torch.cat(folded)

    def scores(self, members, seen=None):
        scores = self.loaded.model.score_all(self.personas[torch.as_tensor(members)])
        scores[:, 0] = -torch.inf  # padding
        return scores

    def predict(self, members, items):
        return self.loaded.model.score_pooled(self.pairs(members, items), self.explain(members, items).pooled)

    def seen(self, members):
        histories = [self.histories[member] for member in members]
        return np.repeat(np.arange(len(members)), list(map(len, histories))), np.concatenate(histories)

    def history(self) -> np.ndarray:
        """The first one's."""
        return self.histories[0]

    def pairs(self, members, items) -> Interaction:
        return Interaction({self.loaded.dataset.iid_field: torch.as_tensor(items)}).to(self.loaded.config["device"])

    def explain(self, members, items) -> Explanation:
        items = torch.as_tensor(items).to(self.personas.device)
        personas = self.personas[torch.as_tensor(members)]  # (B, K, d)
        return Explanation("persona", self.loaded.model.weights_for(personas, items), personas)


class PersonaUsers(KnownUsers):
    """Users of a model that folds in: whoever has interactions but none in training gets personas as a new user does."""

    def __init__(self, loaded, ids):
        super().__init__(loaded, ids)
        known = np.diff(loaded.interactions.indptr)[ids] > 0
        trained = np.isin(ids, loaded.train_data._dataset.inter_feat[loaded.dataset.uid_field].numpy())
        new = np.flatnonzero(known & ~trained)
        self.folded = len(new) > 0
        self._place = np.full(len(ids), -1)  # of each user among the new ones
        self._place[new] = np.arange(len(new))
        if self.folded:
            histories = [loaded.interactions[[user]].indices for user in ids[new]]
            self._new = FoldedUsers(loaded, self.labels[new], histories)

    def _rows_of_new(self, members):
        """Rows (R,) of those that are new, and their places (R,) among the new ones."""
        place = self._place[members]
        rows = np.flatnonzero(place >= 0)
        return rows, place[rows]

    def personas(self) -> torch.Tensor:
        """(n, K, d)"""
        personas = self.loaded.model.personas(torch.as_tensor(self.ids).to(self.loaded.config["device"])).clone()
        rows, new = self._rows_of_new(np.arange(len(self.ids)))
        if len(rows):
            personas[torch.as_tensor(rows)] = self._new.personas[torch.as_tensor(new)]
        return personas

    def scores(self, members, seen=None):
        scores = super().scores(members, seen)
        rows, new = self._rows_of_new(members)
        if len(rows):
            scores[torch.as_tensor(rows)] = self._new.scores(new)
        return scores

    def predict(self, members, items):
        scores = super().predict(members, items)
        rows, new = self._rows_of_new(members)
        if len(rows):
            scores[torch.as_tensor(rows)] = self._new.predict(new, items[rows])
        return scores

    def history(self) -> np.ndarray:
        return self._new.history() if self._place[0] == 0 else super().history()

    def explain(self, members, items) -> Explanation:
        explanation = super().explain(members, items)
        rows, new = self._rows_of_new(members)
        if len(rows):
            own, places = self._new.explain(new, torch.as_tensor(items).cpu()[rows]), torch.as_tensor(rows)
            explanation.weights[places], explanation.parts[places] = own.weights, own.parts
        return explanation
