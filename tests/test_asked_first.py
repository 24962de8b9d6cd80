"""What a run cannot do is said before anything is written; a run without a validation or test part is none of that."""

import json
import re
from pathlib import Path

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from tiny import HEADER, contents, interactions, write_tiny

from recbole_persona import load, run, tune
from recbole_persona.config import Config
from recbole_persona.data.missing_parts import asks_for
from recbole_persona.errors import UserError
from recbole_persona.runner.training import evaluate_run
from recbole_persona.train.checkpoint import model_state
from recbole_persona.train.random_state import generator_states, process_state
from recbole_persona.upstream.tree import encode

VALUES = {"metrics": ["AUC"], "valid_metric": "AUC"}
NO_NEGATIVES = {"train_neg_sample_args": None}
ITEMS = "item_id:token\tkind:token\tprice:float\tweight:float\n" + "".join(
    f"i{i}\tk{i % 3}\t\t{i}\n" for i in range(10)
)
VECTORS = "".join(f"i{i}\t0.1 0.{i}\n" for i in range(10))
TEXTS = (
    interactions()
    .replace(HEADER, f"{HEADER}\texplanation:text")
    .replace("\n", "\tgood\n")
    .replace("text\tgood", "text")
)
EMB = {"emb": "iid:token\tvec:float_seq\n" + VECTORS}
PRELOAD = {"additional_feat_suffix": ["emb"], "preload_weight": {"iid": "vec"}}


def refused_run(tmp_path, model, settings, **files) -> str:
    """The sentence with which a run is refused; there is no folder afterwards, nor one above it that was made for it."""
    place = {"run_dir": str(tmp_path / "made/for/it")}
    with pytest.raises(UserError) as refusal:
        run(model, "tiny", config_dict=write_tiny(tmp_path, **files) | settings | place)
    assert not (tmp_path / "made").exists()
    return str(refusal.value)


REFUSED = {
    "ranking of labelled rows": (
        "FM",
        {"threshold": {"rating": 3}},
        {},
        "NDCG ranks items, and mode in eval_args is labeled, the default of FM",
    ),
    "ranking of rows that the user labels": (
        "BPR",
        {"eval_args": {"mode": "labeled"}},
        {},
        "NDCG ranks items, and mode in eval_args is labeled, which",
    ),
    "labelled evaluation": (
        "BPR",
        VALUES | {"eval_args": {"mode": "labeled"}},
        {},
        "BPR needs labels, since mode in eval_args is labeled",
    ),
    "pointwise loss": (
        "FM",
        VALUES,
        {},
        r"FM needs labels, since train_neg_sample_args draws no negatives, and .* set --threshold=\"{'rating': 3}\" to make",
    ),
    "threshold not loaded": (
        "FM",
        VALUES | {"threshold": {"rating": 3}, "load_col": {"inter": ["user_id", "item_id"]}},
        {},
        r"'rating' of .*tiny.inter is not loaded; set --load_col=\"{'inter': \['user_id', 'item_id', 'rating'\]}\"",
    ),
    "threshold of words": ("FM", VALUES | {"threshold": {"item_id": 3}}, {}, "'item_id', and it is of type token"),
    "pairwise loss": (
        "BPR",
        NO_NEGATIVES,
        {},
        r"BPR compares an item with a negative one, .* set train_neg_sample_args: \{distribution",
    ),
    "W&B": ("BPR", {"log_wandb": True}, {}, "wandb is not installed: pip install wandb"),
    "no item file": (
        "SASRecF",
        NO_NEGATIVES | {"selected_features": ["kind"]},
        {},
        r"'kind' \(selected_features\), and there is no file .*tiny.item",
    ),
    "no such feature": (
        "SASRecF",
        NO_NEGATIVES | {"selected_features": ["kinds"]},
        {"item": ITEMS},
        "'kinds'; it has item_id, kind, price, weight; the nearest is 'kind'",
    ),
    "feature not loaded": (
        "GRU4RecF",
        NO_NEGATIVES
        | {
            "selected_features": ["kind"],
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
        },
        {"item": ITEMS},
        r"--load_col=\"{'inter': \['user_id', 'item_id', 'timestamp'\], 'item': \['item_id', 'kind'\]}\"",
    ),
    "feature of numbers": (
        "FDSA",
        NO_NEGATIVES | {"selected_features": ["weight"]},
        {"item": ITEMS},
        "'weight' .* of type float: add it to numerical_features",
    ),
    "attribute of numbers": (
        "S3Rec",
        NO_NEGATIVES | {"item_attribute": "weight"},
        {"item": ITEMS},
        "item_attribute must be a column of type token_seq, and 'weight' of the items is float",
    ),
    "feature without a value": (
        "FM",
        VALUES | {"threshold": {"rating": 3}, "numerical_features": ["price"]},
        {"item": ITEMS},
        "'price' of tiny.item has no value at all",
    ),
    "vectors not loaded": (
        "BPR",
        PRELOAD | {"load_col": None, "unload_col": {"emb": ["iid", "vec"]}},
        EMB,
        r"load_col names no column of tiny.emb .* emb: \[iid, vec\]\}, alias_of_item_id: \[iid\], preload_weight: \{iid: vec\}",
    ),
    "vectors without an alias": (
        "BPR",
        PRELOAD,
        EMB,
        r"'iid' of tiny.emb would be numbered apart .* alias_of_item_id: \[iid\]",
    ),
    "vectors under a known name": (
        "BPR",
        PRELOAD | {"preload_weight": {"item_id": "vec"}},
        {"emb": "item_id:token\tvec:float_seq\n" + VECTORS},
        "'item_id' stands in tiny.emb and in the .inter file, .* name its column iid:token",
    ),
    "no such vectors": (
        "BPR",
        PRELOAD | {"alias_of_item_id": ["iid"], "preload_weight": {"iid": "vex"}},
        EMB,
        "has no column 'vex'; it has iid, vec; the nearest is 'vec'",
    ),
    "heads and size": (
        "SASRec",
        NO_NEGATIVES | {"n_heads": 3, "hidden_size": 8},
        {},
        r"SASRec cannot be trained so .* it reads n_heads: 3, hidden_size: 8",
    ),
    "sentences that rank": (
        "POD",
        {"tasks": ["explanation"], "load_col": None},
        {"inter": TEXTS},
        r"append --metrics=\"\['rouge-l'\]\" --valid_metric=rouge-l",
    ),
    "beams": (
        "POD",
        {"backbone": "scratch:t5-small", "n_beams": 20},
        {},
        "n_beams is 20, and the data have 10 items: set n_beams to 10",
    ),
}


