"""A small AMPCF, for tests against slow loops."""

import itertools

import torch
from recbole.config import Config

from recbole_persona.layers.personas import ATTENTIONS, VARIANTS
from recbole_persona.models.ampcf import AMPCF

SWITCHES = list(itertools.product(VARIANTS, ATTENTIONS, (1, 3)))


class Small:
    """What AMPCF reads of a data set: 12 users, 30 items, five interactions of every user but the last."""

    users = torch.arange(1, 11).repeat_interleave(5)
    items = torch.arange(50) * 7 % 29 + 1
    inter_feat = {"user_id": users, "item_id": items}

    def num(self, field):
        return {"user_id": 12, "item_id": 30}[field]


def small_model(seed=0, scale=1.0, double=True, **settings):
    """A model with parameters of size ``scale``, so that attention is far from even."""
    settings = {"use_gpu": False, "embedding_size": 6, "attention_size": 5, "n_personas": 3, **settings}
    config = Config(model="AMPCF", dataset="ml-100k", config_dict=settings)
    torch.manual_seed(seed)
    model = AMPCF(config, Small())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale)
    return model.double() if double else model
