"""Every line of an atomic file arrives as a row with its cells, or is named."""

import csv
import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import interactions, write_tiny

from recbole_persona import run
from recbole_persona.data import lines
from recbole_persona.errors import UserError

module = importlib.import_module("recbole.data.dataset.dataset")
HEADER = ["id:token", "title:token_seq", "cat:token"]
CELL = st.text(st.sampled_from(list('ab" \x0b\x0c\x1c\x85\u2028ü,')), max_size=5)


def read(path, separator="\t", encoding=None, columns=HEADER):
    kinds = dict.fromkeys(columns, str)
    arguments = {"delimiter": separator, "usecols": columns, "dtype": kinds, "encoding": encoding, "engine": "python"}
    return module.pd.read_csv(str(path), **arguments)


def as_csv(line):
    """The cells of one line by Python's own reader, None when a quote stays open."""
    try:
        return next(csv.reader([line], delimiter="\t", strict=False)) if closes(line) else None
    except csv.Error:
        return None


def closes(line):
    return len(list(csv.reader([line, "\t\t"], delimiter="\t"))) == 2


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(CELL, min_size=2, max_size=4), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    piece=st.sampled_from([5, 1 << 17]),
)
def test_all_rows_arrive_or_a_line_is_named(tmp_path_factory, rows, end, last, piece):
    path = tmp_path_factory.getbasetemp() / "cells.item"
    written = ["x" + "\t".join(row) for row in rows]
    path.write_bytes((end.join(["\t".join(HEADER), *written]) + end * last).encode())
    expected = [as_csv(line) for line in written]
    faulty = [number for number, cells in enumerate(expected, 2) if cells is None or len(cells) != 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_PIECE", piece)
        if faulty:
            with pytest.raises(UserError, match=rf"cells.item, line {faulty[0]}: "):
                read(path)
        else:
            assert read(path).fillna("").to_numpy().tolist() == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize(
    ("separator", "encoding"), [("\t", None), ("|", "gbk"), ("::", None), ("§", "latin-1"), ("\t", "utf-16")]
)
def test_ends_quotes_encodings_and_separators(tmp_path, end, quote, separator, encoding):
    quote = quote if len(separator) == 1 else ""
    rows = [["i1", "乂 a" if encoding in ("gbk", "utf-16") else "ü a", "c"], ["i2", "b", "c"]]
    body = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in rows]
    path = tmp_path / "x.item"
    path.write_bytes(end.join([separator.join(HEADER), "", *body, "", ""]).encode(encoding or "utf-8"))
    assert read(path, separator, encoding).to_numpy().tolist() == rows
    path.write_bytes(end.join([separator.join(HEADER), *body, separator.join("abcd")]).encode(encoding or "utf-8"))
    with pytest.raises(UserError, match="line 4: 4 cells, and the header has 3"):
        read(path, separator, encoding)


ITEM = "\t".join(HEADER).replace("id:", "item_id:") + "\ni0\ta\tc\n"
FILES = {
    "an id": (
        {"text": interactions().replace("\ti4\t", '\t"i4\t', 1)},
        r"tiny.inter, line 2: the item_id begins with .* \(in quotes, those inside doubled\)\.$",
    ),
    "an id of a table": (
        {"item": ITEM + '"i1\tM\tc\n'},
        r"tiny.item, line 3: the item_id begins with .* \(in quotes, those inside doubled\)\.$",
    ),
    "a title": ({"item": ITEM + 'i1\t"Movie\tc\n'}, r"tiny.item, line 3: the title .* set text_fields: .title."),
    "a tab": ({"item": ITEM + "i1\tM\tN\tc\n"}, "tiny.item, line 3: 4 cells, and the header has 3"),
    "a short row": ({"item": ITEM + "i1\tM\n"}, "tiny.item, line 3: 2 cells, and the header has 3"),
    "over two lines": ({"item": ITEM + 'i1\t"M\nN"\tc\n'}, "tiny.item, line 3: the title begins with a quote"),
    "quotes around a tab": ({"item": ITEM + 'i1\t"M\t"N"\n'}, "line 3: 2 cells, and the header has 3, because quotes"),
    "NUL": ({"item": ITEM + "i1\tM\0\tc\n"}, "tiny.item, line 3: it holds a NUL byte"),
}


@pytest.mark.parametrize(("files", "sentence"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("columns", [None, {"inter": "*", "item": ["item_id", "cat"]}], ids=["all", "some"])
def test_a_run_names_the_line(tmp_path, files, sentence, columns):
    files = {"text" if name == "text" else name: text for name, text in files.items()}
    texts = [files.pop("text")] if "text" in files else []
    if columns and "text_fields" in sentence:
        sentence = sentence.replace("set text_fields", "load it and set text_fields")
    with pytest.raises(UserError, match=sentence):
        run("BPR", "tiny", config_dict=write_tiny(tmp_path, *texts, **files) | {"load_col": columns})


def test_a_blank_line_after_the_header(tmp_path):
    settings = write_tiny(tmp_path, interactions().replace("\n", "\n\n", 1))
    assert run("BPR", "tiny", config_dict=settings)["test_result"]


def test_a_quote_beside_texts(tmp_path):
    item = 'item_id:token\ttitle:text\n"i0\ta\ni1\t"b\n'
    with pytest.raises(UserError, match=r"tiny.item, line 2: the item_id begins with a quote"):
        run("BPR", "tiny", config_dict=write_tiny(tmp_path, item=item) | {"load_col": None})


@pytest.mark.parametrize("named, column", [("item_id", "item_id:token"), ("past", "past:token_seq")])
def test_ids_are_no_texts(tmp_path, named, column):
    """So a quote in front of one gets another remedy than text_fields."""
    row = '"i0\ta\tb' if named == "item_id" else 'i0\ta\t"b'
    header = "item_id:token\ttitle:token\t" + ("past:token_seq" if named == "past" else "kind:token")
    settings = write_tiny(tmp_path, item=f"{header}\n{row}\n") | {"alias_of_item_id": ["past"] * (named == "past")}
    with pytest.raises(UserError, match=rf"line 2: the {named} begins with .* doubled\)\.$"):
        run("BPR", "tiny", config_dict=settings)
    with pytest.raises(UserError, match=f"The column {column} of .*tiny.* cannot be text: it holds ids"):
        run("BPR", "tiny", config_dict=settings | {"text_fields": [named]})


def test_ids_are_counted_and_named(tmp_path):
    ages = "user_id:token\tage:float\n\t1\nu0\t2\n\t3\nu0\t4\nu1\t5\nx\t6\n"
    settings = write_tiny(tmp_path, user=ages)
    run("BPR", "tiny", config_dict=settings | {"filter_inter_by_user_or_item": False})
    said = "".join(path.read_text() for path in Path(settings["run_dir"]).rglob("*.log"))
    assert "2 rows have no user_id and are left out (rows 1, 3 after the header)" in said
    assert "1 rows repeat a user_id and are left out (rows 4 after the header)" in said
    assert "lacks 10 of the 12 ids in user_id of the interactions" in said
    assert said.count("have no interaction") == 1 and "1 of the 13 users have no interaction (x)." in said


def test_a_file_of_other_users_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is left after filtering; loosen filter_inter_by_user_or_item"):
        run("BPR", "tiny", config_dict=write_tiny(tmp_path, user="user_id:token\tage:float\nx\t1\n"))
