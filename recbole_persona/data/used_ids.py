"""The items that a user must not get as negatives, as one sorted array.

RecBole keeps a Python set for every user and phase, and asks them row by row whether a drawn item is one of theirs. Here the
pairs of all phases are one array of numbers, eight bytes a pair; what is drawn, and how often, stays the same.
"""

import importlib
from functools import cached_property

import numpy as np
import torch

from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around


class UsedIds:
    """RecBole's ``used_ids``: an array (n_keys,) of sets, which are made when they are asked for.

    Args:
        pairs: sorted distinct numbers ``(key * n_values + value) * n_phases + phase``; the first of a key and a value counts.
        shape: ``(n_keys, n_values, n_phases)``.
        phase: how far the sets go: a value belongs to a key that met it in this phase or before.
    """

    def __init__(self, pairs, shape, phase=0):
        self.pairs, self.phase = pairs, phase
        self.n_keys, self.n_values, self.n_phases = shape

    @classmethod
    def by_phase(cls, keys, values, n_keys, n_values) -> list["UsedIds"]:
        """One for every phase, which share their pairs.

        Args:
            keys, values: for every phase an array (R,).
        """
        shape = n_keys, n_values, len(keys)
        ends = np.cumsum([len(part) for part in keys])
        pairs = np.empty(ends[-1], dtype=np.int64)
        for phase, end in enumerate(ends):
            part = pairs[end - len(keys[phase]) : end]
            np.multiply(keys[phase], n_values, out=part)
            part += values[phase]
            part *= len(keys)
            part += phase
        pairs.sort()
        first = np.ones(len(pairs), dtype=bool)
        met = pairs // len(keys)
        np.not_equal(met[1:], met[:-1], out=first[1:])
        pairs = pairs[first]
        return [cls(pairs, shape, phase) for phase in range(len(keys))]

    def holds(self, keys, values) -> np.ndarray:
        """(B,) whether each of the values (B,) is one of its key's (B,).

        Raises:
            IndexError: a key that is none, as of an array.
        """
        if len(keys) and not 0 <= keys.min() <= keys.max() < self.n_keys:
            raise IndexError(f"a key is not in 0 .. {self.n_keys - 1}")
        first = (keys * self.n_values + values) * self.n_phases
        place = np.searchsorted(self.pairs, first)
        found = (
            np.append(self.pairs, np.iinfo(np.int64).max)[place]
            if (place == len(self.pairs)).any()
            else self.pairs[place]
        )
        return found - first <= self.phase

    def counts(self) -> np.ndarray:
        """(n_keys,) number of values of every key."""
        keys = self.pairs[self.pairs % self.n_phases <= self.phase] // (self.n_values * self.n_phases)
        return np.bincount(keys, minlength=self.n_keys)

    @cached_property
    def full(self) -> np.ndarray:
        """(n_keys,) whether a key has met every value but the padding in some phase."""
        met = np.bincount(self.pairs // (self.n_values * self.n_phases), minlength=self.n_keys)
        return met + 1 == self.n_values

    def __len__(self):
        return self.n_keys

    def __getitem__(self, index):
        if not isinstance(index, (int, np.integer)):
            return self._sets[index]
        key = range(self.n_keys)[index]
        start, end = np.searchsorted(self.pairs, np.array([key, key + 1]) * (self.n_values * self.n_phases))
        return self._set(self.pairs[start:end])

    def __iter__(self):
        return iter(self._sets)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._sets, dtype=dtype)

    def _set(self, pairs):
        return set((pairs[pairs % self.n_phases <= self.phase] // self.n_phases % self.n_values).tolist())

    @cached_property
    def _sets(self):
        starts = np.searchsorted(self.pairs, np.arange(1, self.n_keys) * (self.n_values * self.n_phases))
        return np.array([self._set(part) for part in np.split(self.pairs, starts)])


def _check_left(sampler, keys):
    """Refuse to draw for a user who has interacted with every item: each negative would be a positive of some phase."""
    used = sampler.used_ids
    if not isinstance(sampler, importlib.import_module("recbole.sampler.sampler").Sampler) or not used.full.any():
        return
    full = keys[used.full[keys]]
    if len(full):
        dataset = sampler.datasets[0]
        user = str(dataset.id2token(dataset.uid_field, int(full[0])))
        raise UserError(
            f"No item is left to be a negative for user {user!r}, who has interacted with all {used.n_values - 1} items; "
            "leave such users out with user_inter_num_interval."
        )


def install() -> None:
    """RecBole's samplers keep their used ids so."""
    module = importlib.import_module("recbole.sampler.sampler")

    @around(module.Sampler, "get_used_ids")
    def get_used_ids(upstream, self):
        feats = [dataset.inter_feat for dataset in self.datasets]
        users, items = ([feat[field].numpy() for feat in feats] for field in (self.uid_field, self.iid_field))
        used = UsedIds.by_phase(users, items, self.user_num, self.item_num)
        return dict(zip(self.phases, used))  # RecBole refuses a user with all items here, also where nothing is drawn

    @around(module.KGSampler, "get_used_ids")
    def get_used_entities(upstream, self):
        heads, tails = np.asarray(self.hid_list), np.asarray(self.tid_list)
        (used,) = UsedIds.by_phase([heads], [tails], self.entity_num, self.entity_num)
        return upstream(self) if (used.counts() + 1 == self.entity_num).any() else used

    @around(module.AbstractSampler, "sample_by_key_ids")
    def sample_by_key_ids(upstream, self, key_ids, num):
        if not isinstance(self.used_ids, UsedIds) or not len(key_ids):
            return upstream(self, key_ids, num)
        _check_left(self, np.asarray(key_ids))
        keys = np.tile(np.array(key_ids), num)
        values = np.zeros(len(keys), dtype=np.int64)
        left = np.arange(len(keys))
        while len(left) > 0:
            values[left] = self.sampling(len(left))
            left = left[self.used_ids.holds(keys[left], values[left])]
        return torch.from_numpy(values)
