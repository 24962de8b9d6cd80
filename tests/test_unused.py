"""Settings that change nothing in a run are named, with the reason; those that change something are not."""

from functools import partial
from pathlib import Path

import pytest
from tiny import interactions, write_tiny

from recbole_persona import run
from recbole_persona.config import Config

config = partial(Config, dataset="ml-100k")
READY = {"benchmark_filename": ["train", "valid", "test"]}
LABELED = {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}}
GRADED = {"threshold": {"rating": 3}}
SILENT = {
    "filters of ready-made parts": (
        "BPR",
        READY,
        {
            "user_inter_num_interval": "[5,inf)",
            "item_inter_num_interval": "[5,inf)",
            "rm_dup_inter": "first",
            "val_interval": {"rating": "[3,inf)"},
        },
    ),
    "a graph's filter of ready-made parts": ("CKE", READY, {"entity_kg_num_interval": "[5,inf)"}),
    "a label that nobody reads": ("LightGCN", {}, GRADED | {"LABEL_FIELD": "good"}),
    "a label under drawn ones": ("NeuMF", {}, GRADED),
    "histories": ("BPR", {}, {"MAX_ITEM_LIST_LENGTH": 7, "target_events": ["buy"], "eval_history": "shuffled"}),
    "a graph": ("BPR", {}, {"kg_reverse_r": True}),
    "no optimiser": ("EASE", {}, {"learning_rate": 5, "learner": "sgd", "weight_decay": 1.0, "epochs": 7}),
    "no optimiser either": ("Pop", {}, {"learning_rate": 5}),
    "no loss": ("NCEPLRec", {}, {"learning_rate": 5}),
    "no negatives": ("MultiVAE", {}, {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 9}}),
    "no negatives at all": ("ItemKNN", {}, {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 9}}),
    "another optimiser": ("BPR", {"learner": "sgd"}, {"fused_adam": True}),
    "full precision": ("BPR", {}, {"enable_scaler": True}),
    "no power": ("BPR", {}, {"require_pow": True}),
    "other metrics": ("BPR", {}, {"tdd_clusters": 5, "ild_ruler": "field:class", "value_mode": "uni9"}),
    "labelled rows": ("FM", LABELED, {"mask_history": True}),
}
PARTS = {
    "ready-made parts": (READY | {"eval_args": {"split": {"RS": [0.5, 0.2, 0.3]}}}, "split in eval_args"),
    "uniform": ({"train_neg_sample_args": {"distribution": "uniform", "alpha": 0.5}}, "alpha in train_neg_sample_args"),
    "static": ({"train_neg_sample_args": {"candidate_num": 5}}, "candidate_num in train_neg_sample_args"),
}
HEARD = {
    "filters": ("BPR", SILENT["filters of ready-made parts"][2]),
    "default filters": ("BPR", READY | {"user_inter_num_interval": "[0,inf)", "filter_inter_by_user_or_item": False}),
    "labels of training": ("FM", GRADED | {"train_neg_sample_args": None}),
    "labels of evaluation": ("NeuMF", GRADED | LABELED),
    "labels of one pass": ("LightGCN", GRADED | {"metrics": ["NDCG", "AUC"], "valid_metric": "NDCG@10"}),
    "trees": ("LightGBM", GRADED | LABELED),
    "histories": ("SASRec", {"MAX_ITEM_LIST_LENGTH": 7, "train_neg_sample_args": None, "target_events": ["buy"]}),
    "a graph": ("CKE", {"kg_reverse_r": True, "entity_kg_num_interval": "[5,inf)"}),
    "an optimiser": ("BPR", {"learning_rate": 5, "weight_decay": 0.1, "learner": "sgd"}),
    "negatives": ("BPR", {"train_neg_sample_args": {"distribution": "popularity", "alpha": 0.5}}),
    "metrics": ("BPR", {"metrics": ["NDCG", "TDD", "ILD"], "tdd_clusters": 5, "ild_ruler": "field:class"}),
    "power": ("LightGCN", {"require_pow": True}),
}


@pytest.mark.parametrize("model, around, settings", SILENT.values(), ids=SILENT)
def test_what_changes_nothing_is_named(model, around, settings):
    found = config(model, config_dict=around | settings).unused_keys
    assert found.keys() == settings.keys()


@pytest.mark.parametrize("settings, part", PARTS.values(), ids=PARTS)
def test_a_part_that_changes_nothing_is_named(settings, part):
    assert list(config("BPR", config_dict=settings).unused_keys) == [part]


@pytest.mark.parametrize("model, settings", HEARD.values(), ids=HEARD)
def test_what_changes_something_is_not_named(model, settings):
    assert config(model, config_dict=settings).unused_keys == {}


def test_it_is_true_of_the_numbers(tmp_path):
    """LightGCN with two thresholds: the same numbers, and a line that says why and what would act."""
    results = []
    for least in (2, 4):
        settings = write_tiny(tmp_path / str(least)) | {"threshold": {"rating": least}}
        results.append(run("LightGCN", "tiny", config_dict=settings)["test_result"])
        log = (Path(settings["run_dir"]) / "train.log").read_text()
        assert "LightGCN does not use the setting threshold: neither its training nor this evaluation reads" in log
    assert results[0] == results[1]
    settings = write_tiny(tmp_path / "kept") | {"val_interval": {"rating": "[4,inf)"}}
    assert run("LightGCN", "tiny", config_dict=settings)["test_result"] != results[0]


def test_filters_of_ready_made_parts_change_nothing(tmp_path):
    head, *rows = interactions().splitlines()
    parts = {f"{part}.inter": "\n".join([head, *rows[at::3]]) for at, part in enumerate(READY["benchmark_filename"])}
    counts = []
    for number, filters in enumerate(({}, SILENT["filters of ready-made parts"][2])):
        settings = write_tiny(tmp_path / str(number), **parts) | READY | filters
        settings["load_col"] = {"inter": "*"}
        counts.append(run("BPR", "tiny", config_dict=settings)["result"]["statistics"])
        log = (Path(settings["run_dir"]) / "train.log").read_text()
        assert log.count("data that come split (benchmark_filename) are not filtered") == len(filters)
    assert counts[0] == counts[1]
