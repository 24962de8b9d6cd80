"""DIN: deep interest network.

Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018. Equations, switches and cost: docs/din.md.

Shapes: B rows, L places of a history, P pairs of a row and one of its behaviours (no padding), H distinct behaviours,
I items (padding included), d dimensions of an item's columns together, e of what only a behaviour has, f of users and context.
"""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import FeatureType, InputType
from torch import nn
from torch.nn import functional as F

from recbole_persona.data.columns import absent
from recbole_persona.data.frequencies import history_counts
from recbole_persona.data.sampling import negative_weights
from recbole_persona.data.texts import is_text
from recbole_persona.errors import UserError, one_sentence
from recbole_persona.layers.activation_unit import ActivationUnit
from recbole_persona.layers.explanation import Explanation
from recbole_persona.layers.feature_table import POOLINGS, Column, ColumnEmbedding, FeatureTable
from recbole_persona.layers.tower import Tower
from recbole_persona.models.din_recbole import recbole_weights

GAPS = 34  # a time gap of t seconds falls into bucket 1 + log2(1 + t), the last of 2^32 seconds or more
PART = 2**22  # numbers in the widest layer that predict holds at a time
CANDIDATES = 256  # items of a tile of full ranking
HELD = 2**24  # logits of behaviours and items that full ranking holds at a time
# Numbers in the widest part of a tile of full ranking; on a CPU they stay in the cache.
SCORING_TILE = {"cpu": 2**18, "accelerator": 2**26}
LOW = -1e30  # a logit without weight, also where there is no other
CHOICES = {
    "variant": ("paper", "recbole"),
    "mlp_activation": ("dice", "prelu", "relu", "sigmoid"),
    "attention_activation": ("sigmoid", "dice", "prelu"),
    "pooling": ("attention", "mean"),
    "pooling_mode": POOLINGS,
}
RECBOLE = {  # what variant: recbole fixes
    "mlp_activation": "silu",
    "mlp_norm": True,
    "attention_activation": "sigmoid",
    "attention_softmax": False,
    "attention_scale": True,
    "pooling": "attention",
    "item_fields": None,
    "user_fields": [],
    "context_fields": [],
    "behaviour_fields": [],
    "time_gap": False,
    "item_bias": False,
    "reg_weight": 0.0,
}


