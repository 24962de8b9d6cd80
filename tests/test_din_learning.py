"""What DIN learns, and what every model must keep."""

import torch
from conformance import Conformance
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_persona.models.din import DIN
from recbole_persona.registry import get_trainer

torch.set_num_threads(1)
SIZES = {"embedding_size": 8, "mlp_hidden_size": [16, 8], "attention_hidden_size": [12, 6]}
FULL = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}, "eval_batch_size": 4096}


class TestDIN(Conformance):
    model = "DIN"
    settings = SIZES | FULL
    against_pop = None  # Pop is ranked for other cases; see below


class TestDINWithMore(Conformance):
    model = "DIN"
    settings = {
        **SIZES,
        **FULL,
        "user_fields": ["user_id", "group"],
        "behaviour_fields": ["rating"],
        "numerical_features": ["rating"],
        "time_gap": True,
        "attention_activation": "prelu",
        "attention_softmax": True,
        "dropout_prob": 0.1,
    }
    against_pop = None


class TestRecBolesDIN(Conformance):
    model = "DIN"
    settings = SIZES | FULL | {"variant": "recbole"}
    against_pop = None


def test_it_learns_more_than_popularity(tmp_path, monkeypatch):
    """The first 120 users of ml-100k, 100 sampled negatives."""
    monkeypatch.chdir(tmp_path)  # RecBole writes log_tensorboard/ where it stands
    settings = {"use_gpu": False, "show_progress": False, "checkpoint_dir": str(tmp_path), "learning_rate": 0.003}
    settings |= {"val_interval": {"user_id": [str(user) for user in range(1, 121)]}, "train_batch_size": 1024}
    settings |= {"mlp_hidden_size": [64, 32], "attention_hidden_size": [32, 16], "MAX_ITEM_LIST_LENGTH": 20}
    config = Config(model="DIN", dataset="ml-100k", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], "DIN")(config, DIN(config, train._dataset))
    losses = [trainer._train_epoch(train, epoch) for epoch in range(4)]
    assert losses == sorted(losses, reverse=True)
    learned = trainer.evaluate(valid, load_best_model=False)
    popular = torch.bincount(train._dataset.inter_feat["item_id"], minlength=trainer.model.n_items).float()
    trainer.model.predict = lambda rows: popular[rows["item_id"]] / popular.max()
    known = trainer.evaluate(valid, load_best_model=False)
    assert learned["auc"] > known["auc"] and learned["gauc"] > known["gauc"] > 0.6
    assert learned["logloss"] < 0.6931
