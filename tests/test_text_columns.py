"""Texts of atomic files come through RecBole as they are, each with its row."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation
from tiny import interactions, lose, refused, write_tiny

from recbole_persona.config import Config
from recbole_persona.data.texts import TextStore, escaped, text_store, unescaped, unquoted
from recbole_persona.data.titles import item_texts
from recbole_persona.errors import UserError

NASTY = ['"', '""', '"a', 'a"b', '"a" b', " lead", "trail ", "  ", "a  b", "NA", "null", "None", "nan", "[PAD]", "a,b", "'", "#",
         "a\tb\r\nc", "\\", "\\t", "a\\", "\\\\n", "\0", "\x1c\x85\u2028", "\ufeff", "1.50", "é", "日本語 🎸", "True",
         "x" * 200_000]  # fmt: skip
TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from('\t\n\r" ,\\tn'), max_size=12)


def with_texts(texts):
    """The tiny interactions, each with a text; ``texts`` by turns."""
    head, *rows = interactions().splitlines()
    cells = [escaped(texts[place % len(texts)]) for place in range(len(rows))]
    lines = [f"{head}\texplanation:text", *(f"{row}\t{cell}" for row, cell in zip(rows, cells))]
    return "\n".join(lines) + "\n"


def row_texts(rows=72):
    """A text for every tiny interaction by its time, which is the number of its row."""
    return [f'text {row} of "them"' if row % 7 else "" for row in range(rows)]


def config_of(settings, model="BPR", **more):
    if model in ("FM", "XGBoost", "LightGBM"):  # whose rows are labelled
        more = {"metrics": ["AUC"], "valid_metric": "AUC"} | more
    return Config(model, "tiny", config_dict=settings | {"state": "ERROR"} | more)


def loaded(place, inter, model="BPR", columns="*", others=None, **more):
    values = write_tiny(place, inter, **others or {})
    values["load_col"] |= {"inter": columns}
    return create_dataset(config_of(values, model, **more))


# --- the store


@given(st.lists(TEXT, max_size=20))
def test_a_store_gives_back_what_it_got(texts):
    store = TextStore()
    places = [store.append(text) for text in texts]
    assert store[places] == texts and [store[place] for place in places] == texts
    assert [place > 0 for place in places] == [text != "" for text in texts]
    assert len(store) == 1 + sum(map(bool, texts)) and store[0] == ""


def test_places_of_any_shape():
    store = TextStore()
    places = torch.tensor([[store.append("a"), store.append("b")], [0, store.append("ü")]])
    assert store[places] == store[places.numpy()] == store[places.tolist()] == [["a", "b"], ["", "ü"]]
    assert store[torch.tensor(3)] == "ü" and store[torch.empty(0, dtype=torch.long)] == []
    for place in (4, -1):
        with pytest.raises(IndexError, match="there are 3"):
            store[place]


def test_a_text_of_blanks_says_nothing():
    store = TextStore()
    places = torch.tensor([store.append(text) for text in ("a", " ", "", "\t\u3000\n", "b")])
    assert store.filled(places).tolist() == [0, 4] and store[places] == ["a", " ", "", "\t\u3000\n", "b"]


def test_a_store_takes_what_its_bytes_take():
    """And no array as wide as the longest text."""
    store = TextStore()
    store.append("x" * 10**6)
    for _ in range(10**5):
        store.append("short")
    assert sys.getsizeof(store._bytes) + sys.getsizeof(store._ends) < 1.3 * (10**6 + 5 * 10**5 + 8 * 10**5)


@given(TEXT)
def test_cells(text):
    cell = escaped(text)
    assert unescaped(cell) == text and not set(cell) & set("\t\n\r")
    assert unescaped("\\x \\") == "\\x \\"
    assert unquoted('"' + text.replace('"', '""') + '"') == text


# --- through RecBole


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(TEXT, min_size=1, max_size=72))
def test_any_text_through_recbole(tmp_path_factory, texts):
    dataset = loaded(tmp_path_factory.mktemp("text"), with_texts(texts))
    rows = dataset.inter_feat["timestamp"].astype(int)
    assert dataset.texts["explanation"][dataset.inter_feat["explanation"]] == [texts[row % len(texts)] for row in rows]


@pytest.mark.parametrize(
    "changes", [{}, {"encoding": "utf-16"}, {"field_separator": "::"}, {"field_separator": ";"}], ids=str
)
def test_nasty_texts(tmp_path, changes):
    separator, texts = (
        changes.get("field_separator", "\t"),
        [text for text in NASTY if ";" not in text and "::" not in text],
    )
    data = with_texts(texts).replace("\t", separator).encode(changes.get("encoding", "utf-8"))
    dataset = loaded(tmp_path, data, **changes)
    assert dataset.texts["explanation"][dataset.inter_feat["explanation"]] == [
        texts[row % len(texts)] for row in range(72)
    ]


def test_lines_that_end_as_on_windows(tmp_path):
    dataset = loaded(tmp_path, with_texts(["a\r", "b\\"]).replace("\n", "\r\n").replace("\r\n", "\r\n\r\n", 3).encode())
    assert dataset.texts["explanation"][dataset.inter_feat["explanation"][:3]] == ["a\r", "b\\", "a\r"]


FILTERED = {
    "user_inter_num_interval": "[5,inf)",
    "item_inter_num_interval": "[2,inf)",
    "val_interval": {"rating": "[2,inf)"},
}


@pytest.mark.parametrize("model", ["BPR", "SASRec", "FM", "DIN", "recbole:DIN", "UserEncoder", "AMPCF"])
@pytest.mark.parametrize("more", [{}, FILTERED], ids=["all", "filtered"])
def test_every_row_keeps_its_text(tmp_path, model, more):
    """Through filters, splits, shuffles and batches, for every kind of model; texts are no feature of any."""
    texts = row_texts()
    values = write_tiny(tmp_path, with_texts(texts)) | {"load_col": {"inter": "*"}}
    values |= {"train_neg_sample_args": None} if model == "SASRec" else {}
    config = config_of(values, model, **more)
    if config["MODEL_TYPE"].name == "SEQUENTIAL":
        config["eval_args"].update(order="TO", split={"LS": "valid_and_test"})
    dataset = create_dataset(config)
    assert "explanation" not in dataset.token_like_fields and "explanation" not in dataset.field2id_token
    store, seen = dataset.texts["explanation"], 0
    for loader in data_preparation(config, dataset):
        part = loader._dataset
        for name in {"explanation", "explanation_list"} & set(part.inter_feat.columns):
            column, times = part.inter_feat[name], part.inter_feat[name.replace("explanation", "timestamp")]
            assert column.dtype == torch.int64
            found = np.array(store[column.flatten()], dtype=object)
            seen += len(found)
            expected = [texts[int(row)] for row in times.flatten()]
            if name == "explanation_list":  # zeros behind the newest
                inside = torch.arange(column.shape[1]) < part.inter_feat["item_length"][:, None]
                expected = [text if within else "" for text, within in zip(expected, inside.flatten())]
            assert found.tolist() == expected
        batch = next(iter(loader))
        batch = batch[0] if isinstance(batch, tuple) else batch
        if "explanation" in batch:
            assert store[batch["explanation"]] == [texts[int(row)] for row in batch["timestamp"]]
    assert seen > 10


def test_texts_of_items_and_users(tmp_path):
    """And of a user whom no file describes, and the padding row, there is none."""
    items = "item_id:token\ttitle:text\tclass:token_seq\n" + "".join(
        f'i{n}\t"Title" {n}, NA\tx y\n' for n in range(10, -1, -1)
    )
    users = (
        "user_id:token\tabout:text\n"
        + "".join(f"u{n}\tabout {n}\n" for n in range(9))
        + "".join(f"u{n}\t\n" for n in (9, 10))
    )
    others = {"item": items, "user": users + "u11\t" + "\n"}
    dataset = loaded(tmp_path, None, others=others)
    assert set(dataset.texts) == {"title", "about"}
    tokens = dataset.field2id_token["item_id"]
    titles = dataset.texts["title"][dataset.item_feat["title"]]
    assert titles[1:] == [f'"Title" {token[1:]}, NA' for token in tokens[1:]] and titles[0] == ""
    about = dict(zip(dataset.field2id_token["user_id"], dataset.texts["about"][dataset.user_feat["about"]]))
    assert about["u3"] == "about 3" and about["u9"] == about["u11"] == about["[PAD]"] == ""
    part = dataset.build()[0]
    joined = part.join(part.inter_feat)
    assert dataset.texts["title"][joined["title"]] == [titles[item] for item in part.inter_feat["item_id"]]


def test_data_that_come_split(tmp_path):
    values, texts = write_tiny(tmp_path), row_texts()
    head, *rows = with_texts(texts).splitlines()
    for part, lines in (("train", rows[:40]), ("valid", rows[40:50]), ("test", rows[50:])):
        (tmp_path / f"data/tiny/tiny.{part}.inter").write_text("\n".join([head, *lines]) + "\n")
    config = config_of(values, load_col={"inter": "*"}, benchmark_filename=["train", "valid", "test"])
    dataset = create_dataset(config)
    found = [dataset.texts["explanation"][part.inter_feat["explanation"]] for part in dataset.build()]
    assert sorted(found[0]) == sorted(texts[:40]) and found[1:] == [texts[40:50], texts[50:]]


def test_columns_that_text_fields_names(tmp_path):
    """Tokens and lists of them as they stand in the file; a quoted cell without its quotes."""
    items = "item_id:token\ttitle:token\tclass:token_seq\n" + "".join(
        f'i{n}\t"""Weird"" {n}"\ttwo  words\\t\n' for n in range(10)
    )
    dataset = loaded(tmp_path, None, others={"item": items}, text_fields=["title", "class"])
    assert (
        dataset.texts["title"][dataset.item_feat["title"][1]] == f'"Weird" {dataset.field2id_token["item_id"][1][1:]}'
    )
    assert dataset.texts["class"][dataset.item_feat["class"]] == ["", *["two  words\\t"] * 10]
    assert create_dataset(config_of(write_tiny(tmp_path / "b", None, item=items))).num("class") == 3


