"""Data that the cells of a board share are those that each would read."""

import os

import pytest
import torch
from recbole.data import data_preparation
from recbole.utils import init_seed
from tiny import interactions, write_tiny

from recbole_persona.config import Config
from recbole_persona.runner import shared_data
from recbole_persona.runner.shared_data import dataset_of, sharing_data
from recbole_persona.runs import split_hash

SEQUENTIAL = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}


@pytest.fixture
def settings(tmp_path):
    return write_tiny(tmp_path) | {"use_gpu": False, "state": "ERROR"}


def data(name, settings, **others):
    config = Config(name, "tiny", config_dict=settings | others)
    init_seed(config["split_seed"], True)
    dataset = dataset_of(config)
    return config, dataset, data_preparation(config, dataset), torch.rand(1)


def batches(loaders):
    """All tensors of the first batch of every loader."""
    first = [next(iter(loader)) for loader in loaders]
    parts = [part for batch in first for part in (batch if isinstance(batch, tuple) else (batch,))]
    found = [
        value for part in parts for value in (part.interaction.values() if hasattr(part, "interaction") else [part])
    ]
    return [value for value in found if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize(
    "names, own",
    [(("BPR", "EASE"), {}), (("SASRec", "SASRec"), SEQUENTIAL | {"train_neg_sample_args": None})],
)
def test_a_copy_is_what_would_be_read(names, own, settings):
    wanted = {seed: data(name, settings, seed=seed, **own) for seed, name in zip((1, 2), names)}
    with sharing_data():
        found = {seed: data(name, settings, seed=seed, **own) for seed, name in zip((1, 2), names)}
        assert found[1][1].inter_feat is not found[2][1].inter_feat
    for seed, (config, dataset, loaders, number) in found.items():
        _, _, wanted_loaders, wanted_number = wanted[seed]
        assert dataset.config is config and all(loader._dataset.config is config for loader in loaders)
        assert torch.equal(number, wanted_number)  # what is drawn afterwards
        split, other = (split_hash([part._dataset for part in parts]) for parts in (loaders, wanted_loaders))
        assert split == other
        init_seed(seed, True)
        ours = batches(loaders)
        init_seed(seed, True)
        assert ours and all(map(torch.equal, ours, batches(wanted_loaders)))


def test_one_is_kept_and_only_inside(settings):
    data("BPR", settings)
    assert shared_data._kept is None
    with sharing_data():
        data("BPR", settings)
        (first,) = shared_data._kept
        data("BPR", settings, seed=9)
        assert shared_data._kept[0] is first
        data("LightGCN", settings)
        data("AMPCF", settings, n_personas=2)
        assert shared_data._kept[0] is first  # general models
        data("FM", settings, metrics=["AUC"], valid_metric="AUC")
        assert shared_data._kept[0] is not first
        data("BPR", settings, rm_dup_inter="first")
        assert len(shared_data._kept) == 1 and shared_data._kept[0] is not first
    assert shared_data._kept is None


def test_a_file_that_changes_is_read_again(settings, tmp_path):
    file = tmp_path / "data/tiny/tiny.inter"
    with sharing_data():
        assert len(data("BPR", settings)[1].inter_feat) == 72
        file.write_text(interactions(each=5))
        os.utime(file, ns=(1, 1))
        assert len(data("BPR", settings)[1].inter_feat) == 60
