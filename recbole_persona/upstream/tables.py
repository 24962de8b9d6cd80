"""Repairs of what RecBole asks of pandas."""

import builtins
import importlib
import warnings

import numpy as np
import pandas as pd
import torch

from recbole_persona.upstream.repair import around, repair, seen_as


@repair("data/dataset/dataset.py:648", "missing values stay missing: pandas 3 fills a copy of the column")
def missing_values_are_filled():
    from recbole.utils import FeatureType

    Dataset = importlib.import_module("recbole.data.dataset").Dataset

    @around(Dataset, "_fill_nan")
    def _fill_nan(upstream, self):
        for feat in (getattr(self, name) for name in self.feat_name_list):
            for field in feat:
                if self.field2type[field] is FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif self.field2type[field] is FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
        upstream(self)  # for the sequences

    hush("A value is (trying to be|being) set on a copy")


@repair("data/dataset/dataset.py:501", "an empty sequence in a file ends the loading: pandas 3 fills a copy")
def empty_sequences_are_read():
    module = importlib.import_module("recbole.data.dataset.dataset")

    def read_csv(*args, **kwargs):
        frame = pd.read_csv(*args, **kwargs)
        sequences = [column for column in frame if column.endswith("_seq")]  # as in the header: name:type
        return frame.fillna(dict.fromkeys(sequences, ""))

    module.pd = seen_as(pd, read_csv=read_csv)


@repair("data/dataset/dataset.py:1217", "Series.agg(len) is one length in pandas 3, and was one per row")
def lengths_by_row():
    def len(value):
        return value.map(builtins.len) if isinstance(value, pd.Series) else builtins.len(value)

    importlib.import_module("recbole.data.dataset.dataset").len = len
    hush("using <.*> in Series.agg cannot aggregate")


@repair("data/dataset/dataset.py:697", "normalising sequences of one value ends in a TypeError; they become zeros")
def constant_sequences_are_normalised():
    from recbole.utils import FeatureType

    Dataset = importlib.import_module("recbole.data.dataset").Dataset

    @around(Dataset, "_normalize")
    def _normalize(upstream, self):
        named = self.config["normalize_field"]
        fields = named or (self.float_like_fields if self.config["normalize_all"] else ())
        sequences = [field for field in fields if self.field2type.get(field) == FeatureType.FLOAT_SEQ]
        constant = []
        for field in sequences:
            for feat in self.field2feats(field):
                values = np.concatenate(feat[field].to_list())
                if len(values) == 0 or values.min() == values.max():
                    feat[field] = feat[field].map(np.zeros_like)
                    constant.append(field)
        if not constant:
            return upstream(self)
        left = [field for field in fields if field not in constant]
        everything = self.config["normalize_all"]
        self.config["normalize_field"], self.config["normalize_all"] = left, None
        if left:
            upstream(self)
        self.config["normalize_field"], self.config["normalize_all"] = named, everything


@repair("data/interaction.py:349", "sorting downwards ends in a ValueError: torch takes no array that runs backwards")
def sorting_downwards():
    module = importlib.import_module("recbole.data.interaction")
    module.torch = seen_as(torch, tensor=lambda array: torch.from_numpy(np.ascontiguousarray(array)))


def hush(message: str) -> None:
    """No warning of this kind about RecBole's tables: the fault it tells of is mended."""
    warnings.filterwarnings("ignore", message, Warning, module=r"recbole\.data\.dataset")
