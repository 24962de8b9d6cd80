"""Atomic files are read by pandas' C parser, faster than by the Python one, once every line is seen to be a row."""

import importlib
import os

from recbole_persona.data.lines import rows_of
from recbole_persona.data.texts import id_columns
from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around, seen_as


def install() -> None:
    """RecBole asks for the Python parser, which only a separator of several characters needs."""
    module = importlib.import_module("recbole.data.dataset.dataset")
    pandas = module.pd
    ids = set()

    @around(module.Dataset, "_load_feat")
    def _load_feat(upstream, self, filepath, source):
        nonlocal ids
        ids = id_columns(self.config)  # which read_csv is not told
        return upstream(self, filepath, source)

    def read_csv(path, *, delimiter, engine, **kwargs):
        if not isinstance(path, (str, os.PathLike)):  # a file with texts, whose lines are looked at as they are made
            return parsed(path, delimiter, engine, **kwargs)
        rows = rows_of(path, delimiter, kwargs.get("encoding"), kwargs.get("usecols"), ids)
        frame = parsed(path, delimiter, engine, **kwargs)
        if len(frame) != rows:
            raise UserError(f"{path} has {rows} lines after its header, and pandas reads {len(frame)} rows.")
        return frame

    def parsed(path, delimiter, engine, **kwargs):
        if len(delimiter.encode()) > 1:
            return pandas.read_csv(path, delimiter=delimiter, engine=engine, **kwargs)
        # in one piece (a column is of one kind throughout), and numbers as Python reads them
        return pandas.read_csv(
            path, delimiter=delimiter, engine="c", low_memory=False, float_precision="round_trip", **kwargs
        )

    module.pd = seen_as(pandas, read_csv=read_csv)
