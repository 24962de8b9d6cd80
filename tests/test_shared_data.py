"""Data that the runs of a board or a search share are those that each would read."""

import os

import pandas as pd
import pytest
import torch
import yaml
from board_files import PROTOCOL, ran, written
from recbole.data.dataset import Dataset
from test_graph_items import write as write_graph
from tiny import interactions, write_tiny

from recbole_persona import run, tune
from recbole_persona.board.cells import plan
from recbole_persona.board.specification import read_board
from recbole_persona.config import Config
from recbole_persona.runner import shared_data
from recbole_persona.runner.reranked import rerank_run
from recbole_persona.runner.shared_data import sharing_data
from recbole_persona.runner.training import _data
from recbole_persona.runs import RunFolder

IN_TIME = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}, "train_batch_size": 32}
LABELLED = {
    "threshold": {"rating": 3}, "eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC",
    "train_neg_sample_args": None,
}  # fmt: skip
RANKED = {
    "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user", "mode": "full"},
    "train_neg_sample_args": {"sample_num": 1},
}
GRAPH = {"load_col": {"inter": "*", "kg": "*", "link": "*"}, "kg_embedding_size": 4}
WRITES = IN_TIME | {"backbone": "scratch:tiny", "n_candidates": 5, "n_beams": 5}
ITEMS = "item_id:token\ttitle:token\tkind:token\n" + "".join(f"i{n}\tTitle {n}\tk{n % 3}\n" for n in range(10))
PAIRS = {
    "general models": ("EASE", "AMPCF", {}, {"n_personas": 2, "seed": 5}),
    "a model of contexts": ("BPR", "FM", RANKED, {"learning_rate": 0.1}),
    "decision trees": ("LightGBM", "LightGBM", LABELLED, {"seed": 5}),
    "sequential models": ("UserEncoder", "DIN", IN_TIME, {"learning_rate": 0.1}),
    "negatives are drawn for the histories": ("DIEN", "DIEN", IN_TIME, {"embedding_size": 8}),
    "models of knowledge graphs": ("CKE", "CFKG", GRAPH, {"learning_rate": 0.1}),
    "language models": ("POD", "POD", WRITES, {"learning_rate": 0.01}),
}


@pytest.fixture
def settings(tmp_path):
    return write_tiny(tmp_path, item=ITEMS) | {"use_gpu": False, "state": "ERROR"}


@pytest.fixture
def read(monkeypatch):
    """The classes of the data sets that were read."""
    found, upstream = [], Dataset._load_data
    monkeypatch.setattr(Dataset, "_load_data", lambda self, *args: found.append(type(self)) or upstream(self, *args))
    return found


def data(name, settings, **others):
    return _data(Config(name, "tiny", config_dict=settings | others))


def reached(result):
    """What must be the same with and without sharing."""
    folder = RunFolder(result["run_dir"])
    assert len(folder.per_user())
    keys = ("split_hash", "statistics", "best_valid", "test", "steps", "config_hash")
    return folder.per_user(), {key: folder.result()[key] for key in keys}


def same(found, wanted):
    pd.testing.assert_frame_equal(found[0], wanted[0], check_exact=True)
    assert found[1] == wanted[1]


@pytest.mark.parametrize("first, second, shared, own", PAIRS.values(), ids=PAIRS)
def test_a_run_on_a_copy_is_that_on_what_it_would_read(first, second, shared, own, settings, tmp_path, read):
    if shared is GRAPH:
        settings["data_path"] = str(write_graph(tmp_path / "graph", [(f"i{n}", f"e{n}") for n in range(12)]))
    settings |= shared
    wanted = reached(run(second, "tiny", config_dict=settings | own | {"run_dir": str(tmp_path / "alone")}))
    with sharing_data():
        data(first, settings)
        read.clear()
        found = reached(run(second, "tiny", config_dict=settings | own))
    same(found, wanted)
    assert not read


def test_random_numbers_continue_and_nothing_is_anybody_elses(settings):
    config = Config("SASRec", "tiny", config_dict=settings | IN_TIME)
    _data(config)
    numbers = torch.rand(3)
    with sharing_data():
        first, _ = _data(config)
        rows = first.inter_feat["item_id"].clone()
        first.inter_feat["item_id"].zero_()
        first.inter_feat.histories.flat["item_id"].zero_()
        first.field2token_id["item_id"].clear()
        other = Config("SASRec", "tiny", config_dict=settings | IN_TIME)
        second, loaders = _data(other)
        assert torch.equal(torch.rand(3), numbers)
    assert torch.equal(second.inter_feat["item_id"], rows) and len(second.field2token_id["item_id"]) == 11
    assert second.config is other and all(loader._dataset.config is other for loader in loaders)
    assert "build" not in vars(second)


