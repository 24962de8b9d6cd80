"""AMP-CF: attentive multi-persona collaborative filtering.

Barkan, Fuchs, Caciularu, Koenigstein: Explainable Recommendations via Attentive Multi-Persona Collaborative Filtering,
RecSys 2020 (``variant: conference``); Barkan, Shaked, Fuchs, Koenigstein: Modeling users' heterogeneous taste with
diversified attentive user profiles, UMUAI 2023 (``variant: journal``). Equations, switches and cost: docs/ampcf.md.

Shapes: B rows, U users, K personas, N candidate items, I items (padding included), d dimensions.
"""

import weakref
from typing import NamedTuple

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_persona.data.sampling import NegativeSampler, negative_weights
from recbole_persona.errors import UserError
from recbole_persona.layers.explanation import Explanation
from recbole_persona.layers.personas import ATTENTIONS, VARIANTS, PersonaAttention, mixture_entropy, respond

INIT_STD = 0.1  # of personas and items
FOLD_STEPS, FOLD_RATE = 100, 0.05  # of fold_in
TRAINING_TILE = 2**24  # U x K x I responses that training holds at a time
SCORING_TILE = {"cpu": 2**18, "accelerator": 2**26}  # the same for scoring; on a CPU they stay in the cache

_kept = weakref.WeakKeyDictionary()  # model -> its items as candidates, their norm; no part of its state


class Candidates(NamedTuple):
    """Items to score: their own in every row (B, N, ...), or the same for all rows (N, ...)."""

    vectors: torch.Tensor  # (B, N, d) or (N, d)
    keys: torch.Tensor | None  # (B, N, a) or (N, a), for the attention
    bias: torch.Tensor | None  # (B, N) or (N,)

    def part(self, columns):
        """Some of the items that are the same for all rows."""
        return Candidates(*(None if value is None else value[columns] for value in self))

    def by_column(self):
        """The same, with the vectors and keys in memory as a product with many rows reads them fastest."""
        turned = (None if value is None else value.T.contiguous().T for value in self[:2])
        return Candidates(*turned, self.bias)


