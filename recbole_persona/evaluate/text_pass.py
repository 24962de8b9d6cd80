"""What text metrics need, gathered in one pass over the held-out rows that have a text.

Into RecBole's data struct go, each (n,), in the order of the rows:

- ``text.generated``, ``text.reference``: lists of str;
- ``text.rows``, ``text.users``, ``text.items``: arrays of int64: number of the row in its part, internal ids;
- ``text.feature``: list of str, what the reference is about, ``""`` for none;
- ``text.rating``: array of float64;

and from the training part, once: ``data.features`` (the features of all parts by id, ``""`` the padding), ``data.item_features``
(item id -> array of ids of features seen with it in training), ``data.middle_rating`` (between the lowest and the highest).
"""

import numpy as np
import torch

from recbole_persona.data.texts import text_store
from recbole_persona.data.training_part import training_interactions
from recbole_persona.errors import UserError


def from_training(config, dataset, needs) -> dict:
    """What the metrics need of the training part, by name.

    Args:
        needs: function name -> bool.

    Raises:
        UserError: no column with texts, features or ratings.
    """
    found = {}
    if needs("text.reference"):
        text_store(dataset, config["explanation_field"], "A text metric")
    if needs("data.features"):
        field = feature_field(config, dataset)
        found["data.features"] = ["", *dataset.field2id_token[field][1:].tolist()]
    if needs("data.item_features"):
        items, features = training_interactions(dataset, dataset.iid_field, field)
        found["data.item_features"] = _grouped(items[features > 0], features[features > 0])
    if needs("data.middle_rating"):
        ratings = dataset.inter_feat[_rating_field(config, dataset)]
        found["data.middle_rating"] = (float(ratings.min()) + float(ratings.max())) / 2
    return found


def _grouped(items, features) -> dict:
    """Item -> array of its distinct features, of pairs (R,)."""
    items, features = np.unique(np.stack([items, features]), axis=1)
    starts = np.flatnonzero(np.diff(items, prepend=-1))
    return dict(zip(items[starts].tolist(), np.split(features, starts[1:])))


def feature_field(config, dataset) -> str:
    """The column of features; UserError where it is none of the data set."""
    field = config["feature_field"]
    if field not in dataset.inter_feat or field not in dataset.field2id_token:
        raise UserError(
            f"The metrics fmr, fcr, div and hallucinated need a token column of the interactions that says what a text is "
            f"about, and {dataset.dataset_name!r} has no {field!r}; name it in feature_field and load_col."
        )
    return field


def _rating_field(config, dataset) -> str:
    field = config["RATING_FIELD"]
    if field not in dataset.inter_feat:
        raise UserError(
            f"sentiment-agreement needs ratings, and {dataset.dataset_name!r} has no column {field!r}; name it in RATING_FIELD "
            "and load_col."
        )
    return field


@torch.no_grad()
def from_model(config, model, loader, needs, device) -> dict:
    """What the metrics need of the held-out rows with a text, and what the model writes for them, by name.

    Args:
        model: has ``generate(interaction, task) -> list of str``.
        loader: of the part; its batches are not used, all its rows are.
        needs: function name -> bool.

    Raises:
        UserError: the model writes nothing, or no row has a text.
    """
    dataset = loader._dataset
    feat, field = dataset.inter_feat, config["explanation_field"]
    store = text_store(dataset, field, "A text metric")
    if not hasattr(model, "generate"):
        raise UserError(f"{type(model).__name__} writes no texts, which the metrics ask for (it has no generate()).")
    places = feat[field]
    rows = (places > 0).nonzero().squeeze(1)
    if not len(rows):
        raise UserError(
            f"No held-out row of {dataset.dataset_name!r} has a text {field!r} to compare with; change the split."
        )
    generated = []
    for some in rows.split(config["text_batch_size"]):
        batch = loader.transform(dataset, dataset[some])
        written = model.generate(batch.to(device), task="explanation")
        if len(written) != len(some):
            raise UserError(f"{type(model).__name__}.generate() wrote {len(written)} texts for {len(some)} rows.")
        generated += written
    found = {
        "text.generated": generated,
        "text.reference": store[places[rows]],
        "text.rows": rows.numpy(),
        "text.users": feat[dataset.uid_field][rows].numpy(),
        "text.items": feat[dataset.iid_field][rows].numpy(),
    }
    if needs("text.feature"):
        names = dataset.field2id_token[feature_field(config, dataset)]
        found["text.feature"] = [
            "" if one == 0 else str(names[one]) for one in feat[config["feature_field"]][rows].tolist()
        ]
    if needs("text.rating"):
        found["text.rating"] = feat[_rating_field(config, dataset)][rows].double().numpy()
    return found