class DIN(SequentialRecommender):
    """The candidate decides by an activation unit how much each behaviour of the user counts.

    Config keys: docs/din.md.

    Raises:
        UserError: a value outside of what docs/din.md lists, or a column that is not loaded.
    """

    input_type = InputType.POINTWISE
    scores_pairs = True  # a history is read with each candidate in mind

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        settings = _settings(config)
        self.variant, self.settings = config["variant"], settings
        self.label_field, self.time_field = config["LABEL_FIELD"], config["TIME_FIELD"]
        self.list_suffix = config["LIST_SUFFIX"]
        size, pooling = settings["embedding_size"], settings["pooling_mode"]

        columns = _Columns(dataset, config)
        items, users = dataset.get_item_feature(), dataset.get_user_feature()
        self.n_users = dataset.num(self.USER_ID)
        self.items = FeatureTable(columns.of("item", settings["item_fields"], ()), items, size, pooling)
        chosen = columns.of("user", settings["user_fields"], (self.USER_ID,))
        self.users = FeatureTable(chosen, users, size, pooling) if chosen else None
        self.context_fields, self.behaviour_fields = settings["context_fields"], list(settings["behaviour_fields"])
        of_history = self.behaviour_fields + [self.time_field] * settings["time_gap"]
        for name in (*self.context_fields, *(name + self.list_suffix for name in of_history)):
            if name not in dataset.inter_feat:
                column = name.removesuffix(self.list_suffix)
                raise UserError(f"DIN reads {column!r} of the interactions, and {absent(config, column, 'inter')}.")
        self.context = nn.ModuleList(ColumnEmbedding(columns[name], size, pooling) for name in self.context_fields)
        own = [columns[name] for name in self.behaviour_fields] + [Column(GAPS)] * settings["time_gap"]
        self.behaviour = nn.ModuleList(ColumnEmbedding(column, size, pooling) for column in own)

        extra = size * len(self.behaviour)
        beside = size * (len(self.context) + len(chosen))
        self.attends = settings["pooling"] == "attention"
        self.unit = None
        if self.attends:
            sizes, activation = settings["attention_hidden_size"], settings["attention_activation"]
            self.unit = ActivationUnit(self.items.dimension, extra, sizes, activation)
        width = 3 * self.items.dimension + extra + beside
        self.tower = Tower(
            width,
            settings["mlp_hidden_size"],
            settings["mlp_activation"],
            settings["mlp_norm"],
            settings["dropout_prob"],
        )
        self.item_bias = nn.Parameter(torch.zeros(self.n_items)) if settings["item_bias"] else None
        self.reg_weight = settings["reg_weight"]
        if self.reg_weight:
            self._count(config, dataset.inter_feat)
        self.apply(_initialise)

    def _count(self, config, rows):
        """How often items and users occur in the training samples: as behaviour, as target, and, expected, as negative."""
        users, items = rows[self.USER_ID], rows[self.ITEM_ID]
        sampling = config["train_neg_sample_args"]
        negatives = 0 if sampling["distribution"] == "none" else sampling["sample_num"]
        often = (1 + negatives) * history_counts(rows, self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.n_items)
        often += torch.bincount(items, minlength=self.n_items)
        if negatives:
            weights = negative_weights(items, self.n_items, sampling["distribution"], sampling["alpha"])
            often += negatives * len(items) * weights / weights.sum()
        self.items.count(often)
        if self.users is not None:
            self.users.count((1 + negatives) * torch.bincount(users, minlength=self.n_users).double())

    # From a batch to vectors

    def _behaviours(self, interaction):
        """Vectors (H, d + e) of the distinct behaviours of a batch, and for every pair its row and its behaviour, (P,)."""
        items = interaction[self.ITEM_SEQ]
        row, step = self._inside(interaction).nonzero(as_tuple=True)  # of the P pairs; a mask would wait at every use
        values = [interaction[name + self.list_suffix][row, step] for name in self.behaviour_fields]
        if self.settings["time_gap"]:
            gap = interaction[self.time_field].unsqueeze(1) - interaction[self.time_field + self.list_suffix]
            values.append((gap[row, step].clamp(min=0) + 1).log2().long().add(1).clamp(max=GAPS - 1))
        items = items[row, step]  # (P,)
        example, place = _distinct([items, *values])
        parts = [embed(value[example]) for embed, value in zip(self.behaviour, values)]
        vectors = torch.cat([self.items(items[example]), *parts], dim=1)
        return vectors, row, place

    def _inside(self, interaction):
        """(B, L), what is no padding."""
        steps = torch.arange(interaction[self.ITEM_SEQ].shape[1], device=interaction[self.ITEM_SEQ].device)
        return steps < interaction[self.ITEM_SEQ_LEN].unsqueeze(1)

    def _beside(self, interaction):
        """(B, f), what the score sees of users and context."""
        parts = [self.users(interaction[self.USER_ID])] if self.users is not None else []
        parts += [embed(interaction[name]) for name, embed in zip(self.context_fields, self.context)]
        like = self.tower.output.weight
        return torch.cat(parts, dim=1) if parts else like.new_zeros(len(interaction[self.ITEM_SEQ_LEN]), 0)

    # The score

    def _weights(self, target, vectors, row, place, length):
        """(P,) how much every behaviour counts for its row's target (B, d)."""
        if not self.attends:
            return 1 / length[row].to(vectors.dtype)
        if not len(row):
            return vectors.new_zeros(0)
        weights = self.unit(target, vectors, row, place).to(vectors.dtype) / self._divisor
        return _softmax(weights, row, len(target)) if self.settings["attention_softmax"] else weights

    @property
    def _divisor(self):
        return self.items.dimension**0.5 if self.settings["attention_scale"] else 1.0

    def _logits(self, interaction, pooled=None):
        """(B,) logits, of the pooled vectors (B, d + e) if they are given."""
        item = interaction[self.ITEM_ID]
        target = self.items(item)  # (B, d)
        if pooled is None:
            pooled = self._pooled(target, interaction)
        product = pooled[:, : target.shape[1]] * target
        logits = self.tower(torch.cat([pooled, target, product, self._beside(interaction)], dim=1))
        return logits if self.item_bias is None else logits + self.item_bias[item]

    def user_state(self, interaction):
        """(B, d + e), the mean of the behaviours: what a history says before an item is asked about; zeros for an empty one."""
        vectors, row, place = self._behaviours(interaction)
        length = interaction[self.ITEM_SEQ_LEN]
        parts = vectors[place] / length[row].to(vectors.dtype).unsqueeze(1)
        return parts.new_zeros(len(length), vectors.shape[1]).index_add(0, row, parts)

    def _pooled(self, target, interaction):
        """(B, d + e), the sum of weight times behaviour."""
        vectors, row, place = self._behaviours(interaction)
        weights = self._weights(target, vectors, row, place, interaction[self.ITEM_SEQ_LEN])
        parts = weights.unsqueeze(1) * vectors[place]
        return parts.new_zeros(len(target), vectors.shape[1]).index_add(0, row, parts)

    # The loss: -(y log p + (1 - y) log(1 - p)) + reg_weight / 2 sum_j |w_j|² / n_j

    def calculate_loss(self, interaction):
        """Mean cross-entropy of the labels, and the mini-batch aware regularisation of the features in the batch."""
        logits, label = self._logits(interaction), interaction[self.label_field]
        loss = F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))
        if self.reg_weight:
            items = torch.cat([interaction[self.ITEM_SEQ][self._inside(interaction)], interaction[self.ITEM_ID]])
            penalty = self.items.penalty(items.unique())
            if self.users is not None:
                penalty = penalty + self.users.penalty(interaction[self.USER_ID].unique())
            loss = loss + self.reg_weight / 2 * penalty
        return loss

    # Scores for RecBole

    def predict(self, interaction):
        """(B,) probabilities, some rows at a time."""
        widest = max(self.tower.widest, self.unit.tower.widest if self.attends else 0)
        size = max(1, PART // (widest * max(1, interaction[self.ITEM_SEQ].shape[1])))
        parts = (interaction[slice(start, start + size)] for start in range(0, len(interaction), size))
        return torch.cat([self._logits(part) for part in parts]).sigmoid()

    @torch.no_grad()
    def full_sort_predict(self, interaction):
        """(B * I,) probabilities of all items.

        Every distinct behaviour of the batch meets every item once in the activation unit, whatever number of users has
        it. Rows and items go in tiles: what is held does not grow with rows x items but for the result.
        """
        vectors, _, place = self._behaviours(interaction)
        length = interaction[self.ITEM_SEQ_LEN]
        offsets = self._offsets(self._beside(interaction))  # (B, h)
        n_items = max(1, min(CANDIDATES, HELD // max(1, len(vectors))))
        widest = max(self.tower.widest, interaction[self.ITEM_SEQ].shape[1])
        tile = SCORING_TILE["cpu" if vectors.device.type == "cpu" else "accelerator"]
        tiles = self._tiles(length, place, max(1, tile // (n_items * widest)))
        scores = vectors.new_empty(len(length), self.n_items)
        for items in torch.arange(self.n_items, device=length.device).split(n_items):
            target = self.items(items)  # (C, d)
            logits = self.unit.all_pairs(target, vectors) / self._divisor if self.attends else None  # (H, C)
            for rows, places, inside in tiles:
                pooled = self._pooled_tile(vectors, logits, places, inside, length[rows])
                tile = self._tile_logits(pooled, target, offsets[rows])
                tile = tile if self.item_bias is None else tile + self.item_bias[items]
                scores[rows.unsqueeze(1), items] = tile.to(scores.dtype)
        return scores.sigmoid_().view(-1)

    @staticmethod
    def _tiles(length, place, n_rows):
        """Rows by the length of their histories, ``n_rows`` at a time: their numbers (R,), and of every step of a history (R, l)
        its behaviour, and whether it is no padding.
        """
        first = length.cumsum(0) - length  # of each row's pairs
        ordered, order = length.sort()
        longest = ordered.tolist()  # the only time that this waits for the device
        tiles = []
        for rows in order.split(n_rows):
            end = min(len(tiles) * n_rows + n_rows, len(longest))
            steps = torch.arange(longest[end - 1], device=length.device)
            inside = steps < length[rows].unsqueeze(1)  # (R, l)
            pairs = torch.where(inside, first[rows].unsqueeze(1) + steps, 0)
            tiles.append((rows, place[pairs] if len(place) else pairs, inside))
        return tiles

    def _pooled_tile(self, vectors, logits, places, inside, length):
        """(R, C, d + e), or (R, 1, d + e) where the candidate has no say."""
        if not places.shape[1]:
            return vectors.new_zeros(len(places), 1, vectors.shape[1])
        parts = vectors[places]  # (R, l, d + e)
        if logits is None:
            parts = parts.masked_fill(~inside.unsqueeze(2), 0)
            return parts.sum(dim=1, keepdim=True) / length.clamp(min=1).view(-1, 1, 1)
        weights = logits[places]  # (R, l, C)
        if self.settings["attention_softmax"]:
            weights = weights.masked_fill(~inside.unsqueeze(2), LOW).softmax(dim=1)
        weights = weights.masked_fill(~inside.unsqueeze(2), 0)
        return weights.transpose(1, 2) @ parts

    def _offsets(self, beside):
        """(B, h), what the first layer adds for users and context, and its bias."""
        linear = self.tower.linears[0]
        return torch.addmm(linear.bias, beside, linear.weight[:, linear.in_features - beside.shape[1] :].T)

    def _tile_logits(self, pooled, target, offsets):
        """(R, C) logits, without the items' biases."""
        target = target.expand(len(pooled), -1, -1)
        pooled = pooled.expand(-1, target.shape[1], -1)
        inputs = torch.cat([pooled, target, pooled[..., : target.shape[2]] * target], dim=2)
        weight = self.tower.linears[0].weight[:, : inputs.shape[2]].T
        sums = torch.baddbmm(offsets.unsqueeze(1), inputs, weight.expand(len(inputs), -1, -1))  # (R, C, h)
        return self.tower.above(sums.flatten(end_dim=1)).view(sums.shape[:2])

    # Explanations

    def explain(self, interaction):
        """The behaviours of each row's user and how much they count for its item; they pool to what makes the score.

        The weights need not sum to one.
        """
        target, inside = self.items(interaction[self.ITEM_ID]), self._inside(interaction)
        vectors, row, place = self._behaviours(interaction)
        found = self._weights(target, vectors, row, place, interaction[self.ITEM_SEQ_LEN])
        weights = found.new_zeros(inside.shape).masked_scatter(inside, found)
        parts = vectors.new_zeros(*inside.shape, vectors.shape[1])
        parts[inside] = vectors[place]
        return Explanation("history", weights, parts, normalised=False)

    def score_pooled(self, interaction, pooled):
        """(B,) probabilities of pooled vectors (B, d + e)."""
        return self._logits(interaction, pooled).sigmoid()

    # Weights of RecBole's DIN

    def load_recbole(self, state):
        """Take the weights of a RecBole DIN trained on the same data, by its ``state_dict()``.

        Raises:
            UserError: ``variant`` is not ``recbole``, or sizes or columns differ.
        """
        if self.variant != "recbole":
            raise UserError("Weights of RecBole's DIN fit variant: recbole alone.")
        try:
            self.load_state_dict(recbole_weights(state, [embedding.column for embedding in self.items.embeddings]))
        except (RuntimeError, KeyError) as error:
            raise UserError(f"These weights are of a DIN of other sizes or columns: {one_sentence(error)}") from error


class _Columns:
    """The columns of a data set as :class:`Column`; numbers only where RecBole's ``numerical_features`` names them."""

    def __init__(self, dataset, config):
        self.dataset, self.numbers = dataset, config["numerical_features"]

    def __getitem__(self, name):
        if name not in self.dataset.field2type:
            raise UserError(f"DIN reads {name!r}, and {absent(self.dataset.config, name)}.")
        kind = self.dataset.field2type[name]
        number = kind in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)
        if number and name not in self.numbers:
            raise UserError(f"The column {name!r} holds numbers; name it in numerical_features.")
        return Column(self.dataset.num(name), number, kind in (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ))

    def of(self, suffix, names, without):
        """Columns of the items or users: those named, or all usable ones but ``without``; tokens first, as in RecBole."""
        dataset = self.dataset
        table = dataset.get_item_feature() if suffix == "item" else dataset.get_user_feature()
        if names is None:
            numbers = (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)
            names = [
                name
                for name in table.columns
                if name not in without
                and not is_text(dataset, name)
                and (dataset.field2type[name] not in numbers or name in self.numbers)
            ]
        for name in names:
            if name not in table:
                raise UserError(f"DIN reads {name!r} of the {suffix}s, and {absent(dataset.config, name, suffix)}.")
        columns = {name: self[name] for name in names}
        order = sorted(columns, key=lambda name: (columns[name].number, columns[name].several))
        return {name: columns[name] for name in order}


def _distinct(columns):
    """Number the distinct combinations of values.

    Args:
        columns: tensors (P, ...).

    Returns:
        (H,) where each combination occurs (somewhere), and (P,) the number of each one's.
    """
    number = None
    for column in columns:
        for values in column.unsqueeze(1).flatten(1).unbind(1):
            distinct, code = torch.unique(values, return_inverse=True)
            if number is not None:
                distinct, code = torch.unique(number * len(code) + code, return_inverse=True)
            number = code
    example = number.new_empty(len(distinct))
    return example.scatter_(0, number, torch.arange(len(number), device=number.device)), number


def _softmax(logits, row, rows):
    """Softmax of logits (P,) within each row."""
    top = logits.new_full((rows,), -torch.inf).scatter_reduce(0, row, logits.detach(), "amax")
    heat = (logits - top[row]).exp()
    return heat / heat.new_zeros(rows).index_add(0, row, heat)[row]


def _initialise(module):
    if isinstance(module, (nn.Embedding, nn.Linear)):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _settings(config):
    """The model's settings; UserError for values that mean nothing."""
    names = ("embedding_size", "mlp_hidden_size", "attention_hidden_size", "dropout_prob", "pooling_mode")
    settings = {name: config[name] for name in (*names, *RECBOLE)}
    for key, allowed in CHOICES.items():
        if config[key] not in allowed:
            raise UserError(f"{key} is one of {', '.join(allowed)}, not {config[key]!r}.")
    for key in ("mlp_hidden_size", "attention_hidden_size"):
        if not settings[key] or not all(isinstance(size, int) and size > 0 for size in settings[key]):
            raise UserError(f"{key} is a list of one or more whole numbers from 1, not {settings[key]!r}.")
    if not 0 <= settings["dropout_prob"] < 1:
        raise UserError(f"dropout_prob is a share from 0, below 1, not {settings['dropout_prob']!r}.")
    if not settings["reg_weight"] >= 0:
        raise UserError(f"reg_weight is a number from 0, not {settings['reg_weight']!r}.")
    for key in ("item_fields", "user_fields", "context_fields", "behaviour_fields"):
        if not isinstance(settings[key], (list, tuple, type(None))):
            raise UserError(f"{key} is a list of columns, not {settings[key]!r}.")
    if settings["item_fields"] is not None and not settings["item_fields"]:
        raise UserError("item_fields names at least one column of the items, such as item_id.")
    for key in ("context_fields", "behaviour_fields"):
        if settings[key] is None:
            raise UserError(f"{key} is a list of columns; write [] for none.")
    if config["variant"] == "recbole":
        settings |= RECBOLE | {"attention_hidden_size": config["mlp_hidden_size"]}
        if settings["pooling_mode"] == "max":
            settings["pooling_mode"] = "recbole-max"
    return settings
