"""Histories that come with the data (``benchmark_filename``): as wide as any other, their newest items kept."""

import copy
import importlib

from recbole_persona.upstream.repair import around


def install() -> None:
    """Sequential data sets read and pad ready-made lists by these rules from now on."""
    SequentialDataset = importlib.import_module("recbole.data.dataset").SequentialDataset

    @around(SequentialDataset, "_load_feat")
    def _load_feat(upstream, self, filepath, source):
        """``seq_len`` cuts a history to its newest values; RecBole keeps the oldest."""
        lengths, suffix = self.config["seq_len"] or {}, self.config["LIST_SUFFIX"]
        histories = {field: length for field, length in lengths.items() if field.endswith(suffix)}
        if not self.config["benchmark_filename"] or not histories:
            return upstream(self, filepath, source)
        config, self.config = self.config, copy.copy(self.config)
        self.config.final_config_dict = {
            **config.final_config_dict,
            "seq_len": {field: length for field, length in lengths.items() if field not in histories},
        }
        try:
            frame = upstream(self, filepath, source)
        finally:
            self.config = config
        for field in histories.keys() & set(frame if frame is not None else ()):
            frame[field] = [values[-histories[field] :] for values in frame[field]]
        return frame

    @around(SequentialDataset, "_dataframe_to_interaction")
    def _dataframe_to_interaction(upstream, self, data):
        """RecBole pads to the longest list there is, and cuts to the longest of the file that was read last."""
        suffix, longest = self.config["LIST_SUFFIX"], self.config["MAX_ITEM_LIST_LENGTH"]
        if not self.config["benchmark_filename"] or self.iid_field + suffix not in data:
            return upstream(self, data)
        lists = [field for field in data if field.endswith(suffix) and field.removesuffix(suffix) in data]
        self.field2seqlen.update(dict.fromkeys(lists, longest))
        rows = upstream(self, data)
        for field in lists:
            short = rows[field]  # (N, L) or (N, L, ...)
            wide = short.new_zeros(len(short), longest, *short.shape[2:])
            wide[:, : short.shape[1]] = short
            rows.interaction[field] = wide
        return rows