def test_ml_100k_titles():
    values = {
        "load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "movie_title"]},
        "text_fields": ["movie_title"],
    }
    dataset = create_dataset(Config("BPR", "ml-100k", config_dict=values | {"state": "ERROR"}))
    titles = dataset.texts["movie_title"][dataset.item_feat["movie_title"]]
    assert dict(zip(dataset.field2id_token["item_id"], titles))["1"] == "Toy Story" and len(titles) == dataset.item_num


def test_titles_that_are_texts_are_shown_as_they_are(tmp_path):
    items = 'item_id:token\ttitle:text\ni1\tC:\\\\new\\tline\ni2\t"quoted"\n'
    texts = item_texts(config_of(write_tiny(tmp_path, None, item=items)))
    assert texts.titles_of(["i1", "i2"]) == ["C:\\new\tline", '"quoted"']


def test_texts_that_are_not_loaded(tmp_path):
    """They are passed over, and their quotes swallow nothing."""
    dataset = loaded(tmp_path, with_texts(NASTY), columns=["user_id", "item_id", "timestamp"])
    assert dataset.texts == {} and dataset.inter_num == 72 and "explanation" not in dataset.inter_feat
    dataset = create_dataset(
        config_of({"data_path": str(tmp_path / "data"), "load_col": None, "unload_col": {"inter": ["explanation"]}})
    )
    assert dataset.texts == {} and "rating" in dataset.inter_feat


