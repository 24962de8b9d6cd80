"""UserEncoder: a causal transformer over what a user did, one vector for every position.

The first stage of User-LLM (Ning et al., User-LLM: Efficient LLM Contextualization with User Embeddings, WWW 2025
Companion). With item ids alone it is SASRec (Kang, McAuley, ICDM 2018) with cross-entropy over all items. Settings,
formulas and cost: docs/user_encoder.md.

Shapes: B sequences, T the longest, N their positions together (no padding), d dimensions, I items (padding included).
"""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import FeatureType, InputType
from torch import nn

from recbole_persona.data.columns import absent
from recbole_persona.data.histories import END
from recbole_persona.errors import UserError
from recbole_persona.layers.causal_transformer import NORMS, CausalTransformer
from recbole_persona.layers.explanation import Explanation
from recbole_persona.layers.features import NumberFeature, TimeGaps, TokenFeature, TokenSetFeature
from recbole_persona.layers.leave_one_out import even_remainder, without_each
from recbole_persona.layers.packing import Packing
from recbole_persona.layers.softmax_loss import sampled_cross_entropy, table_cross_entropy

TIES = ("item", "fused")
EXPLAINED = 2**17  # positions of shortened histories at a time


class UserEncoder(SequentialRecommender):
    """Every position of a history predicts every feature of what follows.

    Config keys: ``features``, ``feature_size``, ``feature_weights``, ``time_gaps``, ``hidden_size``, ``inner_size``,
    ``n_layers``, ``n_heads``, ``norm``, ``hidden_dropout_prob``, ``attn_dropout_prob``, ``sampled``, ``tie``.

    Raises:
        UserError: a value outside of what docs/user_encoder.md lists, a feature that the data set lacks.
    """

    input_type = InputType.POINTWISE  # RecBole adds no negatives
    reads_events = True  # also those without an item (recbole_persona.data.histories)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        _check(config)
        _check_features(config, dataset)
        size = config["hidden_size"]
        self.sampled, self.feature_size = config["sampled"], config["feature_size"]
        self.tie_fused = config["tie"] == "fused" and bool(config["features"])
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self._add_features(config, dataset)
        self.time_field = config["TIME_FIELD"] + config["LIST_SUFFIX"]
        self.time_gaps = TimeGaps(_training_gaps(dataset), size) if config["time_gaps"] else None
        self.encoder = CausalTransformer(
            size,
            config["inner_size"],
            config["n_layers"],
            config["n_heads"],
            config["hidden_dropout_prob"],
            config["attn_dropout_prob"],
            config["norm"],
            config["layer_norm_eps"],
        )
        self._initialise(config["initializer_range"])

    def _add_features(self, config, dataset):
        """Modules of the features beside the item id: of the item, by a table of all items; of the interaction, by lists."""
        names = [name for name in config["features"] or () if name != self.ITEM_ID]
        weights = dict.fromkeys([self.ITEM_ID, *names], 1.0) | (config["feature_weights"] or {})
        self.item_weight, *self.feature_weights = (weights[name] for name in (self.ITEM_ID, *names))
        self.features, self.lists = nn.ModuleList(), []
        size, state_size = config["feature_size"], config["hidden_size"]
        for number, name in enumerate(names):
            of_item = dataset.item_feat is not None and name in dataset.item_feat
            values = dataset.item_feat[name] if of_item else dataset.inter_feat[name]
            if dataset.field2type[name] == FeatureType.FLOAT:
                feature = NumberFeature(values[1:] if of_item else values, size, state_size)
            else:
                several = dataset.field2type[name] == FeatureType.TOKEN_SEQ
                feature = (TokenSetFeature if several else TokenFeature)(dataset.num(name), size, state_size)
            self.features.append(feature)
            self.register_buffer(f"feature_{number}", values if of_item else None, persistent=False)
            self.lists.append(None if of_item else name + config["LIST_SUFFIX"])
        self.fuse = nn.Linear(state_size + len(names) * size, state_size) if names else None

    @torch.no_grad()
    def _initialise(self, deviation):
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.normal_(std=deviation)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
            if isinstance(module, NumberFeature):
                module.direction.normal_(std=deviation)

    # The states

    def _values(self, number, items, interaction, packing, prefix=""):
        """Values (N, ...) of a feature at packed ``items`` (N,); None if the rows have no such column."""
        if self.lists[number] is None:
            return getattr(self, f"feature_{number}")[items]
        name = prefix + self.lists[number]
        return packing.pack(interaction[name]) if name in interaction else None

    def _fused(self, items, values):
        """Vectors (N, d) of items (N,) with the values of their features, each (N, ...), or None where not known."""
        vectors = self.item_embedding(items)
        if self.fuse is None:
            return vectors
        unknown = vectors.new_zeros(len(items), self.feature_size)
        parts = [unknown if value is None else feature(value) for feature, value in zip(self.features, values)]
        return self.fuse(torch.cat([vectors, *parts], dim=1))

    def _inputs(self, interaction, packing):
        items = packing.pack(interaction[self.ITEM_SEQ])
        values = [self._values(number, items, interaction, packing) for number in range(len(self.features))]
        inputs = self._fused(items, values) + self.position_embedding(packing.step)
        if self.time_gaps is not None and self.time_field in interaction:
            inputs = inputs + self.time_gaps(packing.pack(interaction[self.time_field]), packing.step)
        return inputs

    def _encode(self, interaction):
        """States (N, d) of all positions, and where they lie."""
        packing = Packing(interaction[self.ITEM_SEQ_LEN])
        return self.encoder(self._inputs(interaction, packing), packing), packing

    def states(self, interaction):
        """What later models read: a state for every position, (B, T, d), zeros behind each history, and lengths (B,)."""
        states, packing = self._encode(interaction)
        return packing.pad(states, interaction[self.ITEM_SEQ].shape[1]), packing.lengths

    def user_state(self, interaction):
        """(B, d), the state of the newest position; zeros for an empty history."""
        states, packing = self._encode(interaction)
        return packing.newest(states)

    # The score: y_ui = h_u . v_i, v_i what the input reads of the item

    def item_vectors(self, items=None):
        """(N, d) of items (N,), or of all I items: rows of the input's table, or with ``tie: fused`` what is made of them."""
        if not self.tie_fused:
            return self.item_embedding.weight if items is None else self.item_embedding(items)
        items = torch.arange(self.n_items, device=self.item_embedding.weight.device) if items is None else items
        own = [getattr(self, f"feature_{number}") for number in range(len(self.features))]
        return self._fused(items, [None if values is None else values[items] for values in own])

    def predict(self, interaction):
        """(B,) scores of the items of the rows."""
        return self.score_pooled(interaction, self.user_state(interaction))

    def full_sort_predict(self, interaction):
        """(B * I,) scores of all items."""
        return (self.user_state(interaction) @ self.item_vectors().T).view(-1)

    # The loss: sum over the features m of weight_m * mean over the targets of -log p(x_m of the next | all before)

    def calculate_loss(self, interaction):
        """Loss of a batch of windows (recbole_persona.data.windows)."""
        states, packing = self._encode(interaction)
        items = packing.pack(interaction[f"next_{self.ITEM_SEQ}"])
        trained = (items > 0).nonzero().squeeze(1)  # a mask would wait for the device at every use
        states, items = states[trained], items[trained]
        table = self.item_vectors()[1:]  # without the padding item
        if self.sampled:
            loss = self.item_weight * sampled_cross_entropy(states, table, items - 1, self.sampled)
        else:
            loss = self.item_weight * table_cross_entropy(states, table, items - 1)
        for number, (feature, weight) in enumerate(zip(self.features, self.feature_weights)):
            values = self._values(number, items, interaction, packing, "next_")
            values = values if self.lists[number] is None else values[trained]
            loss = loss + weight * feature.loss(states, values)
        return loss

    # Explanations: the score without each item of the history

    @torch.no_grad()
    def explain(self, interaction):
        """The items of each row's history and what they carry of its score.

        A weight is by how much the score drops when the item is taken out of the history, plus an even share of what no
        single item carries; the weights of a row sum to its score. Only what a state has in the candidate's direction
        makes the score, so that this direction is every part.
        """
        lists = [self.ITEM_SEQ, self.time_field, *(name for name in self.lists if name)]
        columns = {name: interaction[name] for name in dict.fromkeys(lists) if name in interaction}
        lengths, member = interaction[self.ITEM_SEQ_LEN], _runs(columns, interaction[self.ITEM_SEQ_LEN])
        first = torch.ones_like(member, dtype=torch.bool)
        first[1:] = member[1:] != member[:-1]
        columns, own_lengths = {name: values[first] for name, values in columns.items()}, lengths[first]

        whole = self.user_state({**columns, self.ITEM_SEQ_LEN: own_lengths})  # (R, d)
        shorter, row, place = without_each(columns, own_lengths)
        lost = whole.new_zeros(*columns[self.ITEM_SEQ].shape, whole.shape[1])  # (R, T, d)
        size = max(1, EXPLAINED // columns[self.ITEM_SEQ].shape[1])
        for some in torch.arange(len(row), device=row.device).split(size):
            part = {name: values[some] for name, values in shorter.items()}
            states = self.user_state({**part, self.ITEM_SEQ_LEN: own_lengths[row[some]] - 1})
            lost[row[some], place[some]] = (whole[row[some]] - states).to(lost.dtype)

        vectors = self.item_vectors(interaction[self.ITEM_ID])  # (B, d)
        present = torch.arange(lost.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        drops = torch.einsum("btd,bd->bt", lost[member], vectors)
        weights = even_remainder(drops, (whole[member] * vectors).sum(dim=1), present)
        direction = vectors / vectors.square().sum(dim=1, keepdim=True).clamp(min=1e-12)
        return Explanation("history", weights, direction.unsqueeze(1).expand(-1, lost.shape[1], -1), normalised=False)

    def score_pooled(self, interaction, pooled):
        """(B,) scores of the rows' items by states (B, d)."""
        return (pooled * self.item_vectors(interaction[self.ITEM_ID])).sum(dim=1)


def _training_gaps(dataset):
    """(R,) what passed between each training target and the interaction before it."""
    rows = dataset.inter_feat
    times, places = rows.histories.flat[dataset.time_field], rows[END]
    return times[places] - times[places - 1]


def _runs(columns, lengths):
    """(B,) number of the run of equal histories that each row stands in."""
    new = torch.zeros_like(lengths, dtype=torch.bool)
    for values in (*columns.values(), lengths):
        new[1:] |= (values[1:] != values[:-1]).flatten(1).any(dim=1) if values.dim() > 1 else values[1:] != values[:-1]
    return new.cumsum(0)


def _check(config):
    """UserError for values that mean nothing."""
    for key, allowed in (("norm", NORMS), ("tie", TIES)):
        if config[key] not in allowed:
            raise UserError(f"{key} is one of {', '.join(allowed)}, not {config[key]!r}.")
    for key, least in (("n_layers", 1), ("n_heads", 1), ("feature_size", 1), ("sampled", 0)):
        if not isinstance(config[key], int) or config[key] < least:
            raise UserError(f"{key} is a whole number from {least}, not {config[key]!r}.")
    if config["hidden_size"] % config["n_heads"]:
        raise UserError(f"hidden_size ({config['hidden_size']}) is a multiple of n_heads, not of {config['n_heads']}.")
    for key in ("hidden_dropout_prob", "attn_dropout_prob"):
        if not 0 <= config[key] < 1:
            raise UserError(f"{key} is a share from 0, below 1, not {config[key]!r}.")
    if config["train_neg_sample_args"]["distribution"] != "none":
        raise UserError("UserEncoder draws its own negatives: set sampled, and leave train_neg_sample_args empty (~).")


def _check_features(config, dataset):
    """UserError for features that the data set does not have, or not of a kind that can be read."""
    names, item = config["features"] or [], config["ITEM_ID_FIELD"]
    if not isinstance(names, (list, tuple)):
        raise UserError(f"features is a list of fields, such as ['{names}'], not {names!r}.")
    for name in names:
        of_item = dataset.item_feat is not None and name in dataset.item_feat
        if not of_item and f"{name}{config['LIST_SUFFIX']}" not in dataset.inter_feat:
            raise UserError(f"features names {name!r}, and {absent(config, name, 'inter', 'item')}.")
        if dataset.field2type[name] == FeatureType.FLOAT_SEQ:
            raise UserError(f"features names {name!r}, a list of numbers; a feature is tokens or one number.")
    weights = config["feature_weights"] or {}
    if not isinstance(weights, dict) or not all(_is_weight(value) for value in weights.values()):
        raise UserError(f"feature_weights gives fields a number from 0, such as {{'{item}': 1.0}}, not {weights!r}.")
    for name in weights:
        if name not in (item, *names):
            raise UserError(f"feature_weights names {name!r}, which is none of the features.")


def _is_weight(value) -> bool:
    return isinstance(value, (int, float)) and value >= 0
