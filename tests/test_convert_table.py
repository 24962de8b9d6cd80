"""``convert csv``: any table; and the command that ``convert`` prints at its end."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from convert_inputs import counts, packed, written
from recbole.data import create_dataset

from recbole_persona.cli import main
from recbole_persona.config import Config
from recbole_persona.data.convert import convert
from recbole_persona.data.convert import rows as batches
from recbole_persona.errors import UserError

MESSY = (
    "who,what,stars,when,title,price\n"
    '"a, b",é1,5,2020-01-01,"5"" nail",3\n'
    "\n"
    'c,é1,,2020-01-02T10:00:00,"two\nlines",4\n'
    'c,i2,4.50,2020-01-03 00:00:00.5,"Weird" Al,\n'
)
NAMES = {"user": "who", "item": "what", "rating": "stars", "time": "when"}


def lines_of(done, suffix="inter"):
    return (done.folder / f"{done.folder.name}.{suffix}").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("write", [written, packed])
def test_a_messy_table(tmp_path, write):
    source = write(tmp_path / "t.csv", "\ufeff" + MESSY)
    done = convert("csv", source, tmp_path / "out", **NAMES, missing_rating="empty", keep="price,title")
    assert lines_of(done) == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\tprice:float\ttitle:token",
        'a, b\té1\t5\t1577836800\t3\t5" nail',
        "c\té1\t\t1577959200\t4\ttwo lines",
        'c\ti2\t4.5\t1578009600.5\t\t"""Weird"" Al"',
    ]
    dataset = create_dataset(Config("BPR", config_file_list=[str(done.folder / "t.yaml")]))
    assert (dataset.user_num, dataset.item_num, dataset.inter_num) == (3, 3, 3)
    assert set(dataset.field2id_token["user_id"]) == {"[PAD]", "a, b", "c"}


def test_what_is_left_out_is_named(tmp_path):
    done = convert("csv", written(tmp_path / "t.csv", MESSY), tmp_path, **NAMES, missing_rating="drop")
    assert done.notes["columns left out"] == "title, price" and done.notes["without a rating, dropped"] == 1
    assert counts(done) == (2, 2, 2)


@pytest.mark.parametrize("separator", ["\t", ";", "|", ","])
def test_the_separator_is_found(tmp_path, separator):
    text = MESSY.replace("a, b", "a b").replace(",", separator)
    done = convert("csv", written(tmp_path / "t.txt", text), tmp_path, **NAMES, missing_rating="drop")
    assert [line.split("\t")[0] for line in lines_of(done)[1:]] == ["a b", "c"]


def test_a_frame_and_side_tables(tmp_path):
    frame = pd.DataFrame(
        {"u": [1.0, 2.0], "i": ["x", "y"], "t": pd.to_datetime(["2020-01-01", "2020-01-02"], utc=True)}
    )
    items = written(tmp_path / "items.csv", "i,title,year,genre\nx,One,1995,A|B c\nz,Three,,\n")
    users = written(tmp_path / "users.tsv", "u\tzip\n1\t02139\n")
    done = convert("csv", frame, tmp_path, "f", user="u", item="i", time="t", items=items, users=users)
    assert lines_of(done)[1:] == ["1\tx\t1577836800", "2\ty\t1577923200"]
    assert lines_of(done, "item")[:2] == [
        "item_id:token\ttitle:token\tyear:float\tgenre:token_seq",
        "x\tOne\t1995\tA B_c",
    ]
    assert lines_of(done, "user") == ["user_id:token\tzip:token", "1\t02139", "2\t"]
    with pytest.raises(UserError, match="Name the data set"):
        convert("csv", frame, tmp_path, user="u", item="i")


def test_side_tables_may_be_frames_and_columns_numbers(tmp_path):
    items = pd.DataFrame({1: ["x", "y"], "title": ["One", None], "empty": [None, None]})
    done = convert("csv", pd.DataFrame([["a", "x"], ["b", "y"]]), tmp_path, "f", user=0, item=1, items=items)
    assert lines_of(done) == ["user_id:token\titem_id:token", "a\tx", "b\ty"]
    assert lines_of(done, "item") == ["item_id:token\ttitle:token\tempty:token", "x\tOne\t", "y\t\t"]
    items["title"] = "Two"  # nothing tells a frame from the one before
    convert("csv", pd.DataFrame([["a", "x"], ["b", "y"]]), tmp_path, "f", user=0, item=1, items=items)
    assert lines_of(done, "item")[1] == "x\tTwo\t"
    with pytest.raises(UserError, match=r"the table of items has no column '1'; its columns are i"):
        convert("csv", pd.DataFrame([["a", "x"]]), tmp_path, "g", user=0, item=1, items=pd.DataFrame({"i": ["x"]}))
    with pytest.raises(UserError, match="converted with the form csv, not lastfm"):
        convert("lastfm", pd.DataFrame(), tmp_path, "h")


