"""UserEncoder: a causal transformer over what a user did, one vector for every position.

The first stage of User-LLM (Ning et al., User-LLM: Efficient LLM Contextualization with User Embeddings, WWW 2025
Companion). With item ids alone it is SASRec (Kang, McAuley, ICDM 2018) with cross-entropy over all items.

Shapes: B sequences, T the longest, N their positions together (no padding), d dimensions, I items (padding included).
"""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn
from torch.nn import functional as F

from recbole_persona.errors import UserError
from recbole_persona.layers.causal_transformer import NORMS, CausalTransformer
from recbole_persona.layers.packing import Packing


class UserEncoder(SequentialRecommender):
    """Every position of a history predicts the next item.

    Config keys: docs/user_encoder.md.

    Raises:
        UserError: a value outside of what docs/user_encoder.md lists.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        _check(config)
        size = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
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

    @torch.no_grad()
    def _initialise(self, deviation):
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.normal_(std=deviation)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        self.item_embedding.weight[0] = 0

    def _encode(self, interaction):
        """States (N, d) of all positions, and where they lie."""
        packing = Packing(interaction[self.ITEM_SEQ_LEN])
        inputs = self.item_embedding(packing.pack(interaction[self.ITEM_SEQ])) + self.position_embedding(packing.step)
        return self.encoder(inputs, packing), packing

    def states(self, interaction):
        """What later models read: a state for every position, (B, T, d), zeros behind each history, and lengths (B,)."""
        states, packing = self._encode(interaction)
        return packing.pad(states, interaction[self.ITEM_SEQ].shape[1]), packing.lengths

    def user_state(self, interaction):
        """(B, d), the state of the newest position; zeros for an empty history."""
        states, packing = self._encode(interaction)
        return packing.newest(states)

    def calculate_loss(self, interaction):
        """Mean over the targets of a batch of windows."""
        states, packing = self._encode(interaction)
        target = packing.pack(interaction[f"next_{self.ITEM_SEQ}"])
        trained = target > 0
        logits = states[trained] @ self.item_embedding.weight[1:].T
        return F.cross_entropy(logits, target[trained] - 1)

    def predict(self, interaction):
        """(B,) scores of the items of the rows."""
        return (self.user_state(interaction) * self.item_embedding(interaction[self.ITEM_ID])).sum(dim=1)

    def full_sort_predict(self, interaction):
        """(B * I,) scores of all items."""
        return (self.user_state(interaction) @ self.item_embedding.weight.T).view(-1)


def _check(config):
    """UserError for values that mean nothing."""
    if config["norm"] not in NORMS:
        raise UserError(f"norm is one of {', '.join(NORMS)}, not {config['norm']!r}.")
    for key in ("n_layers", "n_heads"):
        if not isinstance(config[key], int) or config[key] < 1:
            raise UserError(f"{key} is a whole number from 1, not {config[key]!r}.")
    if config["hidden_size"] % config["n_heads"]:
        raise UserError(f"hidden_size ({config['hidden_size']}) is a multiple of n_heads ({config['n_heads']}).")
    for key in ("hidden_dropout_prob", "attn_dropout_prob"):
        if not 0 <= config[key] < 1:
            raise UserError(f"{key} is a share from 0, below 1, not {config[key]!r}.")
