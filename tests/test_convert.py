"""Atomic files from other people's forms, and back through RecBole's own reader."""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest
from convert_inputs import REVIEW_2014, SEQUENCES, counts, packed, written
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset

from recbole_persona.config import Config
from recbole_persona.data.convert import convert
from recbole_persona.data.convert.amazon import record
from recbole_persona.data.convert.atomic import number_cell, sequence_cell, text_cell, token_id
from recbole_persona.data.convert.lines import BadLine
from recbole_persona.errors import UserError

SHARED = Path(os.environ.get("RECBOLE_PERSONA_SHARED_DATA", Path(__file__).parent.parent.parent / "shared/data"))


def table(done, suffix="inter"):
    """The rows of an atomic file, header first."""
    with open(done.folder / f"{done.folder.name}.{suffix}", encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def loaded(done, **load_col):
    """The data set as RecBole reads it."""
    values = {"data_path": str(done.folder.parent), "load_col": load_col or {s: c for s, c in done.columns.items()}}
    return create_dataset(Config("BPR", done.folder.name, config_dict=values))


def tokens(dataset, *fields, feature="inter_feat"):
    """Columns as they were before RecBole numbered them."""
    feature = getattr(dataset, feature)
    return [dataset.id2token(field, feature[field].to_numpy().astype(int)) for field in fields]


# --- MovieLens


@pytest.fixture
def ml_100k(tmp_path):
    folder = tmp_path / "ml-100k"
    flags = "|".join("1" if place in (1, 3) else "0" for place in range(19))
    written(folder / "u.data", "1\t10\t5\t881250949\n2\t10\t3\t881250950\n2\t20\t1\t881250951\n")
    written(folder / "u.item", f"10|Misérables, Les (1995)|01-Jan-1995||http://x|{flags}\n", "latin-1")
    written(folder / "u.genre", "unknown|0\nAction|1\nAdventure|2\nChildren's|3\n\n")
    written(folder / "u.user", "1|24|M|technician|85711\n2|53|F|other|94043\n")
    return folder


def test_ml_100k(ml_100k, tmp_path):
    done = convert("movielens", ml_100k, tmp_path / "out", "ml")
    assert counts(done) == (2, 2, 3)
    assert table(done)[:2] == [
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        ["1", "10", "5", "881250949"],
    ]
    assert table(done, "item") == [
        ["item_id:token", "movie_title:token", "release_year:token", "genre:token_seq"],
        ["10", "Misérables, Les (1995)", "1995", "Action Children's"],
        ["20", "", "", ""],  # rated and not described: without a row RecBole would drop its ratings
    ]
    assert table(done, "user")[1] == ["1", "24", "M", "technician", "85711"]
    dataset = loaded(done)
    assert (dataset.user_num, dataset.item_num, dataset.inter_num) == (3, 3, 3)


def test_the_name_of_recboles_own_copy_is_refused(ml_100k, tmp_path):
    with pytest.raises(UserError, match="its own copy"):
        convert("movielens", ml_100k, tmp_path / "out")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_ml_1m(tmp_path, encoding):
    folder = tmp_path / "ml-1m"
    written(folder / "ratings.dat", "1::1193::5::978300760\n1::661::3.5::978302109\n")
    written(folder / "movies.dat", "661::Été: a film (1996)::Animation|Children's\n7::Unseen (2000)::Drama\n", encoding)
    written(folder / "users.dat", "1::F::1::10::48067\n")
    done = convert("movielens", folder, tmp_path / "out")
    assert done.folder.name == "ml-1m" and counts(done) == (1, 2, 2)
    assert [row[0] for row in table(done, "item")[1:]] == ["661", "7", "1193"]
    assert table(done, "item")[1] == ["661", "Été: a film (1996)", "1996", "Animation Children's"]
    assert table(done)[2] == ["1", "661", "3.5", "978302109"]
    assert table(done, "user")[1] == ["1", "1", "F", "10", "48067"]


def test_movielens_csv(tmp_path):
    folder = tmp_path / "ml-latest-small"
    written(folder / "ratings.csv", "userId,movieId,rating,timestamp\r\n1,3,4.0,964981247\r\n")
    written(folder / "movies.csv", 'movieId,title,genres\r\n3,"""Great"" Gatsby, The (1974)",(no genres listed)\r\n')
    done = convert("movielens", folder, tmp_path / "out")
    assert table(done)[1] == ["1", "3", "4", "964981247"]
    assert table(done, "item")[1] == ["3", '"Great" Gatsby, The (1974)', "1974", ""]


def test_no_movielens_folder(tmp_path):
    with pytest.raises(UserError, match=r"none of u\.data"):
        convert("movielens", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="no folder"):
        convert("movielens", tmp_path / "absent", tmp_path / "out")


# --- Amazon

REVIEW_2018 = {
    "overall": 4.0, "verified": True, "vote": "1,203", "reviewerID": "A2", "asin": "B1", "reviewText": "fine",
    "summary": "ok", "unixReviewTime": 1393545600,
}  # fmt: skip
REVIEW_2023 = {
    "rating": 2.5, "title": "Meh", "text": "I did <br /> not", "images": [], "asin": "B0", "parent_asin": "B1",
    "user_id": "A2", "timestamp": 1588615855070, "helpful_vote": 7, "verified_purchase": False,
}  # fmt: skip


@pytest.mark.parametrize(
    "review, line, row",
    [
        (REVIEW_2014, json.dumps, ["5", "1393545600", "3", "4", "Great", 'It\'s good,  very "good"']),
        (REVIEW_2014, repr, ["5", "1393545600", "3", "4", "Great", 'It\'s good,  very "good"']),
        (REVIEW_2018, json.dumps, ["4", "1393545600", "1203", "yes", "ok", "fine"]),
        (REVIEW_2023, json.dumps, ["2.5", "1588615855.07", "7", "no", "Meh", "I did <br /> not"]),
    ],
)
@pytest.mark.parametrize("write", [written, packed])
def test_amazon(tmp_path, review, line, row, write):
    done = convert("amazon", write(tmp_path / "reviews_X_5.json.gz", line(review) + "\n"), tmp_path / "out")
    assert done.folder.name == "reviews_X_5"
    assert table(done)[1] == ["A2", "B1", *row]


def test_a_literal_is_read_and_not_evaluated():
    assert record("{'a': 1, 'b': u'\\u00e9\\d'}") == {"a": 1, "b": "é\\d"}
    for line in ("__import__('os').getcwd()", "{'a': open('x')}", "[1]", "{", "(" * 10_000, "\0"):
        with pytest.raises(BadLine):
            record(line)


def test_amazon_items(tmp_path):
    reviews = written(tmp_path / "r.json", json.dumps(REVIEW_2018) + "\n" + json.dumps(REVIEW_2018 | {"asin": "B2"}))
    metadata = [
        {
            "asin": "B1",
            "title": "Pipe",
            "brand": "Weird Al",
            "price": "$1,012.50",
            "category": ["Home & Kitchen", "Pipes"],
        },
        {"asin": "B9", "title": "never reviewed"},
        {"asin": "B1", "title": "the same again"},
    ]
    items = packed(tmp_path / "meta.json.gz", "\n".join(map(json.dumps, metadata)))
    done = convert("amazon", reviews, tmp_path / "out", items=items)
    assert table(done, "item")[1:] == [
        ["B1", "Pipe", "Weird Al", "Home_&_Kitchen Pipes", "1012.5"],
        ["B2", "", "", "", ""],
    ]
    assert loaded(done).inter_num == 2
    older = written(
        tmp_path / "old.json", "{'asin': 'B2', 'categories': [['Sports', 'Golf'], ['Sports']], 'price': 3.0}"
    )
    again = convert("amazon", reviews, tmp_path / "out", items=older)
    assert again.fresh and table(again, "item")[1:] == [["B2", "", "", "Sports Golf", "3"], ["B1", "", "", "", ""]]


@pytest.mark.parametrize(
    "change, why",
    [
        ({"overall": "many"}, "rating .overall. is no number but 'many'"),
        ({"overall": float("nan")}, "rating .overall. is no number"),
        ({"reviewerID": ""}, "user .reviewerID. is empty"),
        ({"asin": None}, "item .asin. is empty"),
        ({"reviewerID": "null"}, "reads as an empty cell"),
        ({"unixReviewTime": "1_000"}, "time .unixReviewTime. is no number"),
        ({"reviewText": "x" * 200_000}, "200,000 characters"),
    ],
)
def test_bad_reviews(tmp_path, change, why):
    good = json.dumps(REVIEW_2014)
    source = written(tmp_path / "r.json", f"{good}\n{json.dumps(REVIEW_2014 | change)}\n{good}\n")
    with pytest.raises(UserError, match=f"^r.json, line 2: .*{why}.*nothing was written"):
        convert("amazon", source, tmp_path / "out")
    assert not (tmp_path / "out/r").exists()
    done = convert("amazon", source, tmp_path / "out", on_error="keep")
    assert done.interactions == 2 and done.n_left_out == 1 and done.left_out[0].startswith("r.json, line 2: ")


# --- sequences


def test_sequences(tmp_path):
    done = convert("sequences", packed(tmp_path / "Beauty.txt.gz", SEQUENCES), tmp_path / "out")
    assert done.folder == tmp_path / "out/Beauty" and counts(done) == (3, 3, 6)
    assert table(done) == [
        ["user_id:token", "item_id:token", "timestamp:float"],
        *(["1", item, str(n)] for n, item in enumerate("abc")),
        *(["2", item, str(n)] for n, item in enumerate("bc")),
        ["3", "a", "0"],
    ]


def test_pairs_are_sequences(tmp_path):
    pairs = "".join(f"{user} {item}\n" for user, *items in map(str.split, SEQUENCES.splitlines()) for item in items)
    one = convert("sequences", written(tmp_path / "a.txt", SEQUENCES), tmp_path / "out")
    other = convert("sequences", written(tmp_path / "b.txt", pairs), tmp_path / "out")
    assert table(one) == table(other)


def test_sequences_with_everything(tmp_path):
    done = convert(
        "sequences",
        written(tmp_path / "s.txt", SEQUENCES),
        tmp_path / "out",
        times=packed(tmp_path / "t.gz", "1 0 60 0\n2 0 86400\n3 0\n"),
        attributes=packed(tmp_path / "a.json.gz", json.dumps({"a": [2, 1, 2], "z": [1]})),
        attribute_names=written(tmp_path / "n.tsv", "attribute\tname\tcount\n1\tNail  Polish\t9\n"),
        titles=packed(tmp_path / "i.tsv.gz", 'item\ttitle\na\t"quoted" lacquer\nb\tNA\n'),
    )
    assert [row[2] for row in table(done)[1:]] == ["0", "60", "60", "0", "86400", "0"]
    assert table(done, "item") == [
        ["item_id:token", "title:token", "attribute:token_seq"],
        ["a", '"quoted" lacquer', "2 Nail_Polish"],
        ["b", "NA ", ""],
        ["c", "", ""],
    ]
    dataset = loaded(done)
    assert dict(zip(*tokens(dataset, "item_id", "title", feature="item_feat"))) == {
        "a": '"quoted" lacquer',
        "b": "NA ",
        "c": "[PAD]",
        "[PAD]": "[PAD]",  # the row that RecBole adds
    }


@pytest.mark.parametrize(
    "times, why",
    [
        ("1 0 1 2\n2 0\n3 0\n", "line 2: 2 items, and 1 times in t"),
        ("1 0 1 2\n9 0 1\n3 0\n", "line 2: the line of t is of user '9'"),
        ("1 0 1 2\n2 0 x\n3 0\n", "line 2: t: the time is no number but 'x'"),
    ],
)
def test_times_that_do_not_fit(tmp_path, times, why):
    arguments = "sequences", written(tmp_path / "s", SEQUENCES), tmp_path / "out"
    with pytest.raises(UserError, match=why):
        convert(*arguments, times=written(tmp_path / "t", times))
    assert convert(*arguments, times=tmp_path / "t", on_error="keep").interactions == 4


def test_files_of_sequences_that_do_not_fit(tmp_path):
    source, arguments = written(tmp_path / "s", SEQUENCES), {"out": tmp_path / "out"}
    with pytest.raises(UserError, match="more lines"):
        convert("sequences", source, times=written(tmp_path / "t", "1 0 1 2\n"), **arguments)
    with pytest.raises(UserError, match="needs --attributes"):
        convert("sequences", source, attribute_names=source, **arguments)
    with pytest.raises(UserError, match="no JSON object of lists"):
        convert("sequences", source, attributes=written(tmp_path / "a", '{"a": 1}'), **arguments)
    with pytest.raises(UserError, match="header"):
        convert("sequences", source, titles=source, **arguments)
    assert not (tmp_path / "out/s").exists()


# --- LastFM


def test_lastfm(tmp_path):
    plays = written(tmp_path / "user_artists.dat", "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t1\n")
    artists = written(tmp_path / "artists.dat", "id\tname\turl\n51\tDuran Duran\thttp://x\n60\tUnheard\thttp://y\n")
    done = convert("lastfm", plays, tmp_path / "out", items=artists)
    assert table(done) == [["user_id:token", "item_id:token", "plays:float"], ["2", "51", "13883"], ["2", "52", "1"]]
    assert table(done, "item")[1:] == [["51", "Duran Duran"], ["52", ""]]
    assert done.notes == {"columns left out": "url"}
    bare = written(tmp_path / "bare.tsv", "2\t51\t13883\n")
    assert convert("lastfm", bare, tmp_path / "out").interactions == 1


# --- data that come split

SPLIT = "User_ID\titem\tdate\tsplit\n1\ta\t\ttrain\n1\tb\t\tTrain\n2\ta\tx\tval\n2\tb\tx\ttest\n"


def test_one_table_with_its_split(tmp_path):
    done = convert("split", packed(tmp_path / "books.tsv.gz", SPLIT), tmp_path / "out")
    assert counts(done) == (2, 2, 4) and not (done.folder / "books.inter").exists()
    head = ["user_id:token", "item_id:token"]
    assert table(done, "train.inter") == [head, ["1", "a"], ["1", "b"]]
    assert table(done, "valid.inter") == [head, ["2", "a"]] and table(done, "test.inter") == [head, ["2", "b"]]
    assert done.notes == {"columns left out": "date"}
    assert convert("split", tmp_path / "books.tsv.gz", tmp_path / "out").fresh is False


def test_a_table_for_each_part(tmp_path):
    train = written(tmp_path / "trn.csv", 'user,item,Time\n1,a,"05 1, 2011"\n1,b,x\n')
    others = {
        part: written(tmp_path / part, f"user,item\n2,{item}\n") for part, item in (("valid", "a"), ("test", "b"))
    }
    done = convert("split", train, tmp_path / "out", **others)
    assert counts(done) == (2, 2, 4) and table(done, "train.inter")[1:] == [["1", "a"], ["1", "b"]]
    assert done.notes == {"columns left out": "Time"}
    values = {"data_path": str(tmp_path / "out"), "benchmark_filename": ["train", "valid", "test"]}
    dataset = create_dataset(Config("BPR", "trn", config_dict=values))
    assert dataset.inter_num == 4 and dataset.file_size_list == [2, 1, 1]


@pytest.mark.parametrize(
    "text, others, why",
    [
        ("user\titem\n1\ta\n", (), "has no column split.*--valid and --test"),
        ("user\tthing\tsplit\n", (), "has no column item"),
        ("user\titem\tsplit\n1\ta\tdev\n", (), "line 2: the split is 'dev', not train, valid or test"),
        ("user\titem\tsplit\n1\ta\n", (), "line 2: has 2 cells, not 3"),
        ('user,item,split\n1,"a,train\n', (), "line 2: is not CSV"),
        ("user\titem\n1\ta\n", ("valid",), "--valid and --test go together"),
    ],
)
def test_splits_that_cannot_be_read(tmp_path, text, others, why):
    source = written(tmp_path / "s", text)
    with pytest.raises(UserError, match=why):
        convert("split", source, tmp_path / "out", **{part: source for part in others})
    assert not (tmp_path / "out/s").exists()


# --- text


def expected(text):
    """What RecBole should give back for a text (docs/data.md)."""
    plain = "".join(" " if sign in "\t\r\n\0" else "\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)
    return (
        plain + " " if plain in ("[PAD]", "NA", "null", "None", "nan", "N/A", "NULL", "<NA>", "n/a", "NaN") else plain
    )


NASTY = ['"', '""', '"a', 'a"b', '"a" b', ' "a"', "a,b", " lead", "trail ", "  ", "NA", "null", "None", "nan", "#N/A",
         "a\tb\r\nc", "\\", "'", "\ud800", "\0", "\x1c\x85\u2028", "\ufeff", "1.50", "é", "#",
         "True", "-inf"]  # fmt: skip


def through_recbole(folder, texts):
    rows = [REVIEW_2014 | {"reviewText": text, "asin": f"i{n}"} for n, text in enumerate(texts)]
    source = written(folder / "r.json", "".join(json.dumps(row) + "\n" for row in rows))
    dataset = loaded(convert("amazon", source, folder / "out"), inter=["user_id", "item_id", "review"])
    assert dataset.inter_num == len(texts)
    items, reviews = tokens(dataset, "item_id", "review")
    found = dict(zip(items, reviews))
    return [found[f"i{n}"] for n in range(len(texts))]


def test_texts_through_recbole(tmp_path):
    for text, found in zip(NASTY, through_recbole(tmp_path, NASTY)):
        assert found == (text + " " if text == "#N/A" else expected(text))


def test_an_empty_text_is_recboles_padding(tmp_path):
    assert through_recbole(tmp_path, ["a", ""]) == ["a", "[PAD]"]


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.text(st.characters() | st.sampled_from('\t\n\r" ,\0'), min_size=1), min_size=2, max_size=40))
def test_any_text_through_recbole(tmp_path_factory, texts):
    assert through_recbole(tmp_path_factory.mktemp("text"), texts) == [expected(text) for text in texts]