@pytest.mark.parametrize("name", ["1e5", "123", "true", "a,b c"])
def test_any_name_is_read_back(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    done = convert(
        "csv", pd.DataFrame({"u": ["a"], "i": ["x"], "1e3": ["y"]}), "out", name, user="u", item="i", keep="1e3"
    )
    config = Config("BPR", config_file_list=[str(done.folder / f"{name}.yaml")])
    assert config["dataset"] == name and config["load_col"] == {"inter": ["user_id", "item_id", "1e3"]}
    assert create_dataset(config).inter_num == 1


def test_a_column_without_a_name_is_left_out_and_told(tmp_path):
    """pandas writes such a one, its index, unless it is told not to."""
    items = written(tmp_path / "items.csv", ",what,title\n0,i,One\n")
    source = written(tmp_path / "t.csv", ",who,what,stars\n0,u,i,5\n")
    done = convert("csv", source, tmp_path, user="who", item="what", keep="stars,", items=items)
    assert lines_of(done) == ["user_id:token\titem_id:token\tstars:float", "u\ti\t5"]
    assert lines_of(done, "item") == ["item_id:token\ttitle:token", "i\tOne"]
    assert done.notes == {
        "columns left out": "one without a name",
        "columns of items.csv left out": "one without a name",
    }


def test_how_times_are_read_is_told(tmp_path):
    for n, (when, told) in enumerate(
        {
            "2020-01-01": "dates without a zone, read as UTC",
            "2020-01-01T00:00Z": "dates",
            "20200101": "numbers such as 20200101, kept as seconds",
        }.items()
    ):
        source = written(tmp_path / f"t{n}.csv", f"who,what,when\nu,i,{when}\n")
        assert convert("csv", source, tmp_path, user="who", item="what", time="when").notes["times"] == told


def test_repeated_rows_of_items_are_counted(tmp_path):
    items = written(tmp_path / "items.csv", "what,title\ni,One\ni,Two\nj,Three\n")
    done = convert(
        "csv", written(tmp_path / "t.csv", "who,what\nu,i\n"), tmp_path, user="who", item="what", items=items
    )
    assert lines_of(done, "item")[1:] == ["i\tOne", "j\tThree"]
    assert done.notes[".item: rows of an id that has one, left out"] == 1
    assert "items that items.csv lacks" not in done.notes
    done = convert(
        "csv", written(tmp_path / "v.csv", "who,what\nu,i\nu,01\n"), tmp_path, user="who", item="what", items=items
    )
    assert done.notes["items that items.csv lacks"] == "1 of 2"


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"u": [1, 2], "i": [b"3", "é".encode()]})
    for place, stored in enumerate([frame, frame.set_index("u")]):
        stored.to_parquet(tmp_path / f"p{place}.parquet")
        done = convert("csv", tmp_path / f"p{place}.parquet", tmp_path, user="u", item="i")
        assert lines_of(done)[1:] == ["1\t3", "2\té"]
    with pytest.raises(UserError, match=r"q\.parquet is no Parquet file, or a damaged one"):
        convert("csv", written(tmp_path / "q.parquet", "u,i\n"), tmp_path, user="u", item="i")
    pd.DataFrame({"u": [1], "i": [b"\xff"]}).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(UserError, match=r"r\.parquet, line 1: the item .* a sign that is no character"):
        convert("csv", tmp_path / "r.parquet", tmp_path, user="u", item="i")


