"""Vectors made of the columns of a table: ids, words, numbers, and what a vocabulary costs in regularisation."""

from typing import NamedTuple

import torch
from torch import nn

POOLINGS = ("mean", "max", "sum")
TINY = 1e-8  # added to a count that may be 0
HUGE = 1e9  # what keeps padding out of a maximum


class Column(NamedTuple):
    """What must be known of a column.

    Attributes:
        size: number of tokens, padding included; of buckets, for numbers.
        number: whether its values are pairs of a number and its bucket, in a last dimension of 2, and not tokens.
        several: whether a row has several of them, filled up with zeros.
    """

    size: int
    number: bool = False
    several: bool = False


class ColumnEmbedding(nn.Module):
    """Vectors of the values of a column: a token's own; a number times that of its bucket; of several, pooled.

    Args:
        column: a :class:`Column`.
        dimension: d.
        pooling: ``mean``, ``max`` or ``sum``, over what is not padding, of nothing 0; ``recbole-max`` is RecBole's maximum,
            about -1e9 of nothing.
    """

    def __init__(self, column, dimension, pooling="mean"):
        super().__init__()
        self.column, self.pooling = column, pooling
        self.table = nn.Embedding(column.size, dimension)

    def forward(self, values):
        """(...), (..., S), (..., 2) or (..., S, 2), as the column has it -> (..., d)."""
        index = values[..., 1].long() if self.column.number else values
        vectors = self.table(index)
        if self.column.number:
            vectors = values[..., :1].to(vectors.dtype) * vectors
        return self._pooled(vectors, (index != 0).unsqueeze(-1)) if self.column.several else vectors

    def _pooled(self, vectors, known):
        """(..., S, d), with (..., S, 1) of what is no padding -> (..., d)."""
        if self.pooling == "recbole-max":
            return (vectors - (~known).to(vectors.dtype) * HUGE).amax(dim=-2)
        if self.pooling == "max":
            top = vectors.masked_fill(~known, -torch.inf).amax(dim=-2)
            return top.masked_fill(~known.any(dim=-2), 0)
        total = (vectors * known).sum(dim=-2)
        return total / (known.sum(dim=-2) + TINY) if self.pooling == "mean" else total


class FeatureTable(nn.Module):
    """Vectors of things that have a table: of all items, or of all users.

    Args:
        columns: name -> :class:`Column`, in the order of the vector's parts.
        values: name -> (n, ...) values of all things by id.
        dimension: d of every part.
        pooling: of columns with several values.
    """

    def __init__(self, columns, values, dimension, pooling="mean"):
        super().__init__()
        self.names = list(columns)
        self.dimension = dimension * len(columns)
        self.embeddings = nn.ModuleList(ColumnEmbedding(column, dimension, pooling) for column in columns.values())
        for number, name in enumerate(self.names):
            self.register_buffer(f"values_{number}", values[name], persistent=False)
            self.register_buffer(f"occurrences_{number}", None, persistent=False)

    def forward(self, ids):
        """(...,) -> (..., columns * d)."""
        values = (getattr(self, f"values_{number}")[ids] for number in range(len(self.names)))
        return torch.cat([embed(value) for embed, value in zip(self.embeddings, values)], dim=-1)

    def count(self, occurrences):
        """Tell how often each thing occurs in all training samples: (n,); every token's number follows, at least 1."""
        for number, embedding in enumerate(self.embeddings):
            if not embedding.column.number:
                values = getattr(self, f"values_{number}")
                often = occurrences.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
                total = torch.zeros(embedding.column.size, dtype=torch.float64)
                total.index_add_(0, values.flatten(), often.flatten().double())
                setattr(self, f"occurrences_{number}", total.clamp(min=1).float())

    def penalty(self, ids):
        """sum_j |w_j|² / n_j over the tokens j of distinct things (n,), n_j being how often j occurs in training.

        Zhou et al., KDD 2018, section 5.1, mini-batch aware regularisation, with the things of a batch.
        """
        total = 0.0
        for number, embedding in enumerate(self.embeddings):
            if not embedding.column.number:
                tokens = torch.unique(getattr(self, f"values_{number}")[ids])
                tokens = tokens[tokens > 0] if embedding.column.several else tokens
                squares = embedding.table(tokens).square().sum(dim=1)
                total = total + (squares / getattr(self, f"occurrences_{number}")[tokens]).sum()
        return total
