"""Ranking of all items, with what a user has seen among the candidates or not."""

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_persona.evaluate.protocols import masks_seen
from recbole_persona.evaluate.seen import before_targets, up_to_phase, windows_of


class FullSortLoader(FullSortEvalDataLoader):
    """RecBole's loader of full ranking; ``mask_history`` says whether seen items are out of the running.

    - General models, one case per user: seen is what the user interacted with in this part and those before it, the
      targets left out. Masked by default.
    - Sequential models, one case per row: seen is what the user interacted with before the row's target, however long ago
      and in whatever part, the target left out. Not masked by default.

    A batch is what RecBole's is, ``(rows, seen or None, positive_u, positive_i)``, made without a loop over users.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        self.masks = masks_seen(config)
        if self.is_sequential:
            self.seen = before_targets(dataset) if self.masks else None
        else:
            self._index_users(dataset, sampler)

    def _index_users(self, dataset, sampler):
        """The same for every user of the part: ``targets`` and ``seen``, and RecBole's own arrays made of them."""
        users, n_items = self.uid_list.numpy(), dataset.item_num

        def pairs(feat_users, feat_items):
            feat_users, feat_items = feat_users.numpy(), feat_items.numpy()
            here = np.isin(feat_users, users)
            return np.unique(np.searchsorted(users, feat_users[here]) * n_items + feat_items[here])

        def windows(keys):
            return windows_of(*(torch.from_numpy(part) for part in np.divmod(keys, n_items)), len(users))

        targets = pairs(dataset.inter_feat[self.uid_field], dataset.inter_feat[self.iid_field])
        seen = np.setdiff1d(pairs(*up_to_phase(sampler)), targets) if self.masks else np.empty(0, dtype=np.int64)
        self.targets, self.seen = windows(targets), windows(seen)
        for user, start, end in zip(users, self.seen.starts, self.seen.ends):
            self.uid2history_item[user] = self.seen.items[start:end]  # RecBole's case_study reads it

    def collate_fn(self, index):
        """A batch of some cases: (B,) numbers -> ``(Interaction, (places, items) or None, positive_u, positive_i)``."""
        if self.is_sequential:
            rows, _, positive_u, positive_i = super().collate_fn(index)
            if self.seen is None:
                return rows, None, positive_u, positive_i
            place, item = self.seen.of(torch.as_tensor(index))
            other = item != positive_i[place]
            return rows, (place[other], item[other]), positive_u, positive_i
        index = torch.as_tensor(index)
        return self.user_df[index], self.seen.of(index) if self.masks else None, *self.targets.of(index)