@pytest.mark.parametrize(
    "text, options, why",
    [
        ("who,what\n1,2\n", {}, "no column 'stars'; its columns are who, what"),
        ("who,what,stars,when\n1,2,3\n", {}, "line 2: has 3 cells, not 4"),
        ("who,what,stars,when\n1,2,,4\n", {}, "line 2: there is no rating"),
        ("who,what,stars,when\n1,2,good,4\n", {}, "line 2: the rating is no number"),
        (
            "who,what,stars,when\n1,2,3,4\n1,2,3,2020-01-01\n",
            {},
            "line 3: the time .* is a date, and the first one a number",
        ),
        ("who,what,stars,when\n1,2,3,2020-01-01T00:00Z\n1,2,3,2020-01-01\n", {}, "line 3: .* zone"),
        ("who,what,stars,when\n1,2,3,31/12/2020\n", {}, "line 2: the time is no number and no ISO date"),
        ('who,what,stars,when\n"1\n2",2,3,4\n', {}, "line 2: the user .* holds a tab"),
        ('who,what,stars,when\n1,2,3,4\n1,"2,3,4\n1,2,3,4\n', {}, "line 3: is not CSV"),
        ("who,what,stars,when\n", {"missing_rating": "guess"}, "--missing-rating is one of"),
        ("who,what,stars,when\n1,2,3,4\n", {"encoding": "klingon"}, "There is no encoding of texts 'klingon'"),
        ("who,what,stars,when\n1,2,3,4\n", {"encoding": "hex"}, "There is no encoding of texts 'hex'"),
        ("who,what,stars,when\n1,2,3,4\n", {"item": "who"}, "The column 'who' cannot hold both users and items"),
        ("\xff", {"encoding": None}, "line 1: is no UTF-8 text at byte 1; name its encoding, such as"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, options, why):
    with pytest.raises(UserError, match=why):
        convert("csv", written(tmp_path / "t.csv", text, "latin-1"), tmp_path / "out", **NAMES | options)
    assert not (tmp_path / "out").exists()


def test_odd_lines_are_left_out_by_number_wherever_batches_end(tmp_path, monkeypatch):
    rows = ["who,what,stars,when"] + [f'u{n % 7},"i{n % 5}",{n % 5 + 1},{n}' for n in range(200)]
    rows[60], rows[61], rows[150] = 'u1,"i2,3,4', "u1,i2,x,4", "u1,i2,3"
    for size in (1, 50, 1 << 20):
        monkeypatch.setattr(batches, "CHARACTERS", size)
        source = written(tmp_path / f"t{size}.csv", "\n".join(rows))
        done = convert("csv", source, tmp_path, **NAMES, on_error="keep")
        assert [fault.split(":")[0].split(" line ")[1] for fault in done.left_out] == ["61", "62", "151"]
        good = [
            row.replace('"', "").replace(",", "\t") for place, row in enumerate(rows) if place not in (0, 60, 61, 150)
        ]
        assert lines_of(done)[1:] == good


def test_a_settings_file_of_the_users_stays(tmp_path):
    mine = written(tmp_path / "t/t.yaml", "mine")
    with pytest.raises(UserError, match="did not write"):
        convert("csv", written(tmp_path / "t.csv", MESSY), tmp_path, **NAMES, missing_rating="drop")
    assert mine.read_text() == "mine"


# --- the command that is printed

TRIPLES = [
    (f"u{user}", f"i{(user * 7 + n * 3) % 30}", n % 5 + 1, 1000 * user + n) for user in range(12) for n in range(6)
]


def _inputs(folder):
    """The arguments of a conversion by form, of files that lie in ``folder``."""
    written(folder / "t.csv", "u,i,r,t\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in TRIPLES))
    written(
        folder / "m/ratings.csv",
        "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in TRIPLES),
    )
    reviews = (
        {
            "user": u,
            "item": i,
            "rating": r,
            "time": t,
            "summary": "s",
            "text": "The tone is great. The strings are very bright.",
        }
        for u, i, r, t in TRIPLES
    )
    written(folder / "a.json", "".join(json.dumps(review) + "\n" for review in reviews))
    written(folder / "s.txt", "".join(f"{u} {i}\n" for u, i, _, _ in TRIPLES))
    written(folder / "l.dat", "u\ti\tplays\n" + "".join(f"{u}\t{i}\t{r}\n" for u, i, r, _ in TRIPLES))
    parts = ["train"] * 4 + ["valid", "test"]
    written(
        folder / "p.csv",
        "user,item,split\n" + "".join(f"{u},{i},{parts[n % 6]}\n" for n, (u, i, *_) in enumerate(TRIPLES)),
    )
    return {
        "csv": ["t.csv", "--user=u", "--item=i", "--rating=r", "--time=t"],
        "movielens": ["m"],
        "amazon": ["a.json"],
        "reviews": ["a.json", "--name=r", "--nouns=patterns"],
        "sequences": ["s.txt"],
        "lastfm": ["l.dat"],
        "split": ["p.csv"],
    }


FORMS = ("csv", "movielens", "amazon", "reviews", "sequences", "lastfm", "split")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["AMPCF", "SASRec", "POD"])
@pytest.mark.parametrize("form", FORMS)
def test_the_printed_command_works(tmp_path, monkeypatch, capsys, form, model):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", form, *_inputs(tmp_path)[form], "--out=my data"]) == 0
    printed = capsys.readouterr().out
    (command,) = (
        line.removeprefix("train on it: ") for line in printed.splitlines() if line.startswith("train on it: ")
    )
    assert command.startswith("recbole-persona run ") and command.endswith("--model=AMPCF")
    with (tmp_path / shlex.split(command)[2].removeprefix("--config_files=")).open("a") as file:
        file.write("epochs: 1\n")  # the line is what is tested
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    source = str(Path(__file__).parent.parent)
    done = subprocess.run(
        ["bash", "-c", command.replace("AMPCF", model)], env=os.environ | {"PATH": path, "PYTHONPATH": source},
        capture_output=True, text=True,
    )  # fmt: skip
    if form in ("lastfm", "split") and model != "AMPCF":
        assert "no times: a sequential model" in printed
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "ndcg@10" in done.stdout
    assert shlex.split(command)[2].startswith("--config_files=my data/")