class AMPCF(GeneralRecommender):
    """A user is K persona vectors; the candidate item decides by attention which of them speaks.

    Config keys: ``embedding_size``, ``n_personas``, ``variant``, ``attention``, ``attention_size``, ``temperature``,
    ``item_bias``, ``alpha``, ``lambda_p``, ``lambda_n``, ``reg_weight``; ``train_neg_sample_args`` (``~``: softmax over
    all items).

    Raises:
        UserError: a value outside of what docs/ampcf.md lists.
    """

    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        _check(config)
        self.n_personas, self.embedding_size = config["n_personas"], config["embedding_size"]
        self.alpha, self.lambda_p, self.lambda_n = config["alpha"], config["lambda_p"], config["lambda_n"]
        self.has_entropies = self.alpha < 1 and (self.lambda_p or self.lambda_n)
        self.reg_weight = config["reg_weight"]
        self.sampling = config["train_neg_sample_args"]
        self.over_all_items = self.sampling["distribution"] == "none"

        self.persona_embedding = nn.Embedding(self.n_users, self.n_personas * self.embedding_size)
        self.item_embedding = nn.Embedding(self.n_items, self.embedding_size, padding_idx=0)
        self.item_bias = nn.Parameter(torch.zeros(self.n_items)) if config["item_bias"] else None
        self.attention = PersonaAttention(
            self.embedding_size,
            self.n_personas,
            config["variant"],
            config["attention"],
            config["attention_size"],
            config["temperature"],
        )
        fixed = config["attention"] == "fixed" and self.n_personas > 1
        self.mixture = nn.Embedding(self.n_users, self.n_personas) if fixed else None
        self._training_items = dataset.inter_feat[self.ITEM_ID]
        self._initialise(dataset.inter_feat[self.USER_ID])

    @torch.no_grad()
    def _initialise(self, users):
        nn.init.normal_(self.persona_embedding.weight, std=INIT_STD)
        nn.init.normal_(self.item_embedding.weight, std=INIT_STD)
        self.item_embedding.weight[0] = 0
        if self.mixture is not None:
            nn.init.zeros_(self.mixture.weight)
        unknown = torch.ones(self.n_users, dtype=torch.bool)
        unknown[users] = False
        self.persona_embedding.weight[unknown] = 0  # such a user gets the items in the order of their bias

    # The score: y_ij = sum_k a_ijk p_ik . q_j + b_j

    def personas(self, user):
        """(B,) user ids -> (B, K, d)."""
        return self.persona_embedding(user).view(-1, self.n_personas, self.embedding_size)

    def _mixture(self, user):
        return self.mixture(user) if self.mixture is not None else None

    def _candidates(self, item):
        """Items to score, by id (B, N)."""
        vectors = self.item_embedding(item)  # (B, N, d)
        bias = self.item_bias[item] if self.item_bias is not None else None
        return Candidates(vectors, self.attention.keys(vectors), bias)

    def _all_items(self):
        vectors = self.item_embedding.weight  # (I, d)
        return Candidates(vectors, self.attention.keys(vectors), self.item_bias)

    def _all_items_kept(self):
        """As :meth:`_all_items`, for reading, and their largest norm; the same from call to call until a parameter changes."""
        mixed = torch.is_autocast_enabled(self.item_embedding.weight.device.type)
        made_of = mixed, [(parameter.data_ptr(), parameter._version) for parameter in self.parameters()]
        if self not in _kept or _kept[self][0] != made_of:
            items = self._all_items()
            _kept[self] = made_of, items.by_column(), items.vectors.norm(dim=1).amax()
        return _kept[self][1:]

    def _score(self, personas, candidates, mixture):
        """Scores (B, N) of the candidates of personas (B, K, d), and their weights (B, K, N), or (B, K, 1) if equal.

        ``mixture``: (B, K) or None.
        """
        responses = respond(personas, candidates.vectors)  # (B, K, N)
        weights = self.attention(personas, candidates.keys, responses, mixture)
        scores = (weights * responses).sum(dim=1) if self.n_personas > 1 else responses.squeeze(1)
        return scores if candidates.bias is None else scores + candidates.bias, weights

    # The loss: alpha L + (1 - alpha) (lambda_p H_pos - lambda_n H_neg) + reg_weight / 2 (sum_k a_ijk |p_ik|² + |q_j|²)

    def calculate_loss(self, interaction):
        """Mean loss of (user, item) rows against the negatives (B, N) of ``neg_item_id``, or against all items."""
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        if self.over_all_items:
            users, row = torch.unique(user, return_inverse=True)
            return self._losses_over_all(self.personas(users), row, item, self._mixture(users)).mean()
        negatives = interaction[self.NEG_ITEM_ID].view(len(item), -1)
        return self._losses_over_sample(self.personas(user), item, negatives, self._mixture(user)).mean()

    def _losses_over_sample(self, personas, item, negatives, mixture):
        """(B,) losses of personas (B, K, d) that chose item (B,) and not negatives (B, N)."""
        candidates = self._candidates(torch.cat([item.unsqueeze(1), negatives], dim=1))  # 1 + N of them
        scores, weights = self._score(personas, candidates, mixture)
        loss = -self.alpha * scores.log_softmax(dim=1)[:, 0]
        if self.has_entropies:
            entropy = mixture_entropy(weights).expand_as(scores)
            loss = loss + self._entropies(entropy[:, 0], entropy[:, 1:].mean(dim=1))
        if self.reg_weight:
            loss = loss + self._penalty(weights[:, :, 0], _squares(personas), _squares(candidates.vectors[:, 0]))
        return loss

    def _losses_over_all(self, personas, row, item, mixture):
        """(B,) losses of users with personas (U, K, d), of whom number ``row`` (B,) chose ``item`` (B,) of all items.

        A user's softmax is computed once for all their rows; many users', in tiles that the backward pass makes again.
        """
        size = max(1, TRAINING_TILE // (self.n_personas * self.n_items))
        if len(personas) <= size:
            return self._tile_losses(personas, row, item, mixture)
        losses, places = [], []
        for start in range(0, len(personas), size):
            users = slice(start, start + size)
            places.append(((row >= start) & (row < start + size)).nonzero().squeeze(1))
            tile = (
                personas[users],
                row[places[-1]] - start,
                item[places[-1]],
                None if mixture is None else mixture[users],
            )
            losses.append(checkpoint(self._tile_losses, *tile, use_reentrant=False))
        return torch.cat(losses)[torch.cat(places).argsort()]

    def _tile_losses(self, personas, row, item, mixture):
        items, place = self._all_items().part(slice(1, None)), item - 1  # without the padding item
        scores, weights = self._score(personas, items, mixture)  # (U, I - 1)
        loss = self.alpha * (scores.logsumexp(dim=1)[row] - scores[row, place])
        if self.has_entropies:
            entropy = mixture_entropy(weights).expand_as(scores)
            loss = loss + self._entropies(entropy[row, place], entropy.mean(dim=1)[row])
        if self.reg_weight:
            shares = weights.expand(-1, -1, scores.shape[1])[row, :, place]  # (B, K)
            loss = loss + self._penalty(shares, _squares(personas)[row], _squares(items.vectors)[place])
        return loss

    def _entropies(self, positive, negative):
        return (1 - self.alpha) * (self.lambda_p * positive - self.lambda_n * negative)

    def _penalty(self, shares, personas, item):
        """(B,): personas pay for their squares (B, K) by their shares in the choice (B, K), the item for its own (B,)."""
        return self.reg_weight / 2 * ((shares * personas).sum(dim=1) + item)

    # Scores for RecBole, and for personas that need no user id

    def predict(self, interaction):
        """(B,) scores of (user, item) rows."""
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        return self._score(self.personas(user), self._candidates(item.unsqueeze(1)), self._mixture(user))[0].squeeze(1)

    def full_sort_predict(self, interaction):
        """(B * I,) scores of all items for the users of the rows."""
        user = interaction[self.USER_ID]
        return self.score_all(self.personas(user), self._mixture(user)).view(-1)

    @torch.no_grad()
    def score_all(self, personas, mixture=None):
        """Scores of all items: personas (U, K, d), as of :meth:`personas` or :meth:`fold_in` -> (U, I).

        The K x I responses of a user are held for one tile of users and items at a time.
        """
        items, longest = self._all_items_kept()
        size = SCORING_TILE["cpu" if personas.device.type == "cpu" else "accelerator"]
        n_items = min(self.n_items, size // 512)
        n_users = max(1, min(len(personas), size // (self.n_personas * n_items)))
        n_items = max(n_items, size // (self.n_personas * n_users))  # few users leave room for more items
        tiles = [items.part(slice(left, left + n_items)) for left in range(0, self.n_items, n_items)]
        mild = self.attention.is_mild(personas, longest)
        space = personas.new_empty(4, n_users * min(n_items, self.n_items)) if mild else None
        scores = items.vectors.new_empty(len(personas), self.n_items)
        for top in range(0, len(personas), n_users):
            users, part = personas[top : top + n_users], scores[top : top + n_users]
            if mild:
                self.attention.pool_mild(users, tiles, space, part)
                continue
            mixed = None if mixture is None else mixture[top : top + n_users]
            for tile, columns in zip(tiles, part.split(n_items, dim=1)):
                pooled = self.attention.pool(users, tile.vectors, tile.keys, mixed)
                columns.copy_(pooled) if tile.bias is None else torch.add(pooled, tile.bias, out=columns)
        return scores

    # Explanations

    def persona_weights(self, user, item):
        """(B, K) weights of the personas of ``user`` (B,) for ``item`` (B,); rows sum to one."""
        return self.weights_for(self.personas(user), item, self._mixture(user))

    def weights_for(self, personas, item, mixture=None):
        """(B, K) weights of ``personas`` (B, K, d) for ``item`` (B,)."""
        return self._score(personas, self._candidates(item.unsqueeze(1)), mixture)[1].squeeze(-1)

    def explain(self, interaction):
        """The personas of each row's user and their weights for its item; they pool to x_ij, which makes the score."""
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        return Explanation("persona", self.persona_weights(user, item), self.personas(user))

    def score_pooled(self, interaction, pooled):
        """(B,) scores x_ij . q_j + b_j of pooled vectors x (B, d) for the items of the rows."""
        item = interaction[self.ITEM_ID]
        scores = (pooled * self.item_embedding(item)).sum(dim=1)
        return scores if self.item_bias is None else scores + self.item_bias[item]

    # New users

    @torch.enable_grad()
    def fold_in(self, histories, steps=FOLD_STEPS, learning_rate=FOLD_RATE, seed=2020):
        """Personas of users that the model was not trained on, learned by its own loss with everything else frozen.

        Users do not influence each other: the personas of one are the same in every batch.

        Args:
            histories: U sequences of internal item ids; an empty one gives zeros, which score the items by their bias.
            steps: of Adam.
            learning_rate: of Adam.
            seed: of the first values and of the negatives.

        Returns:
            (U, K, d), for :meth:`score_all` and :meth:`weights_for`. With ``attention: fixed`` all mix evenly: what a
            mixture of one's own would say is said by the lengths.
        """
        like, generator = self.item_embedding.weight, torch.Generator().manual_seed(seed)
        start = INIT_STD * torch.randn(self.n_personas, self.embedding_size, generator=generator)
        lengths = torch.tensor([len(history) for history in histories])
        row = torch.repeat_interleave(torch.arange(len(histories)), lengths)  # (R,)
        item = torch.cat([torch.as_tensor(history, dtype=torch.int64).cpu() for history in histories])  # (R,)
        place = torch.cat([torch.arange(length) for length in lengths])  # (R,) in the history
        negatives = self._negatives_of(row, item, len(histories)) if not self.over_all_items else None

        share = (1 / lengths[row]).to(like)
        personas = (start * (lengths > 0).view(-1, 1, 1)).to(like).requires_grad_()  # (U, K, d)
        rows, items = row.to(like.device), item.to(like.device)
        optimizer = torch.optim.Adam([personas], lr=learning_rate)
        for step in range(steps if len(item) else 0):
            if negatives is None:
                losses = self._losses_over_all(personas, rows, items, None)
            else:
                generator.manual_seed(seed + step)  # the same for a user whose batch has a longer history
                numbers = torch.rand(
                    int(lengths.max()), self.sampling["sample_num"], dtype=torch.float64, generator=generator
                )
                drawn = negatives.draw(row, numbers[place]).to(like.device)
                losses = self._losses_over_sample(personas[rows], items, drawn, None)
            (personas.grad,) = torch.autograd.grad((losses * share).sum(), personas)
            optimizer.step()
        return personas.detach()

    def _negatives_of(self, row, item, n_rows):
        settings = self.sampling
        weights = negative_weights(self._training_items, self.n_items, settings["distribution"], settings["alpha"])
        return NegativeSampler(row, item, n_rows, self.n_items, weights)


def _squares(vectors):
    return (vectors * vectors).sum(dim=-1)  # a third faster than square(), whose gradient computes a power


def _check(config):
    """UserError for values that mean nothing."""
    for key, allowed in (("variant", VARIANTS), ("attention", ATTENTIONS)):
        if config[key] not in allowed:
            raise UserError(f"{key} is one of {', '.join(allowed)}, not {config[key]!r}.")
    for key in ("n_personas", "embedding_size", "attention_size"):
        if not isinstance(config[key], int) or config[key] < 1:
            raise UserError(f"{key} is a whole number from 1, not {config[key]!r}.")
    for key in ("lambda_p", "lambda_n", "reg_weight"):
        if not isinstance(config[key], (int, float)) or not config[key] >= 0:
            raise UserError(f"{key} is a number from 0, not {config[key]!r}.")
    if not isinstance(config["alpha"], (int, float)) or not 0 < config["alpha"] <= 1:
        raise UserError(f"alpha is a number above 0, up to 1, not {config['alpha']!r}.")
    if not isinstance(config["temperature"], (int, float)) or not config["temperature"] > 0:
        raise UserError(f"temperature is a number above 0, not {config['temperature']!r}.")
