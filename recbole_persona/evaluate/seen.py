"""What users have interacted with, as windows into one array: nothing here loops over users."""

from typing import NamedTuple

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_persona.data.histories import END, SEEN, HistoryRows
from recbole_persona.errors import UserError
from recbole_persona.lm.ragged import Ragged

PHASES = ("train", "valid", "test")


class Windows(NamedTuple):
    """Items of N cases: those of case n are ``items[starts[n] : ends[n]]``.

    Attributes:
        items: (R,) tensor.
        starts, ends: (N,) int64 tensors.
    """

    items: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor

    def of(self, cases):
        """``(place, item)``, both (H,): the items of some cases, and at which place in ``cases`` (B,) the case stands."""
        starts = self.starts[cases]
        counts = self.ends[cases] - starts
        place = torch.repeat_interleave(torch.arange(len(counts)), counts)
        first = starts - (counts.cumsum(0) - counts)
        return place, self.items[first[place] + torch.arange(len(place))]


def windows_of(cases, items, number) -> Windows:
    """Windows over pairs (R,) of a case and an item, the pairs sorted by case; ``number`` of cases."""
    ends = torch.bincount(cases, minlength=number).cumsum(0)
    return Windows(items, torch.cat([ends.new_zeros(1), ends[:-1]]), ends)


def before_targets(dataset) -> Windows:
    """For every row of a sequential data set all that its user did before its target, however long ago.

    Where the rows came with ready-made lists, the list of each row is all that is known.
    """
    rows = dataset.inter_feat
    if isinstance(rows, HistoryRows):
        flat = rows.histories.flat
        starts = torch.searchsorted(flat[dataset.uid_field], rows[dataset.uid_field])  # it is sorted by user
        return Windows(flat[dataset.iid_field], starts, rows[END])
    lists = rows[dataset.iid_field + dataset.config["LIST_SUFFIX"]]  # (N, L)
    starts = torch.arange(len(lists)) * lists.shape[1]
    return Windows(lists.reshape(-1), starts, starts + rows[dataset.item_list_length_field])


def up_to_targets(dataset, users) -> tuple[torch.Tensor, torch.Tensor]:
    """What users had done when their targets in a part of a sequential data set were met, the targets included.

    Args:
        users: (N,) for every row of the part the number of its user, from 0.

    Returns:
        ``(users, items)``, both (R,); pairs may occur more than once.
    """
    before = before_targets(dataset)
    rows = torch.arange(len(users))
    if isinstance(dataset.inter_feat, HistoryRows):  # what stands in front of a user's last target holds all the rest
        rows = torch.from_numpy(np.lexsort((before.ends.numpy(), users.numpy())))
        last = torch.ones(len(rows), dtype=torch.bool)
        last[:-1] = users[rows[1:]] != users[rows[:-1]]
        rows = rows[last]
    place, items = before.of(rows)
    return torch.cat([users[rows][place], users]), torch.cat([items, dataset.inter_feat[dataset.iid_field]])


def up_to_phase(sampler) -> tuple[torch.Tensor, torch.Tensor]:
    """Users and items (R,) of all interactions in the sampler's phase and those before it, for general models."""
    parts = parts_of(sampler)[: PHASES.index(sampler.phase) + 1]
    return tuple(
        torch.cat([part.inter_feat[field] for part in parts]) for field in (parts[0].uid_field, parts[0].iid_field)
    )


def seen_column(places, items, n_rows) -> Interaction:
    """The column that a model with ``reads_seen`` looks at, which is no better off for items that are taken out later.

    Args:
        places: (H,), at which of the rows each of ``items`` (H,) was seen.
    """
    order = places.argsort(stable=True)
    ends = places.bincount(minlength=n_rows).cumsum(0)
    return Interaction({SEEN: Ragged(items[order], torch.cat([ends.new_zeros(1), ends])).padded()[0]})


def parts_of(sampler) -> list:
    """The data sets of training, validation and test; UserError where a loader was made without them."""
    parts = getattr(sampler, "parts", None) or getattr(sampler, "datasets", None)
    if not parts:
        raise UserError("The sampler of an evaluation loader must come from RecBole's create_samplers.")
    return parts


def training_popularity(sampler) -> np.ndarray:
    """(n_items,) number of training interactions of every item, those of users' first items in sequential data too."""
    return np.asarray(parts_of(sampler)[0].inter_matrix(form="csr").sum(axis=0)).ravel()
