"""Users who are held out entirely: nothing of them trains or selects a model, and they alone are tested.

Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018 (strong generalization).
"""

import importlib

import numpy as np

from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around


def hold_out(parts, share, seed):
    """Parts of a data set with some users held out, in place.

    Of the users that have a test, ``share`` are drawn: their rows leave training and validation, all others' the test. A
    sequential model still reads a drawn user's history in the row that it is tested on.

    Args:
        parts: training, validation and test.
        share: of the users, above 0 and below 1; at least one user is drawn.
        seed: of the draw, ``split_seed``.

    Raises:
        UserError: a share that is none, or that leaves nobody to train on.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise UserError(f"held_out_users is a share of the users above 0 and below 1, such as 0.1, not {share!r}.")
    *_, test = parts
    tested = np.unique(test.inter_feat[test.uid_field].numpy())
    drawn = np.random.default_rng(seed).choice(
        tested, min(len(tested), max(1, round(share * len(tested)))), replace=False
    )
    for part in parts:
        is_drawn = np.isin(part.inter_feat[part.uid_field].numpy(), drawn)
        part.inter_feat = part.inter_feat[np.flatnonzero(is_drawn == (part is test))]


def install() -> None:
    """Every data set, RecBole's own too, knows the key ``held_out_users``."""
    Dataset = importlib.import_module("recbole.data.dataset.dataset").Dataset

    @around(Dataset, "build")
    def build(upstream, self):
        parts = upstream(self)
        share = self.config["held_out_users"]  # RecBole's own Config does not know the key
        if share is not None:
            hold_out(parts, share, self.config["split_seed"])
        return parts
