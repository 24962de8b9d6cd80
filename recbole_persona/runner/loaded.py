"""A finished run in memory: recommendations, reasons and scores, as often as they are asked for, from what was read once.

Ids are external ones, those of the files.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from recbole_persona.config import Config
from recbole_persona.data.latest_rows import LatestRows
from recbole_persona.data.titles import ItemTexts, item_texts
from recbole_persona.errors import UserError
from recbole_persona.evaluate.faithfulness import faithfulness
from recbole_persona.progress import progress
from recbole_persona.runner.export import export_vectors
from recbole_persona.runner.history_reasons import explains_by_history, history_reasons
from recbole_persona.runner.neighbour_reasons import explains_by_neighbours, neighbour_reasons
from recbole_persona.runner.people import find_people, internal_ids, items_to_explain
from recbole_persona.runner.persona_reasons import has_personas, persona_reasons
from recbole_persona.runner.ranking import batches, enough_beams, top_items


class _LoadedRun(NamedTuple):
    """What RecBole's ``load_data_and_model`` returns."""

    config: Config
    model: Any
    dataset: Any
    train_data: Any
    valid_data: Any
    test_data: Any


class Loaded(_LoadedRun):
    """A finished run in memory; as a tuple it is what RecBole's ``load_data_and_model`` returns.

    Its methods give what the functions and commands of their names give, and read no file of the data a second time.
    """

    @cached_property
    def interactions(self):
        """Sparse (n_users, n_items): who is known to have interacted with what, in any part of the split."""
        return self.dataset.inter_matrix(form="csr")

    @cached_property
    def latest(self) -> LatestRows:
        """What a sequential model reads of every user."""
        return LatestRows(self.dataset)

    @cached_property
    def _texts(self) -> dict:
        return {}

    def texts(self, title_field=None, class_field=None) -> ItemTexts:
        """Titles and classes of the items; the ``.item`` file is read once for each pair of columns that is named."""
        columns = title_field, class_field
        if columns not in self._texts:
            self._texts[columns] = item_texts(self.config, *columns)
        return self._texts[columns]

    def recommend(self, users=None, history=None, topk=10, **options) -> pd.DataFrame:
        """The best items for users, or for a new user.

        Args:
            users: external ids (str or int); all users with interactions if None.
            history: external item ids that a new user chose, in their order; instead of ``users``.
            topk: items for each user.
            options: as for :meth:`recommend_batches`.

        Returns:
            Columns ``user, rank, item, title, score``, best first within each user (``title`` when the data set has any),
            and for a model with personas ``persona``, the index of the one with the largest weight, and ``share``, its
            weight. A user with fewer unseen items than ``topk`` has fewer rows.

        Raises:
            UserError: an unknown user or item, an empty history, a model that cannot do it.
        """
        return pd.concat(self.recommend_batches(users, history, topk, **options), ignore_index=True)

    def recommend_batches(
        self, users=None, history=None, topk=10, *, mask_history=True, skip_unknown=False, title_field=None
    ):
        """:meth:`recommend` for one batch of users after the other: memory does not grow with their number.

        Args:
            mask_history: leave out every item that the user is known to have interacted with, in any part of the split.
            skip_unknown: leave items of ``history`` that the data set lacks out, in place of an error.
            title_field: column of the ``.item`` file with the titles, if its name is not a common one.
        """
        _check_topk(topk)
        people = find_people(self, users, history, skip_unknown)
        texts = self.texts(title_field)
        parts = batches(np.arange(len(people.labels)), self.dataset.item_num, self.config["eval_batch_size"])
        for members in progress(parts, desc="users", unit="batch", disable=len(parts) == 1):
            with enough_beams(self, topk):
                table = self._ranked(people, members, topk, mask_history, texts)
            yield table

    @torch.no_grad()
    def _ranked(self, people, members, topk, mask_history, texts) -> pd.DataFrame:
        """The table of :meth:`recommend` for some of the people."""
        seen = people.seen(members) if mask_history else None
        scores, items = top_items(people.scores(members, seen), seen, topk)
        row, rank = torch.nonzero(torch.isfinite(scores), as_tuple=True)
        chosen, row_of = items[row, rank], row.cpu().numpy()
        tokens = self.dataset.id2token(self.dataset.iid_field, chosen.cpu().numpy())
        table = pd.DataFrame(
            {
                "user": people.labels[members][row_of],
                "rank": rank.cpu().numpy() + 1,
                "item": tokens,
                "score": scores[row, rank].double().cpu().numpy(),
            }
        )
        if len(texts.titles):
            table.insert(3, "title", texts.titles.reindex(tokens).fillna("").to_numpy())
        if has_personas(self.model):
            share, persona = people.explain(members[row_of], chosen).weights.max(dim=1)
            table["persona"], table["share"] = persona.cpu().numpy(), share.double().cpu().numpy()
        return table

    @torch.no_grad()
    def explain(
        self,
        user=None,
        topk=10,
        items=None,
        *,
        history=None,
        skip_unknown=False,
        title_field=None,
        class_field=None,
    ) -> list[dict]:
        """Why a user gets what they get: the personas behind each recommendation, and the history behind each persona.

        A sequential model that explains (UserEncoder, DIN) has no personas: the history speaks for itself. PeaPOD listens to
        similar users.

        Args:
            user: external user id.
            topk: how many of the best unseen items to explain.
            items: external item ids to explain, in place of the best.
            history: external item ids that a new user chose, in place of ``user``.
            skip_unknown, title_field: as for :meth:`recommend_batches`.
            class_field: column of the ``.item`` file with genres or categories, if its name is not a common one.

        Returns:
            A dict for each recommendation:

            - ``user, rank, item, title, score``: the rank is that among the unseen items;
            - ``persona, name, share``: index, name and weight of the persona with the largest weight;
            - ``personas``: ``{persona, name, weight, history}`` of every one; the weights made the score and sum to one;
              ``history`` counts the training interactions for which the persona has the largest weight;
            - ``because``: the training interactions that the persona attends to most, ``{item, title, weight}``;
            - ``verb``: what the user did with them (``watched``, ``read``, ``chose``).

            Of a sequential model: ``user, rank, item, title, score, verb``;

            - ``because``: the items of the history that carry the most, ``{item, title, weight}``, as far as above 0;
            - ``history``: all that the model read, the oldest first;
            - ``normalised``: whether the weights sum to one; what they are is said by the model's ``explain``.

            Of PeaPOD: ``user, rank, item, title, score, verb``;

            - ``neighbours``: whom the model listens to, the most heard first, for every item alike: ``user``, ``weight`` (the
              mean over the heads; these sum to one), ``heads`` (the weight in each head), ``shared`` (how many items the user
              has in common with them) and ``chose``, some of their training items, ``{item, title}``, those in common first;
            - ``because``: those of them who chose this item; ``share``: their weight.

        Raises:
            UserError: an unknown user or item, or a model that does not explain.
        """
        _check_topk(topk)
        reasons = self._reasons()
        people = self._one_person(user, history, skip_unknown)
        texts = self.texts(title_field, class_field)
        with enough_beams(self, topk):
            chosen, heads = items_to_explain(self, people, topk, items, texts)
            return reasons(self, people, chosen, heads, texts) if len(chosen) else []

    def check_explanations(self, user, items, *, history=None, skip_unknown=False) -> pd.DataFrame:
        """:func:`recbole_persona.evaluate.faithfulness.faithfulness` of the explanations of some items for one user.

        Args:
            user, history, skip_unknown: as for :meth:`explain`.
            items: external item ids.

        Raises:
            UserError: as for :meth:`explain`; personas that were learned from a history.
        """
        self._reasons()
        people = self._one_person(user, history, skip_unknown)
        if people.folded:
            raise UserError(
                "The personas of this user were learned from the history, after training; faithfulness is measured for "
                "users that the model was trained on."
            )
        ids = internal_ids(self.dataset, self.dataset.iid_field, items, "item")
        pairs = people.pairs(np.zeros_like(ids), ids)
        return faithfulness(self.model, pairs, top=min(3, self.model.n_personas) if has_personas(self.model) else 3)

    @torch.no_grad()
    def score(self, users=None, items=None, *, history=None, skip_unknown=False) -> pd.DataFrame:
        """The model's scores of users and items, seen or not.

        Args:
            users, items: external ids (str or int), side by side; one user goes with all the items, one item with all the
                users.
            history: external item ids that a new user chose, in their order; instead of ``users``.
            skip_unknown: as for :meth:`recommend_batches`.

        Returns:
            Columns ``user, item, score``, in the order in which the pairs are named.

        Raises:
            UserError: an unknown user or item, lists of different lengths, a model that cannot do it.
        """
        if items is None or (users is None) == (history is None):
            raise UserError("Name items to score, and users or a history.")
        items = internal_ids(self.dataset, self.dataset.iid_field, _list(items), "item")
        people = find_people(self, None if users is None else list(dict.fromkeys(_list(users))), history, skip_unknown)
        named = [str(user) for user in (people.labels if users is None else _list(users))]
        if len(named) != len(items) and 1 not in (len(named), len(items)):
            raise UserError(
                f"{len(named)} users and {len(items)} items are named; write them side by side, or one of either."
            )
        place = pd.Index(people.labels.astype(str)).get_indexer(named)  # -1 for whom there is nothing to go by
        members, items = np.broadcast_arrays(place, items)
        members, items = members[members >= 0], items[members >= 0]
        step = self.config["eval_batch_size"]
        parts = [slice(start, start + step) for start in range(0, len(items), step)]
        scores = [people.predict(members[part], items[part]).double().cpu().numpy() for part in parts]
        tokens = self.dataset.id2token(self.dataset.iid_field, items)
        return pd.DataFrame({"user": people.labels[members], "item": tokens, "score": np.concatenate(scores)})

    def export(self, out, form="npz") -> list[Path]:
        """Write the vectors of users, items and personas into a new folder: :func:`recbole_persona.runner.export.export_vectors`.

        Args:
            out: a folder that does not exist or is empty.
            form: ``npz`` or ``parquet``.

        Returns:
            The files.

        Raises:
            UserError: a model without vectors, a folder with files, pyarrow is missing.
        """
        return export_vectors(self, out, form)

    def _one_person(self, user, history, skip_unknown):
        if (user is None) == (history is None):
            raise UserError("Name one user to explain for, or a history.")
        if user is not None and not np.isscalar(user):
            raise UserError(f"One user is explained at a time, and user is {user!r}; call explain for each.")
        return find_people(self, None if user is None else [user], history, skip_unknown)

    def _reasons(self):
        """The function that makes the reasons of this model."""
        if explains_by_neighbours(self):
            return neighbour_reasons
        if explains_by_history(self):
            return history_reasons
        if has_personas(self.model):
            return persona_reasons
        raise UserError(
            f"{self.config['model']} has no personas to explain with; a run of AMPCF has, "
            "runs of UserEncoder and DIN explain with the history, and those of PeaPOD with similar users."
        )


def _list(ids):
    return [ids] if np.isscalar(ids) else ids


def _check_topk(topk):
    if not isinstance(topk, (int, np.integer)) or topk < 1:
        raise UserError(f"topk is a number of items, 1 or more, not {topk!r}.")
