"""A small UserEncoder on the data set ``tiny``, for tests against slow loops."""

import torch
from recbole.data import create_dataset, data_preparation

from recbole_persona.config import Config
from recbole_persona.models.user_encoder import UserEncoder

FEATURES = ["class", "rating", "release_year", "price"]  # a set, a number of the interaction, a token, a number
COLUMNS = {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": "*"}


def small_encoder(data, double=True, seed=0, **settings):
    """Model with parameters far from 0 and no dropout, and its three loaders.

    Args:
        data: of :func:`upstream_models.write_tiny`.
    """
    shared = {
        "data_path": str(data.parent),
        "use_gpu": False,
        "hidden_size": 8,
        "inner_size": 12,
        "feature_size": 3,
        "MAX_ITEM_LIST_LENGTH": 6,
        "train_batch_size": 64,
        "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
        "load_col": COLUMNS,
    }
    config = Config("UserEncoder", "tiny", config_dict={**shared, **settings})
    loaders = data_preparation(config, create_dataset(config))
    torch.manual_seed(seed)
    model = UserEncoder(config, loaders[0]._dataset)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.4)
            if "embedding" in name or name.endswith("table.weight"):
                parameter[0] *= float("position" in name)
    return (model.double() if double else model), loaders
