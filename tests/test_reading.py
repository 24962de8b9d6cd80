"""Atomic files read by the C parser hold what RecBole's own reader finds in them."""

import importlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_tiny

module = importlib.import_module("recbole.data.dataset.dataset")

CELL = st.text(
    st.characters(codec="utf-8", exclude_characters="\t\n\r\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=6
)
NUMBER = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(0, 2**40).map(str),
    st.sampled_from(["", "nan", "1e5", "0.1", "881250949", "-0.0"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELL.map(lambda text: text.replace('"', "")), NUMBER), min_size=1, max_size=12))
def test_both_parsers_read_the_same(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "cells.inter"
    lines = "".join(f"x{text}\t{number}\n" for text, number in rows)
    path.write_text("text:token\tnumber:float\n" + lines, encoding="utf-8")
    columns = ["text:token", "number:float"]
    kinds = {"text:token": str, "number:float": "float64"}
    arguments = {"delimiter": "\t", "usecols": columns, "dtype": kinds, "encoding": None, "engine": "python"}
    ours, theirs = module.pd.read_csv(path, **arguments), pd.read_csv(path, **arguments)
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-11, atol=0)  # the Python parser drops digits
    exact = [float(number or "nan") for _, number in rows]
    assert all(a == b or (a != a and b != b) for a, b in zip(ours["number:float"], exact))


@pytest.mark.parametrize("text", ['a"b', '"a ""b"" c"', "'x'", " lead", "#no comment", "NA", "ü\u00a0"])
def test_awkward_cells(tmp_path, text):
    path = tmp_path / "cells.item"
    path.write_text(f"id:token\ttext:token\n1\t{text}\n2\tz\n", encoding="utf-8")
    arguments = {"delimiter": "\t", "dtype": str, "encoding": None, "engine": "python"}
    pd.testing.assert_frame_equal(module.pd.read_csv(path, **arguments), pd.read_csv(path, **arguments))


def test_separators_of_several_characters(tmp_path):
    from recbole.data import create_dataset

    from recbole_persona.config import Config

    settings = write_tiny(tmp_path)
    file = tmp_path / "data/tiny/tiny.inter"
    one = create_dataset(Config("BPR", "tiny", config_dict=settings))
    file.write_text(file.read_text().replace("\t", "::"))
    several = create_dataset(Config("BPR", "tiny", config_dict=settings | {"field_separator": "::"}))
    for name in one.inter_feat.columns:
        assert (one.inter_feat[name] == several.inter_feat[name]).all()
