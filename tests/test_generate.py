"""Sentences of a finished run: what they depend on, files that are continued, what is refused, the command line."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

import recbole_persona
from recbole_persona.cli import main
from recbole_persona.data import planted
from recbole_persona.errors import Busy, UserError
from recbole_persona.lm.sampling import NucleusSampling, row_numbers
from recbole_persona.models.pod import POD
from recbole_persona.runner.generation import generate_file
from recbole_persona.runner.pairs import read_pairs
from recbole_persona.runs import RunFolder

torch.set_num_threads(1)
SMALL = {
    "backbone_dropout": 0.0,
    "vocabulary_size": 200,
    "n_candidates": 5,
    "n_beams": 5,
    "MAX_ITEM_LIST_LENGTH": 5,
    "longest_answer": 10,
}
TASKS = ["sequential", "topn", "explanation"]
DRAWN = {"sample": True, "top_p": 0.9, "temperature": 0.8}
ROWS = 24  # of the test part: one a user


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    planted.write(folder, "small", n_interactions=480, n_users=ROWS, n_items=160, n_tastes=4, seed=1)
    return folder


def finished(model, data, run_dir, callback=None, **settings):
    """A run on the small data set."""
    shared = {
        "data_path": str(data),
        "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating", "feature"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "epochs": 1,
        "run_dir": str(run_dir),
        "topk": [5],
        "valid_metric": "NDCG@5",
        "metrics": ["NDCG"],
    }
    return recbole_persona.run(model, "small", config_dict=shared | settings, callback=callback)


@pytest.fixture(scope="module")
def pod(data, tmp_path_factory):
    """A run of a causal backbone that has learned all three tasks and was tested in all of them."""
    metrics = ["NDCG", "bleu-4", "rouge-l", "fmr", "usr"]
    settings = SMALL | {"backbone": "scratch:gpt2-tiny", "tasks": TASKS, "metrics": metrics}
    found = finished("POD", data, tmp_path_factory.mktemp("pod"), **settings)
    assert set(found["test_result"]) == {"ndcg@5", "bleu-4", "rouge-l", "fmr", "usr"}
    return found["run_dir"]


@pytest.fixture(scope="module")
def peapod(data, tmp_path_factory):
    """A run of an encoder and decoder whose texts no metric reads."""
    settings = {"backbone": "scratch:tiny", "tasks": TASKS, "user_vector_size": 8, "n_neighbours": 4, "n_heads": 2}
    return finished("PeaPOD", data, tmp_path_factory.mktemp("peapod"), **SMALL | settings)["run_dir"]


@pytest.fixture(scope="module")
def others(data, tmp_path_factory):
    """{model: folder} of runs that are no language models."""
    settings = {
        "ConstantSentence": {},
        "GRU4Rec": {"train_neg_sample_args": None, "hidden_size": 4, "embedding_size": 4},
    }
    return {
        name: finished(name, data, tmp_path_factory.mktemp(name), **more)["run_dir"] for name, more in settings.items()
    }


@pytest.fixture(params=["pod", "peapod"])
def run_dir(request):
    return request.getfixturevalue(request.param)


def interactions(data):
    """The last two rows of every user, {part: rows}, read without RecBole."""
    file = data / "small/small.inter"
    rows = pd.read_csv(file, sep="\t", header=0, names=["user", "item", "time", "rating", "text", "feature"])
    rows = rows.sort_values(["user", "time"])
    return {"test": rows.groupby("user").nth(-1), "valid": rows.groupby("user").nth(-2)}


# --- what is written


@pytest.mark.parametrize("split", ["test", "valid"])
def test_held_out_rows_have_their_references(run_dir, data, split):
    table = recbole_persona.generate(run_dir, split=split)
    assert list(table) == ["user", "item", "task", "text", "reference", "feature", "rating"]
    known = interactions(data)[split].set_index("user")
    assert set(table["user"]) == set(known.index) and len(table) == ROWS
    known = known.loc[table["user"]]
    for ours, theirs in (("item", "item"), ("reference", "text"), ("feature", "feature"), ("rating", "rating")):
        assert table[ours].tolist() == known[theirs].tolist()


def test_the_texts_are_those_of_evaluation(pod):
    """What is written for the test part is what metrics were measured on."""
    cells = pd.read_csv(f"{pod}/per_user.csv.gz")["generated"].dropna()
    assert recbole_persona.generate(pod, split="test")["text"].tolist() == [json.loads(cell) for cell in cells]


def test_pairs(run_dir):
    one = recbole_persona.generate(run_dir, "u3", "i7")
    assert list(one) == ["user", "item", "task", "text"] and one.loc[0, "task"] == "explanation"
    many = recbole_persona.generate(run_dir, ["u3", "u5"], ["i7", "i8"])
    assert many[["user", "item"]].to_numpy().tolist() == [["u3", "i7"], ["u5", "i8"]]
    assert many.loc[0, "text"] == one.loc[0, "text"]
    assert recbole_persona.generate(run_dir, "u3", ["i7", "i8", "i7"])["user"].tolist() == ["u3"] * 3
    assert recbole_persona.generate(run_dir, ["u3", "u4"], "i7")["item"].tolist() == ["i7"] * 2


def test_a_baseline_writes_too(others):
    table = recbole_persona.generate(others["ConstantSentence"], split="test")
    assert table["text"].nunique() == 1 and len(table) == ROWS


# --- what a text depends on


def test_batches_do_not_matter(run_dir):
    for options, size in (({}, 1), ({"beams": 3}, 5), (DRAWN | {"seed": 1}, 7)):
        whole = recbole_persona.generate(run_dir, split="test", **options)
        parts = recbole_persona.generate(run_dir, split="test", config_dict={"text_batch_size": size}, **options)
        pd.testing.assert_frame_equal(whole, parts)


def test_a_seed_gives_the_same_texts(run_dir):
    first, again, other = (recbole_persona.generate(run_dir, split="test", **DRAWN, seed=s)["text"] for s in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert (first != other).mean() > 0.5 and first.nunique() > ROWS / 2
    greedy = [recbole_persona.generate(run_dir, split="test")["text"].tolist() for _ in range(2)]
    assert greedy[0] == greedy[1]


def test_the_random_state_does_not_matter_and_is_left_alone(pod):
    texts = []
    for state in (1, 2):
        torch.manual_seed(state)
        np.random.seed(state)
        texts.append(recbole_persona.generate(pod, "u3", ["i7", "i8"], **DRAWN)["text"].tolist())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.7, 0.8), (1.0, 0.3), (1.0, 1e-9)])
def test_draws_are_those_of_the_distribution(temperature, top_p):
    """Evenly spaced numbers draw every token as often as transformers' own settings make it likely."""
    torch.manual_seed(4)
    scores, even = 2 * torch.randn(1, 12), 20_000
    numbers = (torch.arange(even, dtype=torch.float64) / even).unsqueeze(1)
    drawn = NucleusSampling(numbers, temperature, top_p)(None, scores.expand(even, -1))
    counts = Counter(drawn.argmax(dim=1).tolist())
    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, scores)).softmax(dim=-1)[0]
    assert np.allclose([counts[token] / even for token in range(12)], warped, atol=2e-4)
    assert (drawn == 0).sum(dim=1).eq(1).all() and drawn.isinf().sum() == even * 11


