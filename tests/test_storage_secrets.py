"""Passwords in the URL of a storage: on no screen, in no file, no traceback and no command line of a worker."""

import sys
import traceback
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tune_process import command

from recbole_persona.cli import main
from recbole_persona.errors import StorageError, UserError, hidden
from recbole_persona.search.storage import Storage

CANARY = "Canary7"
SERVER = "127.0.0.1:1"  # where nobody listens
FORMS = [
    f"postgresql://me:{CANARY}@{SERVER}/db",
    f"postgresql+psycopg://:{CANARY}@{SERVER}/db",
    f"postgresql://me:pass%40{CANARY}%2F@{SERVER}/db",
    f"postgresql://me:pass@{CANARY}@{SERVER}/db",
    f"postgresql://me:pass@{CANARY}?a@{SERVER}/db",
    f"postgresql://me:pass/{CANARY}:@{SERVER}/db",
    f"postgresql://me/us:{CANARY}@{SERVER}/db",
    f"postgresql://me:pass?a={CANARY}@{SERVER}/db",
    f"postgresql://me:{CANARY}@{SERVER}port/db",
    f"postgresql://me:{{{CANARY}}}@{SERVER}/db",
    f"postgresql://{SERVER}/db?user=me&password={CANARY}",
    f"postgresql://{SERVER}/db?user=me&password=pass@{CANARY}",
    f"postgresql://{SERVER}/db?password=a&{CANARY}=1",
    f"postgresql://{SERVER}/db?user=me&sslpassword={CANARY}&passfile={CANARY}&unknown=1",
    f"postgresql://{SERVER}/db;password={CANARY}",
    f"postgresql://{SERVER}/db password={CANARY}",
    f"postgresql:/me:{CANARY}@{SERVER}/db",
    f"host=localhost password={CANARY}",
    f"me:{CANARY}@localhost/db",
    f"mysql://me:{CANARY}@{SERVER}/db",
    f"mysql://{SERVER}/db?user=me&passwd={CANARY}",
    f"mysql://{SERVER}/db?ssl_key_password={CANARY}&unknown={CANARY}",
    f"mysql+nothing://me:{CANARY}@{SERVER}/db",
    f"oracle://me:{CANARY}@{SERVER}/db",
    f"sqlite://me:{CANARY}@host/study.db",
    f"sqlite+pysqlcipher://:{CANARY}@/study.db",
    f"journal://me:{CANARY}@host/study.log",
    f"journal:///study.log?password={CANARY}",
    f"postgresql://me:\udcff{CANARY}@{SERVER}/db",
]


def check_hidden(*texts, canary=CANARY):
    assert not [text for text in texts if canary.lower() in text.lower()]


def contents(place):
    """The names and contents of all files below a folder."""
    return [str(path.relative_to(place)) for path in place.rglob("*")] + [
        path.read_bytes().decode("latin-1") for path in place.rglob("*") if path.is_file()
    ]


def refused(url) -> UserError:
    with pytest.raises(UserError) as error:
        Storage(url)
    check_hidden("".join(traceback.format_exception(error.value)), str(error.value))
    return error.value


@pytest.mark.parametrize("url", FORMS)
def test_no_error_shows_a_password(url, tmp_path, monkeypatch):
    pytest.importorskip("psycopg")
    pytest.importorskip("pymysql")
    monkeypatch.chdir(tmp_path)
    refused(url)
    check_hidden(*contents(tmp_path))


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=8), st.text(max_size=8), st.sampled_from(["raw", "encoded"]), st.booleans())
@example("&", "=1", "raw", True)
def test_any_password(before, after, form, in_query):
    pytest.importorskip("psycopg")
    password = before + CANARY + after
    if form == "encoded":
        try:
            password = quote_plus(password) if in_query else quote(password, safe="")
        except UnicodeEncodeError:
            return  # a lone surrogate is no text
    user = "" if in_query else f"me:{password}@"
    refused(f"postgresql://{user}{SERVER}/db{f'?password={password}' if in_query else ''}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://me:{CANARY}@{SERVER}/db", f"postgresql+psycopg://me:***@{SERVER}/db failed"),
        (f"postgresql://me@{SERVER}/db?password={CANARY}", rf"postgresql+psycopg://me@{SERVER}/db?*** failed"),
        (f"postgresql://me%40us:{CANARY}@{SERVER}/db", f"postgresql+psycopg://me%40us:***@{SERVER}/db failed"),
        (f"sqlite:////dev/null/é@a.db?key={CANARY}", "sqlite:////dev/null/é@a.db?*** failed"),
        (f"postgresql://me:{CANARY}@{SERVER}:x/db", "Cannot read the storage postgresql://***; write sqlite:///FILE"),
        (f"me:{CANARY}@{SERVER}", "Cannot read the storage; write sqlite:///FILE"),
    ],
)
def test_what_is_shown_of_a_url(url, shown):
    pytest.importorskip("psycopg")
    assert shown in str(refused(url))


def test_reasons_are_kept():
    """A password that is a word of the driver's does not make its text unreadable."""
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError, match="onnection refused") as error:
        Storage(f"postgresql://me:e@{SERVER}/db")
    assert "***" in str(error.value)
    assert hidden("user me, password é'x", ["me", "é'x"]) == "user ***, password ***"
    assert hidden(f"{quote('é/x')} {'é/x'!a} bare é/x time", ["é/x", "t"]) == "*** '***' bare *** time"


@pytest.mark.parametrize("url", [FORMS[0], FORMS[3], FORMS[10], FORMS[16]])
def test_the_command_line_shows_no_password(url, tmp_path, monkeypatch, capfd):
    pytest.importorskip("psycopg")
    (tmp_path / "search").mkdir()
    monkeypatch.chdir(tmp_path / "search")
    flags = command(tmp_path / "search", storage=url)[5:]
    monkeypatch.setattr(sys, "argv", ["recbole-persona", *flags])
    assert main() == 2
    check_hidden(*sys.argv)  # which W&B sends to its host
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    assert main([flag for flag in flags if "--storage" not in flag]) == 2
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    check_hidden(*capfd.readouterr(), *contents(tmp_path))


@pytest.mark.parametrize(
    "flags",
    [
        ["tune", FORMS[0]],
        ["tune", "--storge", FORMS[0]],
        ["tune", f"--storge={FORMS[0]}", "--storge=sqlite:///other"],
        ["tune", f"--trials={FORMS[0]}"],
        ["tune", f"--storge={FORMS[0]}", "--model=Pop", "--dataset=ml-100k"],
        ["leaderboard", "board.yaml", f"--storage={FORMS[0]}"],
        ["leaderboard", "board.yaml", "--storage", FORMS[0]],
        ["run", f"--storage={FORMS[0]}", "--model=Pop", "--dataset=ml-100k"],
        ["evaluate", "run", f"--storage={FORMS[0]}"],
    ],
)
def test_a_mistyped_option_shows_no_password(flags, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    out, err = capfd.readouterr()
    assert "recbole-persona: " in err
    check_hidden(out, err, *contents(tmp_path))
