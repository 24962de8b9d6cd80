"""Ranking of all items, with what a user has seen among the candidates or not."""

from functools import cached_property
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType, get_model

from recbole_persona.data.ordering import distinct
from recbole_persona.evaluate.protocols import masks_seen
from recbole_persona.evaluate.seen import before_targets, seen_column, up_to_phase, windows_of

SCORES = 2**26  # that a batch of a sequential model holds at most, 256 MiB in single precision
SCORES_PER_STEP = 2**22  # users x items where eval_batch_size is not set, 16 MiB in single precision: more gain nothing
PAIRS_PER_STEP = 2**16  # the same for a model that computes vectors, and not only a score, for every user and item
_COMPUTES_PAIRS = ("KGCN", "KGNNLS", "RippleNet")  # in full_sort_predict


class FullSortLoader(FullSortEvalDataLoader):
    """RecBole's loader of full ranking; ``mask_history`` says whether seen items are out of the running.

    - General models, one case per user: seen is what the user interacted with in this part and those before it, the
      targets left out. Masked by default.
    - Sequential models, one case per row: seen is what the user interacted with before the row's target, however long ago
      and in whatever part, the target left out. Not masked by default.

    A batch is what RecBole's is, ``(rows, seen or None, positive_u, positive_i)``, made without a loop over users.

    ``eval_batch_size`` counts scores of a general model, and rows of a sequential one, of which a batch has fewer where
    they would have more than ``SCORES``. Where the user does not set it, a batch of a general model holds
    ``SCORES_PER_STEP``, and one of a model of either kind that scores pairs ``PAIRS_PER_STEP``.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.logger = getLogger()
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self.masks = masks_seen(config)
        self.model_class = getattr(config, "model_class", None) or get_model(config["model"])
        if self.is_sequential:
            self.seen = before_targets(dataset) if self.masks else None
            self.sample_size = len(dataset)
        else:
            dataset.sort(by=self.uid_field, ascending=True)
            self._index_users(dataset, sampler)
        super(FullSortEvalDataLoader, self).__init__(config, dataset, sampler)  # RecBole's own indexes user by user

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        n_items, sized = self._dataset.item_num, self.config.sizes_eval_steps
        pairs = sized and self._scores_pairs()
        if self.is_sequential:
            self.step = min(self.step, max(1, (PAIRS_PER_STEP if pairs else SCORES) // n_items))
        elif sized:
            self.step = max(self.step, (PAIRS_PER_STEP if pairs else SCORES_PER_STEP) // n_items)
        self.set_batch_size(self.step)

    def _scores_pairs(self) -> bool:
        """Whether a batch becomes all its pairs of a row and an item, with whatever the model computes of each."""
        ranks = self.model_class.full_sort_predict is not AbstractRecommender.full_sort_predict
        return not ranks or self.model_class.__name__ in _COMPUTES_PAIRS

    def _index_users(self, dataset, sampler):
        """``targets`` and ``seen`` of every user of the part."""
        n_items = dataset.item_num
        users = distinct(dataset.inter_feat[self.uid_field].numpy())
        place = np.full(dataset.user_num, -1)
        place[users] = np.arange(len(users))

        def pairs(feat_users, feat_items):
            cases = place[feat_users.numpy()]
            here = cases >= 0
            return distinct(cases[here] * n_items + feat_items.numpy()[here])

        def windows(keys):
            return windows_of(*(torch.from_numpy(part) for part in np.divmod(keys, n_items)), len(users))

        targets = pairs(dataset.inter_feat[self.uid_field], dataset.inter_feat[self.iid_field])
        seen = np.setdiff1d(pairs(*up_to_phase(sampler)), targets, True) if self.masks else targets[:0]
        self.targets, self.seen = windows(targets), windows(seen)
        self.uid_list, self.sample_size = torch.from_numpy(users), len(users)
        self.user_df = dataset.join(Interaction({self.uid_field: self.uid_list}))

    @cached_property
    def uid2positive_item(self) -> np.ndarray:
        """(n_users,) tensors of targets, None for users who are not in this part."""
        return self._by_user(self.targets)

    @cached_property
    def uid2history_item(self) -> np.ndarray:
        """(n_users,) tensors of what is masked, for RecBole's ``case_study``, which asks for any user.

        Of a user who is not in this part it is all that the user interacted with up to it.
        """
        found = self._by_user(self.seen)
        users, items = up_to_phase(self._sampler) if self.masks else (self.uid_list[:0], self.uid_list[:0])
        absent = torch.tensor([windows is None for windows in found])[users]
        order = users[absent].argsort(stable=True)
        users, counts = users[absent][order].unique_consecutive(return_counts=True)
        for user, seen in zip(users.tolist(), items[absent][order].split(counts.tolist())):
            found[user] = seen
        for user, seen in enumerate(found):
            if seen is None:
                found[user] = self.uid_list[:0]
        return found

    def _by_user(self, windows):
        found = np.full(self._dataset.user_num, None)
        for user, start, end in zip(self.uid_list.tolist(), windows.starts.tolist(), windows.ends.tolist()):
            found[user] = windows.items[start:end]
        return found

    def collate_fn(self, index):
        """A batch of some cases: (B,) numbers -> ``(Interaction, (places, items) or None, positive_u, positive_i)``."""
        if self.is_sequential:
            rows, _, positive_u, positive_i = super().collate_fn(index)
            if self.seen is None:
                return rows, None, positive_u, positive_i
            place, item = self.seen.of(torch.as_tensor(index))
            other = item != positive_i[place]
            seen = place[other], item[other]
            if getattr(self.model_class, "reads_seen", False):
                rows.update(seen_column(*seen, len(rows)))
            return rows, seen, positive_u, positive_i
        index = torch.as_tensor(index)
        return self.user_df[index], self.seen.of(index) if self.masks else None, *self.targets.of(index)
