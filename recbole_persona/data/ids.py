"""What the ids of a .user or .item file leave out: counted, and named in the log."""

from logging import getLogger

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
    """Log how many ids the interactions have and a .user or .item file lacks, and the reverse."""
    for kind, field in (("user", dataset.uid_field), ("item", dataset.iid_field)):
        table = getattr(dataset, f"{kind}_feat")
        if table is None:
            continue
        ids, rows = table[field].unique(), dataset.inter_feat[field]
        met = rows.unique()
        listed, known = set(ids), set(met)
        if lacking := [name for name in met if name not in listed]:
            left = int(rows.isin(lacking).sum())
            leave = dataset.config["filter_inter_by_user_or_item"] is True and not dataset.config["benchmark_filename"]
            getLogger().warning(
                "The .%s file lacks %d of the %d ids in %s of the interactions (%s); their %d interactions are %s.",
                kind, len(lacking), len(met), field, _some(lacking), left,
                "left out (filter_inter_by_user_or_item)" if leave else "kept, and features filled in",
            )  # fmt: skip
        if idle := [name for name in ids if name not in known]:
            getLogger().info(
                "The .%s file has %d ids in %s without an interaction (%s).", kind, len(idle), field, _some(idle)
            )


def _repeated(ids):
    return ids.duplicated() & ids.notna()


def _some(names) -> str:
    names = list(map(str, names))
    return ", ".join(names[:5]) + ", …" * (len(names) > 5)