def test_numbers_of_a_row_are_its_own():
    whole = row_numbers(3, range(5), 4)
    assert torch.equal(whole[[4, 2]], row_numbers(3, [4, 2], 4))
    assert len(whole.unique()) == 20 and not torch.equal(whole, row_numbers(4, range(5), 4))


# --- files


@pytest.mark.parametrize("options", [{}, DRAWN | {"seed": 5}], ids=["greedy", "drawn"])
def test_a_file_that_is_continued_is_the_file_written_at_once(pod, tmp_path, options):
    options = options | {"split": "test", "config_dict": {"text_batch_size": 6}}
    assert generate_file(tmp_path / "whole.jsonl", pod, **options) == ROWS
    whole = (tmp_path / "whole.jsonl").read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    assert len(ends) == ROWS
    # nothing, a torn first line, the end of a batch, inside a batch, inside a line, all but the last byte, all
    for size in (0, 9, ends[5], ends[8], ends[16] + 30, len(whole) - 1, len(whole)):
        part = tmp_path / "part.jsonl"
        part.write_bytes(whole[:size])
        assert generate_file(part, pod, resume=True, **options) == ROWS - sum(end <= size for end in ends)
        assert part.read_bytes() == whole


@pytest.mark.slow
def test_a_killed_process_is_continued(pod, tmp_path):
    out, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    options = [f"--run={pod}", "--split=test", "--text_batch_size=2", "--sample", "--seed=5"]
    command = [sys.executable, "-m", "recbole_persona", "generate", *options, f"--out={out}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (out.exists() and out.stat().st_size > 1000):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and 0 < len(out.read_bytes().splitlines()) < ROWS
    assert main(["generate", *options, f"--out={out}", "--resume"]) == 0
    assert main(["generate", *options, f"--out={whole}"]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_the_lines_of_a_file(pod, tmp_path):
    out = tmp_path / "deep" / "texts.jsonl"
    generate_file(out, pod, split="valid", resume=True)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    settings = [row.pop("settings") for row in rows]
    assert all(one == settings[0] for one in settings) and settings[0]["beams"] == 1 and len(settings[0]["run"]) == 16
    assert rows == recbole_persona.generate(pod, split="valid").to_dict("records")
    again = recbole_persona.generate(pod, pairs=out)  # such a file names pairs
    assert again[["user", "item"]].to_numpy().tolist() == [[row["user"], row["item"]] for row in rows]


def test_a_file_of_something_else_is_left_alone(pod, peapod, tmp_path):
    out = tmp_path / "texts.jsonl"
    generate_file(out, pod, ["u1", "u2", "u3"], ["i5", "i2", "i3"], **DRAWN, seed=1)
    kept = out.read_bytes() + b'{"torn'
    out.write_bytes(kept)
    users, items = ["u1", "u2", "u3", "u4"], ["i5", "i2", "i3", "i4"]
    same = DRAWN | {"seed": 1}
    for run_dir, asked, options, sentence in [
        (pod, (users, items), same | {"seed": 2}, "line 1, has settings .*'seed': 1.*, and .*'seed': 2"),
        (pod, (users, items), same | {"top_p": 0.8}, "has settings"),
        (pod, (users, items), same | {"config_dict": {"longest_answer": 5}}, "has settings"),
        (pod, (users, items), {}, "has settings"),
        (peapod, (users, items), same, "has settings"),
        (pod, (["u1", "u9", "u3"], items[:3]), same, "line 2, has user u2, and u9 is asked for"),
        (pod, (users[:2], items[:2]), same, "more than the 2 rows"),
    ]:
        with pytest.raises(UserError, match=sentence):
            generate_file(out, run_dir, *asked, resume=True, **options)
        assert out.read_bytes() == kept
    generate_file(tmp_path / "test.jsonl", pod, split="test")
    with pytest.raises(UserError, match=r"'rows': 'test'.*, and .*'rows': 'pairs'"):
        generate_file(tmp_path / "test.jsonl", pod, pairs=tmp_path / "test.jsonl", resume=True)
    with pytest.raises(UserError, match="is there already"):
        generate_file(out, pod, users, items, **same)
    with pytest.raises(UserError, match="not a regular file"):
        generate_file(tmp_path, pod, users, items, resume=True)
    with FileLock(tmp_path / f".{out.name}.lock"), pytest.raises(Busy, match="Another process writes"):
        generate_file(out, pod, users, items, resume=True, **same)
    assert generate_file(out, pod, users, items, resume=True, **same) == 1
    out.write_text("something else\n")
    with pytest.raises(UserError, match="line 1, has user None, and u1 is asked for"):
        generate_file(out, pod, users, items, resume=True)


# --- files of pairs


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user_id,item_id\nu1,i1\nu 2,i2\n"),
        ("a.csv", '\ufeffitem,"user",more\r\ni1, u1,x\r\n\r\ni2,"u 2",\r\n'),
        ("a.tsv", "user_id:token\titem_id:token\trating:float\nu1\ti1\t3\nu 2\ti2\t4"),
        ("a.jsonl", '{"user": "u1", "item": "i1", "text": "a\u2028b"}\n\n{"item": "i2", "user": "u 2"}\n'),
    ],
)
def test_forms_of_pairs(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert read_pairs(tmp_path / name, "user_id", "item_id") == (["u1", "u 2"], ["i1", "i2"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", "names no pair"),
        ("a.csv", b"user,item\n", "names no pair"),
        ("a.csv", b"u1,i1\nu2,i2\n", "has no column user_id or user; it has u1, i1"),
        ("a.csv", b"user,thing\nu2,i2\n", "has no column item_id or item; it has user, thing"),
        ("a.csv", b"user,item\nu1,i1\nu2\n", "line 3, lacks the id"),
        ("a.csv", b"user,item\nu1,\n", "line 2, lacks the id"),
        ("a.csv", b'user,item,title\nu1,i1,"The Movie\nu2,i2,x\n', "below line 1 is no CSV"),
        ("a.csv", b'user,item,title\nu1,i1,x\nu2,i2,"The" Movie\n', "below line 2 is no CSV"),
        ("a.csv", b"\xff\xfe1", "UTF-8"),
        ("a.jsonl", b'{"user": "u1", "item": "i1"}\n{"user": ', "line 2, is no JSON object"),
        ("a.jsonl", b"[1]\n", "line 1, is no JSON object"),
        ("a.jsonl", b'{"user": "u1", "item": ["i1"]}\n', "line 1, lacks the id"),
    ],
)
def test_files_that_name_no_pairs(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_pairs(tmp_path / name, "user_id", "item_id")
    with pytest.raises(UserError, match="There is no file of pairs"):
        read_pairs(tmp_path / "none", "user_id", "item_id")


# --- runs that were interrupted


def stop_after_two(epoch, score):
    if epoch == 1:
        raise KeyboardInterrupt


WRITER = SMALL | {
    "backbone": "scratch:gpt2-tiny",
    "tasks": ["sequential", "explanation"],
    "gradient_accumulation_steps": 2,
}


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run of POD that was interrupted after the validation of its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        finished("POD", data, folder, stop_after_two, **WRITER, epochs=3, learning_rate=0.01)
    return folder


def test_an_interrupted_run_writes_with_its_best_weights_so_far(stopped, data, tmp_path, caplog):
    two = finished("POD", data, tmp_path / "two", **WRITER, epochs=2, learning_rate=0.01)
    expected = recbole_persona.generate(two["run_dir"], split="test")
    assert not [line for line in caplog.messages if "not complete" in line]
    caplog.clear()
    table = recbole_persona.generate(stopped, split="test")
    pd.testing.assert_frame_equal(table, expected)
    validations = two["result"]["validations"]
    best = max(validations, key=lambda row: row[2])[0]
    assert len({score for *_, score in validations}) == 2
    said = f"The run in {stopped} is not complete: these are its best weights so far, of epoch {best}."
    assert caplog.messages[-1] == said


def test_a_file_of_an_interrupted_run_is_continued(stopped, tmp_path):
    copy, out = tmp_path / "run", tmp_path / "out.jsonl"
    shutil.copytree(stopped, copy)
    options = {"split": "test", "config_dict": {"text_batch_size": 6}}
    assert generate_file(out, copy, **options) == ROWS
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    assert generate_file(out, copy, resume=True, **options) > 0
    assert out.read_bytes() == whole


def test_an_interrupted_run_that_cannot_write_yet(data, tmp_path, monkeypatch):
    learn = POD.calculate_loss

    def stop(self, interaction):
        if (tmp_path / "run/config.yaml").exists():  # not the batch that is tried before the run begins
            raise KeyboardInterrupt
        return learn(self, interaction)

    with monkeypatch.context() as patched:
        patched.setattr(POD, "calculate_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            finished("POD", data, tmp_path / "run", **WRITER)
    with pytest.raises(
        UserError, match=r"stopped before its first model was saved; continue it with --resume=.*/run\."
    ):
        recbole_persona.generate(tmp_path / "run", split="test")
    with pytest.raises(UserError, match="There is no run folder"):
        recbole_persona.generate(tmp_path / "none", split="test")


def test_an_interrupted_run_whose_data_have_changed(stopped, data, tmp_path):
    own, copy = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, own)
    shutil.copytree(stopped, copy)
    moved = {"data_path": str(own)}
    assert len(recbole_persona.generate(copy, split="test", config_dict=moved)) == ROWS
    file = own / "small/small.inter"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    for read in (
        lambda: recbole_persona.generate(copy, split="test", config_dict=moved),
        lambda: recbole_persona.run(resume=str(copy), config_dict=moved),
    ):
        with pytest.raises(UserError, match="The data set 'small' has changed since the run in"):
            read()


def test_an_unfinished_run_of_an_earlier_version(stopped, tmp_path):
    """Its ``state/run.json`` names no split: nothing says that the data are the same, until it is finished."""
    copy = tmp_path / "run"
    shutil.copytree(stopped, copy)
    file = RunFolder(copy).run_file
    described = json.loads(file.read_text())
    assert len(described.pop("split_hash")) == 16
    file.write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"did not note its split; finish it with --resume="):
        recbole_persona.generate(copy, split="test")
    recbole_persona.run(resume=str(copy))
    assert len(recbole_persona.generate(copy, split="test")) == ROWS


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"users": "u99", "items": "i5"}, "small has no user 'u99'; the nearest are"),
        ({"users": "u1", "items": ["i5", "zz"]}, "small has no item 'zz'"),
        ({"users": [], "items": "i5"}, "No user of small is named"),
        ({"users": "u1"}, "for a user and an item; name both"),
        ({"users": ["u1", "u2"], "items": ["i5", "i2", "i3"]}, "2 users and 3 items are named"),
        ({}, "one of the three"),
        ({"users": "u1", "items": "i5", "split": "test"}, "one of the three"),
        ({"split": "train"}, "split is one of valid, test, not 'train'"),
        ({"split": "test", "task": "topn"}, "topn is answered with items: `recbole-persona recommend --run="),
        (
            {"split": "test", "task": "review"},
            r"not trained on the task 'review' \(trained: sequential, topn, explanation\)",
        ),
        ({"split": "test", "beams": 0}, "beams is 1 or more, not 0"),
        ({"split": "test", "beams": 2, "sample": True}, "knows no beams"),
        ({"split": "test", "seed": 1}, "temperature, top_p and seed are those of --sample"),
        ({"split": "test", "sample": True, "temperature": 0.0}, "temperature is a number above 0, not 0"),
        ({"split": "test", "sample": True, "top_p": 1.5}, "top_p is a share above 0, up to 1, not 1.5"),
        ({"split": "test", "sample": True, "seed": -1}, "seed is a whole number from 0, not -1"),
        (
            {"split": "test", "config_dict": {"text_batch_size": 0}},
            "text_batch_size must be a whole number of at least 1",
        ),
    ],
)
def test_mistakes(pod, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        recbole_persona.generate(pod, **arguments)


def test_models_that_do_not_write(others):
    with pytest.raises(UserError, match="GRU4Rec writes no texts; a run of POD or PeaPOD"):
        recbole_persona.generate(others["GRU4Rec"], split="test")
    for options in ({"sample": True}, {"beams": 2}, {"task": "review"}):
        with pytest.raises(UserError, match="ConstantSentence writes one sentence for the task explanation"):
            recbole_persona.generate(others["ConstantSentence"], split="test", **options)


def test_a_run_that_has_learned_no_sentences(data, tmp_path):
    run_dir = finished("POD", data, tmp_path, **SMALL, backbone="scratch:gpt2-tiny")["run_dir"]
    with pytest.raises(UserError, match=r"was not trained on the task 'explanation' .trained: sequential"):
        recbole_persona.generate(run_dir, "u1", "i5")


# --- the command line


def test_the_command(pod, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["generate", f"--run={pod}", "--user=u3", "--item=i7,i8"]) == 0
    shown = capsys.readouterr().out
    expected = recbole_persona.generate(pod, "u3", ["i7", "i8"])
    assert "explanation" in shown and "u3" in shown and max(map(len, shown.splitlines())) <= 100

    (tmp_path / "pairs.csv").write_text("user_id,item_id\nu3,i7\nu3,i8\n")
    out = tmp_path / "out.jsonl"
    command = ["generate", f"--run={pod}", f"--pairs={tmp_path / 'pairs.csv'}", "--text_batch_size=1", f"--out={out}"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"2 rows written to {out}\n"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in rows] == expected["text"].tolist()
    assert main([*command, "--resume"]) == 0 and capsys.readouterr().out == f"0 rows written to {out}\n"
    for wrong, sentence in ((command, "is there already"), (command[:4] + ["--resume"], "name it with --out")):
        assert main(wrong) == 2
        message = capsys.readouterr().err
        assert sentence in message and message.count("\n") == 1
