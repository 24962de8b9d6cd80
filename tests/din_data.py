"""A small data set with columns of every kind, and small models of DIN on it."""

import numpy as np
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_persona.config import Config
from recbole_persona.models.din import DIN

N_USERS, N_ITEMS = 24, 40
LOADED = {
    "inter": ["user_id", "item_id", "rating", "device", "timestamp"],
    "user": ["user_id", "group", "height"],
    "item": ["item_id", "brand", "words", "price", "colour"],
}
SMALL = {
    "use_gpu": False,
    "user_fields": None,
    "train_batch_size": 64,
    "embedding_size": 4,
    "mlp_hidden_size": [8, 6],
    "attention_hidden_size": [7, 5],
    "MAX_ITEM_LIST_LENGTH": 6,
    "load_col": LOADED,
    "numerical_features": ["height", "price", "colour", "rating"],
}
EVERYTHING = {"context_fields": ["device"], "behaviour_fields": ["rating", "device"], "time_gap": True}


def write_data(folder):
    """``<folder>/shop``; users take items more than once, one has a single interaction."""
    random = np.random.default_rng(3)
    (folder / "shop").mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\tdevice:token\ttimestamp:float"]
    for user in range(N_USERS):
        moments = np.sort(random.integers(0, 10**6, size=random.integers(3, 14)))
        for time in moments:
            item, rating, device = random.integers(N_ITEMS), random.integers(1, 6), random.integers(3)
            lines.append(f"u{user}\ti{item}\t{rating}\td{device}\t{time}")
    lines += [f"u0\ti{item}\t3\td0\t{2 * 10**6 + item}" for item in range(N_ITEMS)]  # all items are known
    (folder / "shop/shop.inter").write_text("\n".join(lines) + "\n")
    users = [f"u{user}\tg{user % 3}\t{1.5 + user / 50}" for user in range(N_USERS)] + ["cold\tg1\t1.8"]
    (folder / "shop/shop.user").write_text("\n".join(["user_id:token\tgroup:token\theight:float", *users]) + "\n")
    items = []
    for item in range(N_ITEMS):
        words = " ".join(f"w{word}" for word in random.choice(9, size=item % 4, replace=False))
        colour = " ".join(f"{value:.2f}" for value in random.random(1 + item % 2))
        items.append(f"i{item}\tb{item % 5}\t{words}\t{item / 7:.2f}\t{colour}")
    head = "item_id:token\tbrand:token\twords:token_seq\tprice:float\tcolour:float_seq"
    (folder / "shop/shop.item").write_text("\n".join([head, *items]) + "\n")
    return folder


def parts(folder, model="DIN", **settings):
    """Config, and the loaders of training, validation and test."""
    config = Config(model, "shop", config_dict={"data_path": str(folder), **SMALL, **settings})
    init_seed(config["seed"], True)
    return config, *data_preparation(config, create_dataset(config))


def model_of(config, loader, seed=0, double=True, scale=0.3):
    """A DIN with parameters, and running statistics, far from where they begin."""
    torch.manual_seed(seed)
    model = DIN(config, loader._dataset)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_()
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return model.double() if double else model
