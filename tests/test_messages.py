"""What is said where something is missing, odd, or done already: the sentence names it, and what to do."""

import builtins
import io
import os
import re
import shlex
import shutil
import sys
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from recbole.utils.case_study import full_sort_topk
from sqlalchemy.exc import OperationalError, PendingRollbackError
from tiny import contents, interactions, refused, with_line, write_tiny

from recbole_persona import load, progress, run
from recbole_persona.cli import COMMANDS, EXAMPLES, PAGES, command_parser, main
from recbole_persona.cli.explain import _why
from recbole_persona.cli.leaderboard import print_rows
from recbole_persona.config import Config
from recbole_persona.data.columns import absent
from recbole_persona.data.convert import convert
from recbole_persona.errors import StorageError, UserError, nearest, one_sentence
from recbole_persona.runs import RunFolder
from recbole_persona.search.storage import Storage
from recbole_persona.upstream.files import load_tree

BPR = ("--model=BPR", "--dataset=tiny")


@pytest.fixture
def tiny(tmp_path):
    return partial(write_tiny, tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Settings of a finished run; its folder is ``run_dir``."""
    settings = write_tiny(tmp_path_factory.mktemp("finished"), with_line("lonely\ti0\t3\t999")) | {"use_gpu": False}
    run("BPR", "tiny", config_dict=settings)
    return settings


# --- sentences --------------------------------------------------------------------------------------------------------


def test_names_that_are_near():
    assert nearest("bogus", ["n_neighbours", "epochs"]) == ""
    assert nearest("epoch", ["seed", "epochs"]) == "; the nearest is 'epochs'"
    assert nearest("NDGC", ["gauc", "NDCG", "cgnd"], 3) == "; the nearest is 'NDCG'"
    assert nearest("rouge-3", ["rouge-1", "rouge-2", "bleu"], 3) == "; the nearest are 'rouge-2' and 'rouge-1'"


def test_a_key_that_is_not_there_is_no_sentence_by_itself():
    assert one_sentence(KeyError("i77")) == "'i77' is looked up and is not there."
    assert one_sentence(KeyError(np.str_("e1"))) == "'e1' is looked up and is not there."
    assert one_sentence(TypeError("no 'x' and 'y'")) == "no 'x' and 'y'." and one_sentence(ValueError("'x'")) == "x."


SETTINGS = {
    "unknown key": ({"bogus": 3}, r"There is no config key 'bogus' \(docs/config.md; --allow_unknown"),
    "distribution": (
        {"train_neg_sample_args": {"distribution": "normal"}},
        r"must be one of uniform, popularity, none; it is 'normal'",
    ),
    "unknown metric": ({"metrics": ["precison"]}, "no metric named 'precison'; the nearest is 'precision'"),
    "unload_col of what is needed": (
        {"load_col": ..., "unload_col": {"inter": ["user_id"]}},
        r"'user_id' of .* is not loaded; set --unload_col=\"{'inter': \[\]}\"",
    ),
    "both of them": ({"unload_col": {"inter": ["rating"]}}, "load_col and unload_col both name columns of 'inter'"),
    "val_interval of what is not loaded": (
        {"load_col": {"inter": ["user_id", "item_id"]}, "val_interval": {"rating": "[3,inf)"}},
        r"val_interval reads 'rating', and the column 'rating' .* not loaded; "
        r"set --load_col=\"{'inter': \['user_id', 'item_id', 'rating'\]}\"\.$",
    ),
    "val_interval of a list of numbers": (
        {"val_interval": {"v": "[3,inf)"}},
        "val_interval keeps rows by single values, and the column 'v' of .*item is of type float_seq",
    ),
    "val_interval of ids": (
        {"val_interval": {"user_id": "[3,inf)"}},
        "user_id, a column of type token, must be a list",
    ),
    "val_interval as a list": (
        {"val_interval": {"rating": [3, 5]}},
        r"rating, a column of type float, must be an interval",
    ),
    "a transform of no histories": (
        {"transform": "crop_itemseq"},
        "crop_itemseq changes histories, and BPR reads none",
    ),
    "an unknown transform": ({"transform": "crop"}, "transform must be one of mask_itemseq, "),
    "order by time": (
        {"load_col": {"inter": ["user_id", "item_id"]}, "eval_args": {"order": "TO"}},
        r"The TIME_FIELD is 'timestamp', and .* is not loaded; set "
        r"--load_col=\"{'inter': \['user_id', 'item_id', 'timestamp'\]}\"\.$",
    ),
}


@pytest.mark.parametrize(("settings", "sentence"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_cannot_be(tiny, settings, sentence):
    made = tiny(item="item_id:token\tv:float_seq\ni0\t1 2\n") | settings
    made = {key: value for key, value in made.items() if value is not ...}
    with pytest.raises(UserError, match=sentence):
        run("BPR", "tiny", config_dict=made)


def test_a_transform_needs_its_share(tiny):
    with pytest.raises(UserError, match="The transform mask_itemseq needs the share mask_ratio; set it"):
        run("SASRec", "tiny", config_dict=tiny() | {"transform": "mask_itemseq"})


def test_unload_col_without_load_col_loads_the_others(tiny):
    settings = tiny() | {"unload_col": {"inter": ["rating"]}}
    del settings["load_col"]
    outcome = run("BPR", "tiny", config_dict=settings)
    again = yaml.safe_load((RunFolder(outcome["run_dir"]).config_file).read_text())
    assert again["load_col"] is None and sum(outcome["result"]["statistics"].values()) == 72 + 12 + 10


def test_why_a_column_is_absent(tiny):
    settings = tiny(item="item_id:token\tclass:token\ni0\tx\n") | {"load_col": {"inter": ["user_id"]}}
    made, start = Config("BPR", "tiny", config_dict=settings), f"{settings['data_path']}/tiny/tiny"
    load_both = "set --load_col=\"{'inter': ['user_id'], 'item': ['item_id', 'class']}\""
    assert absent(made, "class") == f"the column 'class' of {start}.item is not loaded; {load_both}"
    assert absent(made, "clas", "item") == (
        f"{start}.item has no column 'clas'; it has item_id, class; the nearest is 'class'"
    )
    assert absent(made, "age", "user") == f"there is no file {start}.user"
    assert absent(made, "age") == (
        f"no column of {start}.inter and {start}.item is named 'age'; they have user_id, item_id, rating, timestamp, class"
    )


LOADED = ["user_id", "item_id", "timestamp"]
LABELLED = (
    interactions().replace("timestamp:float", "timestamp:float\tlabel:float\tremark:token").replace("\n", "\t1\tgood\n")
)
LABELLED = LABELLED.replace("token\t1\tgood\n", "token\n", 1)
KINDS = "item_id:token\tkinds:token_seq\tprice ($):float\n" + "".join(
    f"i{i}\tk{i % 3} k{i % 2}\t{i}\n" for i in range(10)
)
SEQUENCES = {"train_neg_sample_args": None, "hidden_size": 4, "n_heads": 1}
VALUES = {"metrics": ["AUC"], "valid_metric": "AUC"}
NOT_LOADED = {
    "label": ("FM", VALUES, LOADED, "column 'label'"),
    "ratings to make labels of": ("FM", VALUES | {"LABEL_FIELD": "bought"}, LOADED, "no column 'bought'"),
    "threshold": ("FM", VALUES | {"threshold": {"rating": 3}}, LOADED, "column 'rating'"),
    "time": ("SASRec", SEQUENCES, LOADED[:2], "column 'timestamp'"),
    "user that is unloaded": (
        "BPR",
        {"load_col": None, "unload_col": {"inter": ["user_id"]}},
        None,
        "column 'user_id'",
    ),
    "feature": ("SASRecF", SEQUENCES | {"selected_features": ["kinds"]}, LOADED, "column 'kinds'"),
    "item attribute": (
        "S3Rec",
        SEQUENCES | {"item_attribute": "kinds", "train_stage": "pretrain", "pretrain_epochs": 1},
        LOADED,
        "column 'kinds'",
    ),
    "interval of an odd name": ("BPR", {"val_interval": {"price ($)": "[0,20]"}}, LOADED, r"'price \(\$\)'"),
    "ruler": (
        "Pop",
        {"metrics": ["ILD"], "valid_metric": "ILD@3", "ild_ruler": "field:kinds"},
        LOADED,
        "column 'kinds'",
    ),
    "numbers": ("BPR", {"normalize_field": ["rating"]}, LOADED, "normalize_field names 'rating', .* column 'rating'"),
    "history": ("DIN", {"behaviour_fields": ["remark"]}, LOADED, "column 'remark'"),
    "feature of a history": ("UserEncoder", SEQUENCES | {"features": ["kinds"]}, LOADED, "column 'kinds'"),
    "texts": (
        "ConstantSentence",
        {"metrics": ["rouge-l"], "valid_metric": "rouge-l", "explanation_field": "remark"},
        LOADED,
        "column 'remark'",
    ),
}


@pytest.mark.parametrize(("model", "settings", "loaded", "named"), NOT_LOADED.values(), ids=NOT_LOADED)
def test_the_remedy_for_a_column_that_is_not_loaded_works_as_it_is_printed(
    tiny, capsys, model, settings, loaded, named
):
    settings = tiny(LABELLED, item=KINDS) | {"load_col": {"inter": loaded}} | settings
    file = tiny.args[0] / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [f"--model={model}", "--dataset=tiny", f"--config_files={file}"]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(named, said) and f"{settings['data_path']}/tiny/tiny." in said
    remedy = said.partition("set --")[2].partition("; or")[0].rstrip(".")
    assert main([*command, *(each for each in shlex.split(f"--{remedy}") if each.startswith("--"))]) == 0


def test_interval_that_reads_like_a_list(tiny):
    assert run("BPR", "tiny", config_dict=tiny() | {"user_inter_num_interval": "[2,10]"})["test_result"]


# --- runs -------------------------------------------------------------------------------------------------------------


def test_the_run_folder_is_named_first_and_a_finished_run_says_that_nothing_was_trained(tiny, capsys):
    settings = tiny() | {"metrics": "[NDCG,Recall]"}
    typed = [*BPR, *(f"--{key}={value}" for key, value in settings.items() if key != "epochs"), "--epochs", "1"]
    assert main(typed) == 0
    printed = capsys.readouterr()
    folder = settings["run_dir"]
    assert printed.err.splitlines()[0] == f"run folder: {folder}; log: {folder}/train.log"
    assert "recall@3" in printed.out and "nothing was trained" not in printed.out
    assert main(typed) == 0
    printed = capsys.readouterr()
    assert "complete already and nothing was trained" in printed.out and "recall@3" in printed.out and not printed.err


def test_a_finished_run_is_met_in_a_folder_that_cannot_be_written(finished, tmp_path):
    folder = RunFolder(finished["run_dir"])
    (folder.path / ".lock").unlink()
    (folder.path / ".lock").mkdir()  # stands in the way of every process that would write, also of root's
    try:
        before = contents(folder.path)
        assert run("BPR", "tiny", config_dict=finished)["trained"] is False
        assert contents(folder.path) == before
        with pytest.raises(UserError, match="cannot be written"):
            run("BPR", "tiny", config_dict=finished, rerun=True)
    finally:
        (folder.path / ".lock").rmdir()


def test_another_split_is_called_so(finished, capsys):
    said = refused(capsys, "evaluate", f"--run={finished['run_dir']}", "--split_seed=5")
    assert said.startswith("split_seed is 5 and was 2020 in the run in ") and "trained on; leave it out" in said
    order = "--eval_args={'order':'TO'}"
    assert "order in eval_args is TO and was RO" in refused(capsys, "evaluate", f"--run={finished['run_dir']}", order)


@pytest.mark.parametrize("place", ["file/x", "/proc/x"])
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc is not here")
def test_what_cannot_be_written_is_one_sentence(finished, tmp_path, capsys, place):
    (tmp_path / "file").write_text("")
    frame = pd.DataFrame({"u": ["a", "b"], "i": ["c", "d"]})
    asked = ["recommend", f"--run={finished['run_dir']}", "--user=u1", f"--out={tmp_path / place}.csv"]
    assert "x.csv could not be written (" in refused(capsys, *asked)
    with pytest.raises(UserError, match=r"x could not be written \("):
        load(finished["run_dir"]).export(tmp_path / place)
    with pytest.raises(UserError, match=r"could not be written|is a file, not a folder"):
        convert("csv", frame, tmp_path / place, "x", user="u", item="i")


def test_weights_that_may_not_be_read(finished, monkeypatch):
    file = RunFolder(finished["run_dir"]).model_file
    opened = builtins.open

    def refuse(name, *arguments, **options):  # root may read everything
        if str(name) == str(file):
            raise PermissionError(13, "Permission denied", str(name))
        return opened(name, *arguments, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read: permission denied\.$"):
        load_tree(file)


def test_a_run_that_is_not_saved_leaves_no_thread(tiny):
    before = set(threading.enumerate())
    outcome = run("BPR", "tiny", config_dict=tiny(), saved=False)
    assert outcome["trained"] and outcome["run_dir"] is None
    assert not [thread for thread in set(threading.enumerate()) - before if "Writer" in type(thread).__name__]


def test_progress_where_there_is_no_terminal(monkeypatch, capsys):
    with progress.progress(total=3, desc="BPR on tiny", unit="epoch") as bar:
        bar.update(3)
    assert not capsys.readouterr().err  # too short to be told of
    monkeypatch.setattr(progress, "SECONDS", 0)
    with progress.progress(total=3, desc="BPR on tiny", unit="epoch") as bar:
        bar.set_postfix_str("loss 0.5", refresh=False)
        bar.update(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("BPR on tiny: 0 of 3 epochs") and "BPR on tiny: 2 of 3 epochs, 00:00, loss 0.5" in lines


def test_an_epoch_that_takes_long_is_seen_to_go_on(tiny, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0)
    run("BPR", "tiny", config_dict=tiny() | {"train_batch_size": 8}, saved=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("BPR on tiny: 0 of 1 epochs")]
    assert any(line.endswith(", 3 steps") for line in lines)


MODEL = """
from recbole.model.general_recommender import BPR

class Mine(BPR):
    config_defaults = {"own_width": 3}
"""


def test_a_model_in_another_folder_is_named_by_its_file(tiny, tmp_path, capsys):
    file = tmp_path / "other/mymf.py"
    file.parent.mkdir()
    file.write_text(MODEL)
    settings = tiny()
    said = refused(capsys, "--model=mymf:Mine", "--dataset=tiny", **settings)
    assert f"not in {os.getcwd()}, on PYTHONPATH or among the installed packages" in said
    assert "by its path, as --model=folder/mymf.py:Mine" in said
    assert "There is no file" in refused(capsys, f"--model={tmp_path}/no.py:Mine", "--dataset=tiny", **settings)
    outcome = run(f"{file}:Mine", "tiny", config_dict=settings | {"own_width": 4})
    assert outcome["model"] == f"{file}:Mine" and load(outcome["run_dir"]).config["own_width"] == 4
    del sys.modules[str(file)]
    with pytest.raises(UserError, match=r"would run the module '.*mymf\.py', which is not installed"):
        load(outcome["run_dir"])
    assert load(outcome["run_dir"], trust=True).config["own_width"] == 4


# --- case studies, and models with few items --------------------------------------------------------------------------


def test_a_case_study_of_a_user_without_a_test_row(finished):
    loaded = load(finished["run_dir"])
    users = loaded.dataset.token2id("user_id", ["lonely", "u1"])
    scores, items = full_sort_topk(users, loaded.model, loaded.test_data, k=10)
    met = loaded.dataset.token2id("item_id", "i0")
    assert met not in items[0][torch.isfinite(scores[0])] and torch.isfinite(scores[0]).sum() == 9


def test_a_case_study_of_sequences_that_end_before_the_test(tiny):
    early = with_line("lonely\ti0\t3\t999") + "pair\ti1\t3\t998\npair\ti2\t3\t999\n"
    settings = tiny(early) | {"hidden_size": 4, "n_heads": 1, "train_neg_sample_args": None}
    loaded = load(run("SASRec", "tiny", config_dict=settings)["run_dir"])
    names = ["lonely", "u1", "pair"]
    scores, items = full_sort_topk(loaded.dataset.token2id("user_id", names), loaded.model, loaded.test_data, k=10)
    for row, name in ((0, "lonely"), (2, "pair")):
        unseen = loaded.recommend([name], topk=10)
        found = dict(zip(loaded.dataset.id2token("item_id", items[row].numpy()).tolist(), scores[row].tolist()))
        assert [item for item in found if item in set(unseen["item"])] == unseen["item"].tolist()
        np.testing.assert_allclose([found[item] for item in unseen["item"]], unseen["score"], rtol=1e-5)
    own = full_sort_topk(loaded.dataset.token2id("user_id", ["u1"]), loaded.model, loaded.test_data, k=10)
    torch.testing.assert_close((scores[1], items[1]), (own[0][0], own[1][0]))
    with pytest.raises(UserError, match=r"no history of user '\[PAD\]' to rank by"):
        full_sort_topk(np.array([0]), loaded.model, loaded.test_data, k=3)


def test_a_case_study_of_rows_says_what_it_needs(tiny):
    outcome = run("BPR", "tiny", config_dict=tiny() | {"eval_args": {"mode": "uni3"}})
    loaded = load(outcome["run_dir"])
    with pytest.raises(UserError, match="rank all items, and these data are for another evaluation"):
        full_sort_topk(np.array([1]), loaded.model, loaded.test_data, k=3)


def test_cross_entropy_is_told_of_once_and_cpr_takes_few_items(tiny, capsys):
    settings = tiny() | {"hidden_size": 8, "use_gpu": False}
    assert main(["--model=GRU4RecCPR", "--dataset=tiny", *(f"--{key}={value}" for key, value in settings.items())]) == 0
    assert capsys.readouterr().err.count("train_neg_sample_args is set to None") == 1


# --- reasons, storages, help ------------------------------------------------------------------------------------------


def test_a_persona_without_history_is_no_reason():
    personas = [
        {"persona": 0, "name": "Drama", "weight": 0.36, "history": 4},
        {"persona": 1, "name": "rarely used (1)", "weight": 0.37, "history": 0},
        {"persona": 2, "name": "rarely used (2)", "weight": 0.27, "history": 0},
    ]
    said = str(_why({"personas": personas, "verb": "watched", "because": []}))
    assert said == "no reason: the persona behind it stands for nothing of the history"
    personas[0]["weight"] = 0.4
    because = [{"item": "i1", "title": "Heat", "weight": 0.5}]
    assert str(_why({"personas": personas, "verb": "watched", "because": because})) == (
        "40% Drama; because you watched “Heat”"
    )


@pytest.mark.parametrize(
    "fault",
    [
        PendingRollbackError("Can't reconnect until invalid transaction is rolled back."),
        OperationalError("SELECT 1", {}, Exception("server closed the connection"), connection_invalidated=True),
    ],
)
def test_a_database_that_goes_away(tmp_path, fault):
    storage = Storage(f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(StorageError, match=r"failed \(the connection was lost\); .* go on with --resume"):
        with storage.plainly():
            raise fault


def test_one_more_metric_is_one(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((50, 20)))
    row = {"name": "BPR", "status": "run", "metrics": {name: {"mean": 0.5} for name in ("ndcg@5", "ndcg@10", "mrr@5")}}
    print_rows("tiny", [row])
    assert "1 more metric is on the page." in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_help_are_commands(command):
    assert len(EXAMPLES[command]) == 2 and command in PAGES
    for example in EXAMPLES[command]:
        settings = command_parser(command).parse_known_args(example.split())[1]
        assert not [one for one in settings if not one.startswith("--")]
    shown = io.StringIO()
    command_parser(command).print_help(shown)
    assert EXAMPLES[command][0] in shown.getvalue() and PAGES[command] in shown.getvalue()