def test_cells():
    assert [number_cell(value) for value in (5.0, 4.5, -0.25, 1e300 * 10, None)][:3] == ["5", "4.5", "-0.25"]
    assert sequence_cell(["Nail Polish", "", "A", "A", "b\tc"]) == "Nail_Polish A b_c"
    assert text_cell(None) == "" and text_cell('say "x"') == 'say "x"' and text_cell('"x"') == '"""x"""'
    for bad in (None, "", "  ", "NA", "null", "[PAD]", "x" * 200_000):
        with pytest.raises(BadLine):
            token_id(bad, "user")
    assert token_id(0, "user") == "0"


# --- the real files

REAL = {
    "musical-instruments": ("amazon", "amazon_musical_instruments_2014/reviews.jsonl.gz", (1429, 900, 10261)),
    "lastfm": ("sequences", "lastfm_s3rec/sequences.txt.gz", (1090, 3646, 52551)),
    "lastfm-plays": ("lastfm", "lastfm_hetrec_social/user_artist_plays.tsv.gz", (1892, 17632, 92834)),
    "video-games": ("sequences", "amazon_video_games_2014_sasrec/sequences.txt.gz", (31013, 23715, 287107)),
    "amazon-beauty": ("sequences", "amazon_beauty_s3rec/sequences.txt.gz", (22363, 12101, 198502)),
    "amazon-sports": ("sequences", "amazon_sports_s3rec/sequences.txt.gz", (35598, 18357, 296337)),
    "xrec-amazon": ("split", "xrec_amazon/amazon_interactions.tsv.gz", (15349, 15247, 360839)),
}
PARTS = {
    "times": "time_deltas_seconds.txt.gz",
    "attributes": "item2attributes.json.gz",
    "attribute_names": "attribute_names.tsv.gz",
    "titles": "item_textual_id.tsv.gz",
}
QUICK = ("musical-instruments", "lastfm", "lastfm-plays")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in REAL])
def test_real_data_have_the_published_numbers(tmp_path, name):
    form, path, published = REAL[name]
    source = SHARED / path
    if not source.is_file():
        pytest.skip(f"{source} is absent")
    parts = {part: source.parent / file for part, file in PARTS.items() if (source.parent / file).is_file()}
    done = convert(form, source, tmp_path, name, **parts)
    assert counts(done) == published and done.n_left_out == 0
    dataset = create_dataset(Config("BPR", name, config_dict={"data_path": str(tmp_path)}))  # with the shipped settings
    assert (dataset.user_num - 1, dataset.item_num - 1, dataset.inter_num) == published
    if "attributes" in parts:  # what a model of several features per item reads
        assert {"attribute", "item_id"} <= set(dataset.item_feat) and dataset.field2type["timestamp"].value == "float"
        assert (dataset.item_feat["attribute"].map(len) > 0).sum() > 0.9 * published[1]


@pytest.mark.parametrize("column", [pytest.param("review", marks=pytest.mark.slow), "summary"])
def test_real_reviews_come_back_from_recbole(tmp_path, column):
    source = SHARED / "amazon_musical_instruments_2014/reviews.jsonl.gz"
    if not source.is_file():
        pytest.skip(f"{source} is absent")
    done = convert("amazon", source, tmp_path, "music")
    dataset = loaded(done, inter=["user_id", "item_id", column])
    users, items, texts = tokens(dataset, "user_id", "item_id", column)
    found = dict(zip(zip(users, items), texts))
    with gzip.open(source, "rt", encoding="utf-8") as file:
        reviews = [json.loads(line) for line in file]
    key = {"review": "text", "summary": "summary"}[column]
    wrong = [r for r in reviews if found[r["user"], r["item"]] != (expected(r[key]) or "[PAD]")]
    assert not wrong and len(found) == len(reviews)