@pytest.mark.parametrize(("model", "settings", "files", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_the_model_cannot_read_is_refused_before_anything_is_written(tmp_path, model, settings, files, sentence):
    assert re.search(sentence, refused_run(tmp_path, model, settings, **files))


def test_dien_reads_no_ready_made_lists(tmp_path):
    text = "user_id:token\titem_id_list:token_seq\titem_id:token\nu1\ti1 i2\ti3\nu2\ti2\ti1\n"
    parts = {f"{part}.inter": text for part in ("train", "valid", "test")}
    settings = {
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": None,
    }
    said = refused_run(tmp_path, "DIEN", VALUES | settings, **parts)
    assert "neg_item_id_list" in said and "leave benchmark_filename out" in said


def test_a_search_needs_a_validation_part(tmp_path):
    settings = write_tiny(tmp_path) | {"eval_args": {"split": {"RS": [0.8, 0, 0.2]}}}
    del settings["run_dir"]
    with pytest.raises(
        UserError, match=r"compares its trials on the validation part, and split in eval_args .* leaves"
    ):
        tune("BPR", "tiny", config_dict=settings, space={"learning_rate": [0.1, 0.2]}, study_dir=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_refused_rerun_leaves_the_run_as_it_was(tmp_path):
    settings = write_tiny(tmp_path)
    run("BPR", "tiny", config_dict=settings)
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="numbers in the column 'stars'"):
        run("BPR", "tiny", config_dict=settings | {"threshold": {"stars": 3}}, rerun=True)
    assert contents(tmp_path / "run") == before
    again = run("BPR", "tiny", config_dict=settings | {"seed": 1}, rerun=True)
    assert again["result"]["seed"] == 1 and "seed = 1" in (tmp_path / "run/train.log").read_text()


def test_what_another_made_stays(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="pip install wandb"):
        run("BPR", "tiny", config_dict=write_tiny(tmp_path) | {"log_wandb": True})
    with pytest.raises(UserError, match="numbers in the column"):
        run("BPR", "tiny", config_dict=write_tiny(tmp_path) | {"threshold": {"stars": 3}})
    assert (tmp_path / "run/mine.txt").read_text() == "mine"


# --- the first batch --------------------------------------------------------------------------------------------------

PROBED = {
    "BPR": {},
    "AMPCF": {},
    "DMF": {},
    "MultiVAE": {},  # counts its batches
    "DiffRec": {},  # keeps its losses
    "LINE": {},  # shuffles its users
    "SASRec": NO_NEGATIVES | {"n_heads": 1, "hidden_size": 4},  # dropout
    "DIN": {"mlp_hidden_size": [8]},  # batch normalisation
    "BPR with workers": {"worker": 1},
}


@pytest.mark.parametrize("name", PROBED)
def test_the_first_batch_leaves_no_trace(tmp_path, name):
    model_name = name.partition(" ")[0]
    config = Config(model_name, "tiny", config_dict=write_tiny(tmp_path) | PROBED[name])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(3, True)
    model = get_model(model_name)(config, loaders[0]._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model_name)(config, model)

    def everything():
        found = {"model": model_state(model), "random": process_state(), "modes": [m.training for m in model.modules()]}
        tensors = {}
        tree = encode(found | {"generators": generator_states({"model": model, "train": loaders[0]})}, tensors)
        return json.dumps(tree), {key: value.clone() for key, value in tensors.items()}, sorted(vars(model))

    losses = []
    model.calculate_loss = counted(model.calculate_loss, losses)
    (tree, tensors, names), version = everything(), [p._version for p in model.parameters()]
    trainer.check_first_batch(loaders[0])
    after = everything()
    assert len(losses) == 1 and tree == after[0] and names == after[2]
    assert (
        all(torch.equal(value, after[1][key]) for key, value in tensors.items()) and tensors.keys() == after[1].keys()
    )
    assert version == [p._version for p in model.parameters()] and not any(
        p.grad is not None for p in model.parameters()
    )
    assert not Path(config["run_dir"]).exists() or not list(Path(config["run_dir"]).rglob("*"))


def counted(method, losses):
    def calculate_loss(*batch):
        losses.append(method(*batch))
        return losses[-1]

    return calculate_loss


def test_a_first_loss_that_is_no_number_names_the_column(tmp_path):
    items = "item_id:token\tprice:float\n" + "".join(f"i{i}\t{'inf' if i == 4 else i}\n" for i in range(10))
    settings = VALUES | {"threshold": {"rating": 3}, "numerical_features": ["price"]}
    said = refused_run(tmp_path, "FM", settings, item=items)
    assert "not a number on the first batch" in said and "'price'" in said


# --- no validation, no test -------------------------------------------------------------------------------------------


def ready_made(**parts):
    """Files of ready-made parts: how many of the users' rows each has."""
    rows = interactions().splitlines()[1:]
    start, files = 0, {}
    for part, number in parts.items():
        files[f"{part}.inter"] = "\n".join([HEADER, *rows[start : start + number]]) + "\n"
        start += number
    return files


WITHOUT = {
    "RS without validation": ({"eval_args": {"split": {"RS": [0.8, 0, 0.2]}}}, {}, "valid"),
    "RS without both": ({"eval_args": {"split": {"RS": [1, 0, 0]}}}, {}, "valid test"),
    "valid_only": ({"eval_args": {"split": {"LS": "valid_only"}}}, {}, "test"),
    "train and test": ({"benchmark_filename": ["train", "test"]}, ready_made(train=50, test=20), "valid"),
    "train and validation": ({"benchmark_filename": ["train", "dev"]}, ready_made(train=50, dev=20), "test"),
    "train": ({"benchmark_filename": ["train"]}, ready_made(train=50), "valid test"),
    "empty files": (
        {"benchmark_filename": ["train", "valid", "test"]},
        ready_made(train=50, valid=0) | {"test.inter": ""},
        "valid test",
    ),
}


@pytest.mark.parametrize(("settings", "files", "without"), WITHOUT.values(), ids=WITHOUT)
def test_a_run_without_a_part(tmp_path, caplog, capsys, settings, files, without):
    settings = write_tiny(tmp_path, **files) | {"epochs": 3, "stopping_step": 0} | settings
    outcome = run("BPR", "tiny", config_dict=settings)
    result, counts = outcome["result"], outcome["result"]["statistics"]
    assert {part for part in ("valid", "test") if not counts[part]} == set(without.split())
    assert ("valid" in without) == (result["best_valid"] == {}) == (result["best_valid_score"] is None)
    assert ("test" in without) == (result["test"] == {})
    assert "valid" not in without or result["epochs"] == 3
    said = [line for line in capsys.readouterr().err.splitlines() if "has no" in line]
    assert len(said) == 1 and ("without early stopping" in said[0]) == ("valid" in without)
    assert json.loads((tmp_path / "run/result.json").read_text(), parse_constant=pytest.fail) == result
    assert run("BPR", "tiny", config_dict=settings)["result"] == result  # it is complete
    loaded = load(settings["run_dir"])
    assert len(loaded.recommend(["u0"], topk=2)) == 2
    if "test" in without:
        with pytest.raises(UserError, match="has no test part"):
            evaluate_run(settings["run_dir"])


@pytest.mark.parametrize("model", ["AMPCF", "SASRec", "MultiVAE"])
def test_every_kind_of_model_trains_on_everything(tmp_path, model):
    settings = write_tiny(tmp_path) | {"eval_args": {"split": {"RS": [1, 0, 0]}}}
    settings |= NO_NEGATIVES | {"n_heads": 1, "hidden_size": 4} if model == "SASRec" else {}
    outcome = run(model, "tiny", config_dict=settings)
    assert outcome["result"]["statistics"]["valid"] == outcome["result"]["statistics"]["test"] == 0
    assert outcome["test_result"] == {}


def test_a_sampled_evaluation_without_validation(tmp_path):
    settings = write_tiny(tmp_path) | {"eval_args": {"split": {"RS": [0.8, 0, 0.2]}, "mode": "uni5"}}
    assert run("BPR", "tiny", config_dict=settings)["test_result"]["ndcg@3"] >= 0


def test_trees_are_grown_by_their_validation_part(tmp_path):
    pytest.importorskip("xgboost")
    settings = VALUES | {"threshold": {"rating": 3}, "eval_args": {"split": {"RS": [0.8, 0, 0.2]}, "mode": "labeled"}}
    assert "XGBoost grows its trees by the validation part" in refused_run(tmp_path, "XGBoost", settings)


def test_four_ready_made_parts_are_refused(tmp_path):
    said = refused_run(tmp_path, "BPR", {"benchmark_filename": ["a", "b", "c", "d"]})
    assert "benchmark_filename is like [train, valid, test], of one to three names" in said


def test_which_parts_a_split_asks_for(tmp_path):
    for split, asked in [
        ({"LS": "valid_and_test"}, [True, True, True]),
        ({"LS": "test_only"}, [True, False, True]),
        ({"TS": [0.9, 0, 0.1]}, [True, False, True]),
    ]:
        config = Config("BPR", "tiny", config_dict=write_tiny(tmp_path) | {"eval_args": {"split": split}})
        assert [asks_for(part, config) for part in ("train", "valid", "test")] == asked


# --- users and columns that RecBole trips over ------------------------------------------------------------------------

ALL_ITEMS = HEADER + "\n" + "".join(f"u1\ti{i}\t3\t{i}\n" for i in range(10)) + "u2\ti1\t3\t1\nu2\ti2\t3\t2\n"


def test_a_user_with_all_items_is_named(tmp_path):
    said = refused_run(tmp_path, "BPR", {}, inter=ALL_ITEMS)
    assert "negative for user 'u1', who has interacted with all 10 items" in said


@pytest.mark.parametrize("model", ["EASE", "Pop", "ItemKNN", "NCEPLRec"])
def test_a_model_that_needs_no_negatives_takes_such_a_user(tmp_path, model):
    outcome = run(model, "tiny", config_dict=write_tiny(tmp_path, ALL_ITEMS))
    assert outcome["test_result"]["ndcg@3"] >= 0


@pytest.mark.parametrize(
    "normalised", [{"normalize_all": True}, {"normalize_field": ["vec", "size"], "normalize_all": None}]
)
def test_constant_sequences_are_normalised_to_zeros(tmp_path, normalised):
    items = "item_id:token\tvec:float_seq\tsize:float_seq\n" + "".join(f"i{i}\t0.5 0.5\t{i} 1\n" for i in range(9))
    config = Config("BPR", "tiny", config_dict=write_tiny(tmp_path, item=items) | normalised)
    dataset = create_dataset(config)
    assert all(not values.any() for values in dataset.item_feat["vec"])
    sizes = [value for values in dataset.item_feat["size"] for value in values]
    assert min(sizes) == 0 and max(sizes) == 1
    assert (config["normalize_all"], config["normalize_field"]) == (
        normalised["normalize_all"],
        normalised.get("normalize_field"),
    )
