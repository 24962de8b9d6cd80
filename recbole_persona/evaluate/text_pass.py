"""What text metrics need, gathered in one pass over the held-out rows that have a text.

Into RecBole's data struct go, each (n,), in the order of the rows:

- ``text.generated``, ``text.reference``: lists of str;
- ``text.users``, ``text.items``: arrays of int64, internal ids;
- ``text.feature``: list of str, what the reference is about, ``""`` for none;
- ``text.rating``: array of float64;

and from the training part, once: ``data.features`` (the features of all parts by id, ``""`` the padding), ``data.item_features``
(item id -> array of ids of features seen with it in training), ``data.middle_rating`` (between the lowest and the highest).
"""

import numpy as np
import torch

from recbole_persona.data.columns import absent
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
            "The metrics fmr, fcr, div and hallucinated need a token column of the interactions that says what a text is "
            f"about (feature_field), and {absent(config, field, 'inter')}."
        )
    return field


def _rating_field(config, dataset) -> str:
    field = config["RATING_FIELD"]
    if field not in dataset.inter_feat:
        raise UserError(f"sentiment-agreement needs ratings (RATING_FIELD), and {absent(config, field, 'inter')}.")
    return field


class HeldOutTexts:
    """The rows of a part that have a text, in their order.

    Args:
        loader: of the part; its batches are not used, all its rows are.
        reader: what reads the texts, as the beginning of a sentence.

    Attributes:
        users, items: (n,) arrays of int64, internal ids.

    Raises:
        UserError: the data set has no such texts, or no row has one.
    """

    def __init__(self, config, loader, reader):
        self.config, self.loader, self.dataset = config, loader, loader._dataset
        feat, field = self.dataset.inter_feat, config["explanation_field"]
        self.store = text_store(self.dataset, field, reader)
        self.places = torch.from_numpy(self.store.filled(feat[field]))
        if not len(self.places):
            raise UserError(
                f"No held-out row of {self.dataset.dataset_name!r} has a text {field!r} to compare with; change the split."
            )
        self.feat = feat[self.places]
        self.users, self.items = (self.feat[name].numpy() for name in (self.dataset.uid_field, self.dataset.iid_field))

    def __len__(self):
        return len(self.places)

    def rows(self, numbers):
        """The batch of some of the rows (B,), on the device."""
        some = self.dataset[self.places[torch.as_tensor(numbers)]]
        return self.loader.transform(self.dataset, some).to(self.config["device"])

    def references(self, numbers) -> list[str]:
        """The texts of some of the rows (B,)."""
        return self.store[self.feat[self.config["explanation_field"]][numbers]]

    def features(self, numbers) -> list[str]:
        """What they are about, ``""`` for none."""
        field = feature_field(self.config, self.dataset)
        tokens = self.dataset.field2id_token[field]
        return ["" if one == 0 else str(tokens[one]) for one in self.feat[field][numbers].tolist()]

    def ratings(self, numbers) -> np.ndarray:
        """(B,) float64."""
        return self.feat[_rating_field(self.config, self.dataset)][numbers].double().numpy()


@torch.no_grad()
def from_model(config, model, loader, needs) -> dict:
    """What the metrics need of the held-out rows with a text, and what the model writes for them, by name.

    Args:
        model: has ``generate(interaction, task) -> list of str``.
        loader: of the part.
        needs: function name -> bool.

    Raises:
        UserError: the model writes nothing, or no row has a text.
    """
    held_out = HeldOutTexts(config, loader, "A text metric")
    if not hasattr(model, "generate"):
        raise UserError(f"{type(model).__name__} writes no texts, which the metrics ask for (it has no generate()).")
    generated, every = [], torch.arange(len(held_out))
    for some in every.split(config["text_batch_size"]):
        written = model.generate(held_out.rows(some), task="explanation")
        if len(written) != len(some):
            raise UserError(f"{type(model).__name__}.generate() wrote {len(written)} texts for {len(some)} rows.")
        generated += written
    found = {
        "text.generated": generated,
        "text.reference": held_out.references(every),
        "text.users": held_out.users,
        "text.items": held_out.items,
    }
    if needs("text.feature"):
        found["text.feature"] = held_out.features(every)
    if needs("text.rating"):
        found["text.rating"] = held_out.ratings(every)
    return found
