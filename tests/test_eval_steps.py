"""How many users are ranked at a time: by the scores held, by ``eval_batch_size`` where it is set, and the same lists."""

import pytest
import torch
import upstream_models
import yaml
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import BPR
from recbole.utils import get_model, get_trainer, init_seed

from recbole_persona.config import Config
from recbole_persona.evaluate import full_ranking
from recbole_persona.runs import config_hash, plain_config

ITEMS = upstream_models.ITEMS + 1
# What looks at a user alone, at pairs, at neighbours, at rows of a matrix, and draws lists.
MODELS = ["BPR", "ItemKNN", "FISM", "DMF", "MultiVAE", "NeuMF", "LightGCN", "KGCN", "CFKG", "RippleNet", "Random"]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    return upstream_models.write_tiny(tmp_path_factory.mktemp("data")).parent


def prepared(name, data_path, **settings):
    """Test loader and trainer of a fresh model, on the tiny data."""
    model, own = upstream_models.stages(name)[-1]
    config = Config(model, "tiny", config_dict=own | {"data_path": str(data_path), "topk": [10]} | settings)
    init_seed(config["seed"], True)
    train, _, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    model = get_model(config["model"])(config, train._dataset).to(config["device"])
    return test, get_trainer(config["MODEL_TYPE"], config["model"])(config, model)


def ranked(test, trainer):
    """(cases, items) scores of every item, and the number of cases of each batch."""
    trainer.tot_item_num, trainer.item_tensor = test._dataset.item_num, test._dataset.get_item_feature()
    trainer.model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        parts = [trainer._full_sort_batch_eval(batch)[1].clone() for batch in test]
    return torch.cat(parts).double(), [len(part) for part in parts]


def check_same_lists(name, data_path):
    one, sizes_of_one = ranked(*prepared(name, data_path, eval_batch_size=1))
    many, sizes = ranked(*prepared(name, data_path))
    assert set(sizes_of_one) == {1} and len(sizes) < len(sizes_of_one)
    torch.testing.assert_close(many, one, rtol=0, atol=1e-5)
    lists, wanted = (scores.topk(10).indices for scores in (many, one))
    gap = (one.gather(1, lists) - one.gather(1, wanted)).abs().nan_to_num(0)  # of what has no score
    assert gap[lists != wanted].lt(1e-5).all()


@pytest.mark.parametrize("name", MODELS)
def test_lists_do_not_depend_on_the_step(name, data_path):
    check_same_lists(name, data_path)


@pytest.mark.parametrize("name", ["DIN", "SASRec"])
def test_lists_of_sequential_models_do_not_depend_on_the_step(name, data_path, monkeypatch):
    monkeypatch.setattr(full_ranking, "PAIRS_PER_STEP", 7 * ITEMS)
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}
    settings = {"eval_args": eval_args, "metrics": ["NDCG"], "valid_metric": "NDCG@10"}
    test, trainer = prepared(name, data_path, **settings)
    assert test.step == (7 if name == "DIN" else 4096)  # RecBole's DIN scores pairs
    one, _ = ranked(*prepared(name, data_path, **settings, eval_batch_size=1))
    torch.testing.assert_close(ranked(test, trainer)[0], one, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name, settings, users",
    [
        ("BPR", {}, 2**22 // ITEMS),
        ("BPR", {"eval_batch_size": None}, 2**22 // ITEMS),
        ("NeuMF", {}, 2**16 // ITEMS),  # no full_sort_predict
        ("KGCN", {}, 2**16 // ITEMS),  # whose full_sort_predict makes pairs
        ("BPR", {"eval_batch_size": 4096}, 4096 // ITEMS),  # RecBole's default, written out
        ("BPR", {"eval_batch_size": 10**7}, 10**7 // ITEMS),
        ("NeuMF", {"eval_batch_size": 10}, 1),
        ("AMPCF", {}, 2**22 // ITEMS),  # its own default counts rows of what is not full ranking
    ],
)
def test_users_of_a_step(name, settings, users, data_path):
    test, _ = prepared(name, data_path, **settings)
    assert test.step == users


def test_a_model_that_asks_for_less_than_recbole_gets_it(data_path):
    class Small(BPR):
        config_defaults = {"eval_batch_size": 100}

    config = Config(Small, "tiny", config_dict={"data_path": str(data_path), "state": "ERROR"})
    assert not config.sizes_eval_steps
    assert data_preparation(config, create_dataset(config))[2].step == 100 // ITEMS


def test_a_run_read_again_goes_by_the_scores_too(data_path, tmp_path):
    """And the hash of its settings is what it was when RecBole's default was written out."""
    settings = {"data_path": str(data_path), "state": "ERROR"}
    for name, number in (("BPR", 4096), ("AMPCF", 131072)):
        free = Config(name, "tiny", config_dict=settings)
        fixed = Config(name, "tiny", config_dict=settings | {"eval_batch_size": number})
        assert free["eval_batch_size"] == fixed["eval_batch_size"] == number  # for RecBole's own code
        assert plain_config(free)["eval_batch_size"] is None and plain_config(fixed)["eval_batch_size"] == number
        assert config_hash(free) == config_hash(fixed)
        for config in (free, fixed):
            file = tmp_path / "config.yaml"
            file.write_text(yaml.safe_dump(plain_config(config)))
            again = Config(config_file_list=[str(file)])
            assert again.sizes_eval_steps == config.sizes_eval_steps == (config is free)
            assert config_hash(again) == config_hash(config)


def test_a_number_set_later_counts(data_path):
    config = Config("BPR", "tiny", config_dict={"data_path": str(data_path), "state": "ERROR"})
    config["eval_batch_size"] = 10**6
    assert not config.sizes_eval_steps