OTHERS = {
    "the length of histories": ("SASRec", {"MAX_ITEM_LIST_LENGTH": 3}, 2),
    "a filter": ("SASRec", {"user_inter_num_interval": "[6,inf)"}, 2),
    "the seed of the split": ("SASRec", {"split_seed": 1}, 2),
    "the split": ("SASRec", {"eval_args": {"split": {"LS": "test_only"}}}, 2),
    "what is shown of histories": ("SASRec", {"eval_history": "reversed"}, 2),
    "columns": ("SASRec", {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}, 2),
    "a data set of its own": ("DIEN", {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}, 2),
    "another kind of model": ("BPR", {}, 2),
    "what no data set reads": ("SASRec", {"hidden_size": 8, "eval_batch_size": 16, "seed": 3, "n_layers": 1}, 1),
}


@pytest.mark.parametrize("model, own, times", OTHERS.values(), ids=OTHERS)
def test_data_are_made_again_for_what_they_depend_on(model, own, times, settings, read):
    with sharing_data():
        data("SASRec", settings | IN_TIME)
        data(model, settings | IN_TIME, **own)
        assert len(read) == times == len(shared_data._kept)
        data("SASRec", settings | IN_TIME)  # two are kept
        assert len(read) == times


def test_what_a_class_says_of_its_data_counts(settings, read):
    with sharing_data():
        data("POD", settings | WRITES | {"load_col": None})
        data("SASRec", settings | IN_TIME | {"load_col": None})
    assert len(read) == 2  # POD has a column of explanations


def test_two_are_kept_and_only_inside(settings, read):
    data("BPR", settings)
    assert shared_data._kept is None
    with sharing_data():
        for length in (2, 3, 4):
            data("SASRec", settings | IN_TIME, MAX_ITEM_LIST_LENGTH=length)
        assert len(shared_data._kept) == 2
        with sharing_data():
            data("SASRec", settings | IN_TIME, MAX_ITEM_LIST_LENGTH=3)
        assert len(read) == 4
        data("SASRec", settings | IN_TIME, MAX_ITEM_LIST_LENGTH=2)
        assert len(read) == 5
    assert shared_data._kept is None


def test_a_file_that_changes_is_read_again(settings, tmp_path):
    file = tmp_path / "data/tiny/tiny.inter"
    with sharing_data():
        assert data("BPR", settings)[0].inter_num == 72
        file.write_text(interactions(each=5))
        os.utime(file, ns=(1, 1))
        assert data("BPR", settings)[0].inter_num == 60


def test_every_run_tells_what_its_data_leave_out(settings, tmp_path, caplog):
    (tmp_path / "data/tiny/tiny.item").write_text("\n".join(ITEMS.splitlines()[:-2]) + "\n")
    settings["state"] = "INFO"
    with caplog.at_level("INFO"):
        data("GRU4Rec", settings | IN_TIME)
        wanted = caplog.messages[:]
        with sharing_data():
            data("SASRec", settings | IN_TIME)
            caplog.clear()
            data("GRU4Rec", settings | IN_TIME)
    assert caplog.messages == wanted and any("lacks 2 of the 10 ids" in line for line in wanted)


def test_the_cells_of_a_board_read_once(tmp_path, read):
    rows = [{"name": name, "model": name, "config": {"hidden_size": 4}} for name in ("SASRec", "GRU4Rec")]
    rows.append({"name": "SASRec + MMR", "rerank": {"of": "SASRec", "method": "mmr", "weights": [0.5]}})
    protocol = PROTOCOL | {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "train_neg_sample_args": None}
    file = written(tmp_path, rows, protocol=protocol, seeds=[1])
    ran(file)
    assert len(read) == 1
    board = read_board(file)
    models = {(part.dataset, row.name): row for part in board.parts for row in part.rows if row.kind == "model"}
    cells = plan(board, tmp_path / "runs", models)
    assert len(cells) == 3
    for cell in cells:
        alone = tmp_path / "alone" / cell.path.name
        if cell.base is None:
            run(cell.model, cell.dataset, config_dict=cell.settings | {"run_dir": str(alone)})
        else:
            rerank_run(cell.base, out_dir=alone, **cell.settings)
        same(reached({"run_dir": cell.path}), reached({"run_dir": alone}))
    assert len(read) == 4


def test_the_trials_of_a_search_read_once(settings, tmp_path, read):
    settings = settings | IN_TIME | {"hidden_size": 4}
    settings.pop("run_dir")
    space = {"learning_rate": [0.001, 0.01, 0.1]}
    options = {"space": space, "sampler": "grid", "seeds": [7], "study_dir": tmp_path / "study"}
    found = tune("SASRec", "tiny", config_dict=settings, trials=3, **options)
    assert len(read) == 1 and len(found["trials"]) == 3
    last = found["trials"][-1]
    alone = run("SASRec", "tiny", config_dict=settings | last["params"], saved=False, tested=False)
    assert alone["best_valid_score"] == last["value"]
    best = yaml.safe_load((tmp_path / "study/best.yaml").read_text())
    alone = run("SASRec", "tiny", config_dict=settings | best | {"seed": 7, "run_dir": str(tmp_path / "alone")})
    same(reached({"run_dir": found["test"][0]["run_dir"]}), reached(alone))