def test_what_a_model_reads_is_loaded(tmp_path):
    from recbole.model.general_recommender import BPR

    class Writer(BPR):
        reads_fields = ("explanation_field", "feature_field")
        config_defaults = {"explanation_field": "explanation", "feature_field": "feature"}

    values = write_tiny(tmp_path, with_texts(row_texts()))
    dataset = create_dataset(Config(Writer, "tiny", config_dict=values))
    assert "explanation" in dataset.inter_feat and "feature" not in dataset.inter_feat
    assert "explanation" not in create_dataset(config_of(values)).inter_feat


def test_recboles_own_config_knows_no_text_fields(tmp_path):
    """A plain script of RecBole reads columns of type text, too."""
    write_tiny(tmp_path, with_texts(row_texts()))
    script = f"""
import recbole_persona.upstream as upstream; upstream.apply()
from recbole.config import Config
from recbole.data import create_dataset
import recbole_persona
data = create_dataset(Config("BPR", "tiny", config_dict={{"data_path": {str(tmp_path / "data")!r}, "load_col": None}}))
print(data.texts["explanation"][data.inter_feat["explanation"][1]])
"""
    printed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines()[-1] == 'text 1 of "them"'


@pytest.mark.parametrize("model", ["XGBoost", "LightGBM"])
def test_trees_get_no_texts(tmp_path, model):
    pytest.importorskip(model.lower())
    dataset = loaded(tmp_path, with_texts(row_texts()).replace("rating", "label").replace(":float", ":float"), model)
    assert "explanation" not in dataset.inter_feat


