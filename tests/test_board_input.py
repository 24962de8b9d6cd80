"""A board that cannot work, or that would compare what cannot be compared: one sentence, before anything runs."""

import pytest
import yaml
from board_files import BPR, POP, PROTOCOL, ran, written

from recbole_persona.board.specification import read_board
from recbole_persona.errors import UserError

FILE = {"name": "F", "model": "BPR", "config_files": "row.yaml"}
MMR = {"name": "M", "rerank": {"of": "BPR", "method": "mmr", "weights": [0.5]}}
PAPER = {"name": "Paper", "published": "paper.csv"}


def row(**keys):
    return {"name": "X", "model": "BPR", **keys}


def tuned(**keys):
    return row(tune=keys)


# what is wrong: the rows, keys of the board, the text of row.yaml, the text of paper.csv -> part of the sentence
REFUSED = {
    "a missing model": ([BPR, row(model="AMPFC")], {}, "There is no model named 'AMPFC'; the nearest are 'AMPCF'"),
    "no such module": ([BPR, row(model="no_such:Model")], {}, "There is no module 'no_such'"),
    "a setting that nobody reads": ([row(config={"embeding_size": 4})], {}, "nearest is 'embedding_size'"),
    "a missing data set": ([BPR], {"datasets": "tinny"}, "There is no data set 'tinny'"),
    "another split": (
        [BPR, row(config={"split_seed": 7})],
        {},
        "it sets split_seed to 7, but a board has one protocol",
    ),
    "another ranking": (
        [BPR, row(config={"eval_args": {"mode": "uni10"}})],
        {},
        "on tiny eval_args is {'split'",
    ),
    "other metrics": ([BPR, row(config={"metrics": ["NDCG"]})], {}, "leave metrics out, or set it under protocol"),
    "another cut-off": ([row(config={"topk": [5]})], {}, "sets topk to [5]"),
    "another filter": (
        [BPR, row(config={"item_inter_num_interval": "[3,inf)"})],
        {},
        "item_inter_num_interval is '[0,inf)' in the row 'BPR' and '[3,inf)' in 'X'",
    ),
    "other duplicates": (
        [BPR, row(config={"rm_dup_inter": "first"})],
        {},
        "rm_dup_inter is None in the row 'BPR' and 'first' in 'X'; set it under protocol",
    ),
    "other columns": ([row(config={"load_col": {"inter": ["user_id", "item_id", "rating"]}})], {}, "sets load_col"),
    "what the protocol fixes": ([row(config={"epochs": 7})], {}, "sets epochs to 7"),
    "a file with another split": (
        [BPR, FILE],
        {"row.yaml": "split_seed: 1"},
        "Row 'F' on tiny: it sets split_seed to 1",
    ),
    "a file of another model": ([FILE], {"row.yaml": "model: Pop"}, "its config files are for the model Pop, not BPR"),
    "a file of other data": ([FILE], {"row.yaml": "dataset: ml-1m"}, "its config files are for the dataset ml-1m"),
    "a missing file": ([FILE], {}, "There is no config file row.yaml"),
    "general and sequential": (
        [BPR, row(model="SASRec", config={"loss_type": "BPR"})],
        {"protocol": PROTOCOL | {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}},
        "A board has one protocol for all rows, but on tiny eval_args is",
    ),
    "a metric nobody computes": (
        [BPR],
        {"primary": "mrr@3"},
        "mrr@3 is not computed: metrics are NDCG, Recall and topk is [3]",
    ),
    "a picture of no metric": (
        [BPR],
        {"pictures": [{"kind": "intervals", "metric": "ild@3"}]},
        "ild@3 is not computed",
    ),
    "a seed of a row": ([row(config={"seed": 3})], {}, "sets seed, which is the board's to say"),
    "a seed of the protocol": ([BPR], {"protocol": {"seed": 3}}, "seeds of the models under seeds"),
    "a seed twice": ([BPR], {"seeds": [1, 1]}, "seeds must be different whole numbers"),
    "a seed of a row twice": ([row(seeds=[1, 1])], {}, "seeds of the row 'X' must be different whole numbers"),
    "no seed of a row": ([row(seeds=[])], {}, "seeds of the row 'X' must be different whole numbers"),
    "seeds of what is not trained": ([BPR, MMR | {"seeds": [3]}], {}, "The row 'M' has no seeds of its own"),
    "re-ranking with runs of other seeds": (
        [BPR, row(seeds=[3, 4]), {"name": "M", "rerank": MMR["rerank"] | {"method": "model", "by": "X"}}],
        {},
        "give the rows 'BPR' and 'X' the same seeds",
    ),
    "a key with a typo": ([BPR], {"protcol": {}}, "There is no key 'protcol' in"),
    "a row with a typo": ([{"name": "X", "modell": "BPR"}], {}, "must have one of model, study, rerank, published"),
    "a row of two kinds": ([row(published="paper.csv")], {}, "it has model and published"),
    "a row without a name": ([{"model": "BPR"}], {}, "Row 1 of"),
    "a name twice": ([BPR, BPR], {}, "Two rows of"),
    "no rows": ([], {}, "needs rows"),
    "a section of another that does not stand": (
        [BPR],
        {"datasets": {"tiny": {}, "again": {"again": "tny", "config": {"mask_history": False}}}},
        "tiny",
    ),
    "a section that would train anew": (
        [BPR],
        {"datasets": {"ml-100k": {}, "again": {"again": "ml-100k", "config": {"epochs": 5}}}},
        "its config sets some of eval_args",
    ),
    "a section with seeds of its own": (
        [BPR],
        {"datasets": {"ml-100k": {}, "again": {"again": "ml-100k", "seeds": [3], "config": {"topk": [5]}}}},
        "names 3, with which ml-100k does not run",
    ),
    "a data set whose search is none": (
        [BPR],
        {"datasets": {"ml-100k": {"tune": {"trails": 5}}}},
        "tune of the data set 'ml-100k'",
    ),
    "no data sets": ([BPR], {"datasets": None}, "needs datasets"),
    "a baseline that is no row": (
        [BPR, POP],
        {"baseline": "BRP"},
        "baseline names 'BRP', which is no row; the nearest is 'BPR'",
    ),
    "a baseline that is elsewhere": (
        [BPR, POP],
        {"baseline": "BPR", "datasets": {"ml-100k": {"rows": ["Pop"]}}},
        "the row 'Pop' needs the row 'BPR'",
    ),
    "a published baseline": ([BPR, PAPER], {"baseline": "Paper", "paper.csv": "NDCG@3\n1\n"}, "have no users"),
    "published and tested": (
        [BPR, PAPER | {"against": "BPR"}],
        {"paper.csv": "NDCG@3\n1\n"},
        "published and never tested",
    ),
    "published, no file": ([BPR, PAPER], {}, "There is no file of published numbers paper.csv"),
    "published, no line": ([BPR, PAPER], {"paper.csv": "name,NDCG@3\nP,1\n"}, "has no line for 'Paper' on tiny"),
    "published, no number": ([BPR, PAPER], {"paper.csv": "name,NDCG@3\nPaper,x\n"}, "line 2: 'x' is no number"),
    "published, no metric": ([BPR, PAPER], {"paper.csv": "name,NDGC@3\nPaper,1\n"}, "names no metric of 'Paper'"),
    "published, a ragged line": ([BPR, PAPER], {"paper.csv": "name,NDCG@3\nPaper\n"}, "line 2, has not as many fields"),
    "an unknown test": ([BPR], {"test": "permutation"}, "There is no key 'test'"),
    "an unknown quantity": ([BPR], {"splits": {"age": 3}}, "Users are split by history_length"),
    "a split by no file": ([BPR], {"splits": {"a": {"file": "none.csv"}}}, "There is no file none.csv"),
    "a split without its column": (
        [BPR],
        {"splits": {"a": {"file": "paper.csv"}}, "paper.csv": "user,b\n1,2\n"},
        "no column 'a'",
    ),
    "a split of one group": ([BPR], {"splits": {"history_length": 1}}, "2 or more"),
    "a table of no row": ([BPR], {"tables": [{"title": "T", "rows": ["x"]}]}, "which is no row"),
    "an unknown picture": ([BPR], {"pictures": [{"kind": "bars"}]}, "kind of a picture must be one of intervals"),
    "re-ranking of nothing": ([MMR], {}, "names 'BPR', which is no row"),
    "re-ranking of a re-ranking": (
        [BPR, MMR, MMR | {"name": "N", "rerank": MMR["rerank"] | {"of": "M"}}],
        {},
        "not 'M'",
    ),
    "re-ranking without weights": ([BPR, {"name": "M", "rerank": {"of": "BPR", "method": "mmr"}}], {}, "lacks weights"),
    "an unknown re-ranking": (
        [BPR, {"name": "M", "rerank": MMR["rerank"] | {"method": "dpp"}}],
        {},
        "one of mmr, calibrated",
    ),
    "re-ranking by a model that is not named": (
        [BPR, {"name": "M", "rerank": MMR["rerank"] | {"method": "model"}}],
        {},
        "names the row that re-ranks in by",
    ),
    "re-ranking by a row that is none": (
        [BPR, {"name": "M", "rerank": MMR["rerank"] | {"method": "model", "by": "SASRec"}}],
        {},
        "by in the row 'M' names 'SASRec', which is no row",
    ),
    "re-ranking what does not run": ([BPR | {"status": "not run"}, MMR], {}, "whose status is not run"),
    "a split without a test": (
        [BPR],
        {"protocol": PROTOCOL | {"eval_args": {"split": {"LS": "valid_only"}}}},
        "A board compares its rows on the test part, and on tiny split in eval_args ({'LS': 'valid_only'}) leaves none",
    ),
    "a search without validation": (
        [tuned()],
        {"protocol": PROTOCOL | {"eval_args": {"split": {"RS": [0.8, 0, 0.2]}}}},
        "A search compares its trials on the validation part",
    ),
    "a search without end": ([tuned(trials=0)], {}, "trials in tune"),
    "a search with a typo": ([tuned(space={"learning_rte": [1]})], {}, "the nearest is 'learning_rate'"),
    "a search over nothing": (
        [tuned(space={"learning_rate": {"low": 1, "high": 0.1, "log": True}})],
        {},
        "learning_rate",
    ),
    "a search of the split": ([tuned(space={"split_seed": [1, 2]})], {}, "split_seed"),
    "a study that is none": ([BPR, {"name": "S", "study": "nowhere"}], {}, "not the folder of a finished search"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_mistake_is_one_sentence_before_anything_runs(what, tmp_path, monkeypatch):
    rows, keys, sentence = REFUSED[what]
    monkeypatch.chdir(tmp_path)
    for name in ("row.yaml", "paper.csv"):
        if name in keys:
            (tmp_path / name).write_text(keys[name])
    file = written(
        tmp_path,
        rows,
        **{key: value for key, value in keys.items() if "." not in key}
        | {"datasets": keys.get("datasets", {"tiny": {"data_path": "data"}})},
    )
    with pytest.raises(UserError) as refused:
        ran(file)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text", ["", "rows", "- a", "rows: {", "rows: 3", "datasets: [[1]]\nrows: [{name: a, model: b}]"]
)
def test_a_file_that_is_no_board(text, tmp_path):
    (tmp_path / "board.yaml").write_text(text)
    with pytest.raises(UserError):
        read_board(tmp_path / "board.yaml")


def test_a_data_set_changes_the_searches_of_its_rows(tmp_path):
    tuned = {
        "name": "T",
        "model": "BPR",
        "tune": {"trials": 4, "sampler": "grid", "space": {"learning_rate": [0.1, 0.01]}},
    }
    own = {"trials": 2, "space": {"learning_rate": [0.001, 0.002]}}
    board = read_board(written(tmp_path, [BPR, tuned], datasets={"ml-100k": None, "tiny": {"tune": own}}))
    (plain, first), (same, second) = (part.rows for part in board.parts)
    assert plain == same and first.tune == tuned["tune"] and second.tune == tuned["tune"] | own


def test_equal_values_of_the_protocol_may_stand_in_a_row(tmp_path):
    """As in the YAML files that a search or a run leaves, which hold every setting."""
    own = {"split_seed": 2020, "metrics": ["recall", "ndcg"], "topk": 3, "load_col": {"inter": ["user_id", "item_id"]}}
    (tmp_path / "row.yaml").write_text(yaml.safe_dump({"model": "BPR", "dataset": "tiny", "seed": 9, **own}))
    file = written(tmp_path, [BPR, FILE, {"name": "G", "model": "BPR", "config": own}])
    rows, _ = ran(file)
    assert rows["F"]["metrics"] == rows["G"]["metrics"] == rows["BPR"]["metrics"] and rows["F"]["seeds"] == [1, 2]
    assert rows["F"]["config"] == {"config_files": ["row.yaml"]}
