"""What the ids of a .user or .item file leave out: counted, and named in the log."""

from logging import getLogger

import numpy as np
from recbole.data.dataset import Dataset
from recbole.utils import FeatureSource

from recbole_persona.upstream.repair import around


def install() -> None:
    """Rows without an id leave before RecBole, which counts them once and drops by a wrong index, meets them."""

    @around(Dataset, "_load_feat")
    def _load_feat(upstream, self, filepath, source):
        frame = upstream(self, filepath, source)
        field = {FeatureSource.USER: self.uid_field, FeatureSource.ITEM: self.iid_field}.get(source)
        if frame is None or field not in frame:
            return frame
        for rows, what in ((frame[field].isna(), f"have no {field}"), (_repeated(frame[field]), f"repeat a {field}")):
            if rows.any():
                places = _some(str(row + 1) for row in frame.index[rows])
                getLogger().warning(
                    "%s: %d rows %s and are left out (rows %s after the header).", filepath, rows.sum(), what, places
                )
        return frame[frame[field].notna()].copy()


def tell_of_unknown(dataset) -> None:
    """Log how many ids the interactions have and a .user or .item file lacks."""
    for kind, field in (("user", dataset.uid_field), ("item", dataset.iid_field)):
        table = getattr(dataset, f"{kind}_feat")
        if table is None:
            continue
        rows = dataset.inter_feat[field]
        met, listed = rows.unique(), set(table[field])
        if lacking := [name for name in met if name not in listed]:
            left = int(rows.isin(lacking).sum())
            leave = dataset.config["filter_inter_by_user_or_item"] is True and not dataset.config["benchmark_filename"]
            getLogger().warning(
                "The .%s file lacks %d of the %d ids in %s of the interactions (%s); their %d interactions are %s.",
                kind, len(lacking), len(met), field, _some(lacking), left,
                "left out (filter_inter_by_user_or_item)" if leave else "kept, and features filled in",
            )  # fmt: skip


def tell_of_idle(dataset) -> None:
    """Log how many users and candidate items have no interaction after the filters, as those of ``.item`` alone."""
    frame = dataset.inter_feat
    lists = dataset.iid_field + dataset.config["LIST_SUFFIX"]
    ready = frame[lists] if lists in frame else ()
    for kind, field, more in (("users", dataset.uid_field, ()), ("candidate items", dataset.iid_field, ready)):
        idle = np.ones(dataset.num(field), dtype=bool)
        idle[np.concatenate([[0], frame[field].to_numpy(), *more])] = False  # 0 is padding
        if idle.any():
            names = _some(dataset.id2token(field, np.flatnonzero(idle)))
            getLogger().info("%d of the %d %s have no interaction (%s).", idle.sum(), len(idle) - 1, kind, names)


def _repeated(ids):
    return ids.duplicated() & ids.notna()


def _some(names) -> str:
    names = list(map(str, names))
    return ", ".join(names[:5]) + ", …" * (len(names) > 5)