# --- faults, one sentence each


@pytest.mark.parametrize(
    "more, why",
    [
        ({"text_fields": ["explanaton"]}, "text_fields names 'explanaton'.*nearest is 'explanation'"),
        ({"text_fields": "explanation"}, "text_fields must be a list"),
        ({"text_fields": ["rating"]}, "rating:float of .* cannot be text: it holds numbers"),
        ({"text_fields": ["item_id"]}, "item_id:token of .* cannot be text: it holds ids"),
    ],
)
def test_wrong_names(tmp_path, capsys, more, why):
    import re

    values = write_tiny(tmp_path, with_texts(row_texts())) | more
    values["load_col"] = {"inter": ["user_id", "item_id", "rating", "timestamp", "explanation"]}
    assert re.search(why, refused(capsys, "run", model="BPR", dataset="tiny", **values))
    lose(tmp_path / "data", "tiny")


@pytest.mark.parametrize("line, cells", [("u1\ti1\t3\t100\ta\tb", 6), ("u1\ti1\t3\t100", 4)])
def test_a_line_of_other_cells(tmp_path, capsys, line, cells):
    values = write_tiny(tmp_path, with_texts(row_texts()) + line + "\n") | {"load_col": "{'inter': '*'}"}
    said = refused(capsys, "run", model="BPR", dataset="tiny", **values)
    assert f"tiny.inter, line 74: {cells} cells, and the header has 5" in said


def test_a_fault_beside_texts_is_named_by_its_line(tmp_path, capsys):
    data = with_texts(['"', "a"]) + "\nu1\ti1\tmany\t100\ta\n"
    values = write_tiny(tmp_path, data) | {"load_col": "{'inter': '*'}"}
    assert "line 75: the rating is no number but 'many'" in refused(
        capsys, "run", model="BPR", dataset="tiny", **values
    )


def test_a_text_is_no_feature(tmp_path):
    values = write_tiny(tmp_path, with_texts(row_texts())) | {"load_col": {"inter": "*"}}
    dataset = create_dataset(config_of(values))
    with pytest.raises(UserError, match="'explanation' holds texts"):
        dataset.num("explanation")


def test_a_reader_without_its_texts(tmp_path):
    dataset = create_dataset(Config("BPR", "ml-100k", config_dict={"state": "ERROR"}))
    with pytest.raises(
        UserError,
        match=r"^The task explanation reads the texts 'explanation', and no column of .*ml-100k.inter and .* is named",
    ):
        text_store(dataset, "explanation", "The task explanation")
    dataset = loaded(tmp_path, with_texts(row_texts()))
    assert text_store(dataset, "explanation", "The task explanation") is dataset.texts["explanation"]
    with pytest.raises(UserError, match=r"tiny\.inter has no column 'review'; it has user_id, "):
        text_store(dataset, "review", "The task review")
