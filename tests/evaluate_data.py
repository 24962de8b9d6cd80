"""A small data set with item fields, and a small model that explains by personas, for the tests of evaluation."""

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.trainer import Trainer
from recbole.utils import InputType, init_seed

from recbole_persona.evaluate.passes import EvaluationPasses
from recbole_persona.layers.explanation import Explanation

N_USERS, N_ITEMS = 60, 40


def write_data(folder):
    """``<folder>/small``: ratings of 60 users and 40 items; items with a token, a token sequence and a vector."""
    rng = np.random.default_rng(3)
    (folder / "small").mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(N_USERS):
        for time, item in enumerate(rng.permutation(N_ITEMS)[: rng.integers(8, 20)]):
            lines.append(f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{time}")
    (folder / "small" / "small.inter").write_text("\n".join(lines))
    lines = ["item_id:token\tshelf:token\ttags:token_seq\tplace:float_seq\tprice:float"]
    for item in range(N_ITEMS):
        tags = " ".join(f"t{tag}" for tag in rng.permutation(7)[: rng.integers(0, 4)])
        place = " ".join(f"{x:.3f}" for x in rng.random(4))
        lines.append(f"i{item}\ts{rng.integers(3)}\t{tags}\t{place}\t{rng.random():.2f}")
    (folder / "small" / "small.item").write_text("\n".join(lines))
    return folder


class Personas(GeneralRecommender):
    """Three personas per user; softmax attention of the candidate; dot product and item bias."""

    input_type = InputType.PAIRWISE
    n_personas = 3

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.users = torch.nn.Parameter(torch.randn(self.n_users, self.n_personas, 8))
        self.items = torch.nn.Parameter(torch.randn(self.n_items, 8))
        self.bias = torch.nn.Parameter(torch.randn(self.n_items))

    def explain(self, interaction):
        parts = self.users[interaction[self.USER_ID]]  # (B, K, d)
        weights = torch.einsum("bkd,bd->bk", parts, self.items[interaction[self.ITEM_ID]]).softmax(1)
        return Explanation("persona", weights, parts)

    def score_pooled(self, interaction, pooled):
        item = interaction[self.ITEM_ID]
        return (pooled * self.items[item]).sum(1) + self.bias[item]

    def predict(self, interaction):
        return self.score_pooled(interaction, self.explain(interaction).pooled)

    def full_sort_predict(self, interaction):
        logits = torch.einsum("bkd,nd->bnk", self.users[interaction[self.USER_ID]], self.items)
        return (logits.softmax(2) * logits).sum(2) + self.bias

    def calculate_loss(self, interaction):
        negative = {self.USER_ID: interaction[self.USER_ID], self.ITEM_ID: interaction[self.NEG_ITEM_ID]}
        return -torch.nn.functional.logsigmoid(self.predict(interaction) - self.predict(negative)).mean()


class SequentialPersonas(SequentialRecommender):
    """The same over two pieces of the history, so that the explanation depends on the row and not on the user."""

    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.items = torch.nn.Parameter(torch.randn(self.n_items, 8))

    def explain(self, interaction):
        history = self.items[interaction[self.ITEM_SEQ]]  # (B, L, d)
        parts = torch.stack([history[:, 0], history[:, :3].mean(1)], dim=1)  # (B, 2, d)
        weights = torch.einsum("bkd,bd->bk", parts, self.items[interaction[self.ITEM_ID]]).softmax(1)
        return Explanation("persona", weights, parts)

    def score_pooled(self, interaction, pooled):
        return (pooled * self.items[interaction[self.ITEM_ID]]).sum(1)

    def predict(self, interaction):
        return self.score_pooled(interaction, self.explain(interaction).pooled)


class PassesTrainer(EvaluationPasses, Trainer):
    """RecBole's trainer with our passes, and nothing else."""


def prepared(model, folder, **settings):
    """``(config, train, valid, test, model, trainer)`` on the small data set, untrained; the collector knows it."""
    torch.set_num_threads(1)
    config = Config(
        model,
        settings.pop("dataset", "small"),
        config_dict={
            "data_path": str(folder),
            "checkpoint_dir": str(folder / "saved"),
            "state": "ERROR",
            "show_progress": False,
            "topk": [3, 7],
            "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": "*"},
            "normalize_all": False,
            **settings,
        },
    )
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    made = config.model_class(config, loaders[0]._dataset).to(config["device"])
    trainer = PassesTrainer(config, made)
    trainer.eval_collector.data_collect(loaders[0])
    return config, *loaders, made, trainer
