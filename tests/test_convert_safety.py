"""Conversion that meets bad lines, damaged files, a full disk or an end: what stood there stays whole."""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time

import pytest
from convert_inputs import REVIEW_2014, SEQUENCES, contents, counts, packed, written

from recbole_persona.cli import main
from recbole_persona.data.convert import FORMS, convert
from recbole_persona.errors import UserError


def test_command_refuses_or_keeps_bad_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt", SEQUENCES + "4\n\n5 a\n6\n")
    assert main(["convert", "sequences", "s.txt"]) == 2
    assert "s.txt, line 4: has a user and no item; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "dataset/s").exists()
    assert main(["convert", "sequences", "s.txt", "--on-error=keep"]) == 0
    printed = capsys.readouterr()
    assert "2 bad lines were left out" in printed.err and "line 4:" in printed.err and "line 7:" in printed.err
    assert (
        "dataset/s" in printed.out
        and "recbole-persona run --config_files=dataset/s/s.yaml --model=AMPCF\n" in printed.out
    )
    assert main(["convert", "sequences", "s.txt", "--on-error=keep"]) == 0
    printed = capsys.readouterr()
    assert "nothing was done" in printed.out and "2 bad lines" in printed.err


def test_command_trains_on_what_it_says(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (f"u{user} " + " ".join(f"i{(user * 7 + n) % 20}" for n in range(10)) for user in range(15))
    written(tmp_path / "s.txt", "\n".join(lines))
    assert main(["convert", "sequences", "s.txt", "--out=my data"]) == 0
    assert "--config_files='my data/s/s.yaml' --model" in capsys.readouterr().out
    assert main(["run", "--model=AMPCF", "--config_files", "my data/s/s.yaml", "--epochs=1", "--topk=[3]",
                 "--valid_metric=NDCG@3", "--n_personas=2"]) == 0  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["nothing", "x"], ["amazon"], ["amazon", "x", "--times=y"], ["movielens", "none"]]
)
def test_faults_of_the_command_are_one_sentence(arguments, capsys):
    assert main(["convert", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_to_read(tmp_path):
    for text in ("", "\n\n"):
        with pytest.raises(UserError, match="no interaction"):
            convert("sequences", written(tmp_path / "s", text), tmp_path / "out")
        with pytest.raises(UserError, match="no reviews"):
            convert("amazon", tmp_path / "s", tmp_path / "out")
        with pytest.raises(UserError, match="empty"):
            convert("lastfm", tmp_path / "s", tmp_path / "out")
    with pytest.raises(UserError, match="the first bad line: t, line 1"):
        convert("sequences", written(tmp_path / "t", "1\n"), tmp_path / "out", on_error="keep")
    with pytest.raises(UserError, match="There is no file"):
        convert("sequences", tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["amazon", "sequences", "lastfm"])
@pytest.mark.parametrize("on_error", ["refuse", "keep"])
def test_truncated_gz(tmp_path, form, on_error):
    line = {"amazon": json.dumps(REVIEW_2014), "sequences": "1 2 3", "lastfm": "1\t2\t3"}[form]
    text = "".join(f"{line}\n" for _ in range(3000)) + os.urandom(4000).hex()
    whole = packed(tmp_path / "x.gz", text).read_bytes()
    (tmp_path / "x.gz").write_bytes(whole[:-1500])
    with pytest.raises(UserError, match=r"x\.gz is damaged or truncated after line"):
        convert(form, tmp_path / "x.gz", tmp_path / "out", on_error=on_error)
    assert not (tmp_path / "out/x").exists()


def test_text_that_is_no_utf8(tmp_path):
    (tmp_path / "s").write_bytes(b"1 a b\n2 \xff\n")
    with pytest.raises(UserError, match="s, line 2: is no UTF-8 text"):
        convert("sequences", tmp_path / "s", tmp_path / "out")


def test_the_same_input_makes_the_same_bytes(tmp_path):
    source = written(tmp_path / "s.txt", SEQUENCES)
    first = convert("sequences", source, tmp_path / "a")
    second = convert("sequences", source, tmp_path / "b")
    assert first.fresh and second.fresh
    assert contents(first.folder)["s.inter"] == contents(second.folder)["s.inter"]  # the other files name the folder
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = convert("sequences", source, tmp_path / "a")
    assert not again.fresh and counts(again) == counts(first)
    assert times == {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    before = contents(first.folder)
    (first.folder / "s.inter").write_text("damaged")
    assert convert("sequences", source, tmp_path / "a").fresh and contents(first.folder) == before


def test_another_input_replaces_its_files_and_leaves_those_of_others(tmp_path):
    source, titles = written(tmp_path / "s.txt", SEQUENCES), written(tmp_path / "t.tsv", "item\ttitle\na\tA\n")
    done = convert("sequences", source, tmp_path / "out", titles=titles)
    (done.folder / "s.kg").write_text("mine")
    written(source, "9 z\n")
    assert convert("sequences", source, tmp_path / "out").interactions == 1
    assert {path.name for path in done.folder.iterdir()} == {"s.inter", "s.convert.json", "s.yaml", "s.kg"}


def test_a_data_set_of_others_is_left_alone(tmp_path):
    written(tmp_path / "out/s/s.inter", "by hand")
    with pytest.raises(UserError, match="did not write"):
        convert("sequences", written(tmp_path / "s.txt", SEQUENCES), tmp_path / "out")
    assert (tmp_path / "out/s/s.inter").read_text() == "by hand"
    for name in ("../x", "", ".x", "a/b"):
        with pytest.raises(UserError):
            convert("sequences", tmp_path / "s.txt", tmp_path / "out/s/s.inter", name)


def child(limit, errors, *arguments):
    """The command in a process of its own, which may write files of ``limit`` bytes; its stderr goes to a file."""

    def run():
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = open(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        sys.exit(main(["convert", *map(str, arguments)]))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def old_and_new(tmp_path, rows):
    """A standing conversion, and more input in its source."""
    source = written(tmp_path / "s.txt", SEQUENCES)
    done = convert("sequences", source, tmp_path / "out")
    written(source, "".join(f"u{row} a b c d e f g h\n" for row in range(rows)))
    return done, source, contents(done.folder)


def test_a_full_disk_leaves_the_old_files_whole(tmp_path):
    done, source, before = old_and_new(tmp_path, 5000)
    process = child(100_000, tmp_path / "errors", "sequences", source, f"--out={tmp_path / 'out'}")
    process.join()
    error = (tmp_path / "errors").read_text()
    assert process.exitcode == 2 and "what stood there is whole" in error and "Traceback" not in error
    assert contents(done.folder) == before
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["s"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_the_old_files_whole(tmp_path, number):
    done, source, before = old_and_new(tmp_path, 400_000)
    process = child(resource.RLIM_INFINITY, tmp_path / "errors", "sequences", source, f"--out={tmp_path / 'out'}")
    while process.is_alive() and not any(f.stat().st_size for f in (tmp_path / "out").glob(".s.*.tmp/*")):
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    error = (tmp_path / "errors").read_text()
    assert contents(done.folder) == before
    if number == signal.SIGINT:
        assert process.exitcode == 130 and "Traceback" not in error
        assert not list((tmp_path / "out").glob(".s.*.tmp"))
    else:
        assert process.exitcode == -number
        written(source, "9 z\n")
        assert convert("sequences", source, tmp_path / "out").interactions == 1
        assert not list((tmp_path / "out").glob(".s.*.tmp"))  # what the killed process left


def test_every_form_is_a_command(capsys):
    for form in (*FORMS, "checkpoint"):
        with pytest.raises(SystemExit):
            main(["convert", form, "--help"])
        assert form in capsys.readouterr().out
