"""Symbols added to a pretrained model: rows behind its table of tokens and behind its head, trained whatever else is frozen.

Neither the tables themselves nor the tokenizer change: the symbols' vectors are parameters of their own.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LogitsProcessor


class ExtendedEmbedding(nn.Module):
    """A table of V tokens with ``n`` rows behind it.

    Args:
        table: the model's own, perhaps inside an adapter.
        added: (n, d), in units of the table's weights.
    """

    def __init__(self, table, added):
        super().__init__()
        self.table, self.added = table, added
        self.n_tokens, self.embedding_dim = table.weight.shape
        self.num_embeddings = self.n_tokens + len(added)

    @property
    def weight(self):
        """(V + n, d), concatenated at every access."""
        return torch.cat([self.table.weight, self.added.to(self.table.weight.dtype)])

    def forward(self, ids):
        """Vectors (..., d) of ids (...) below V + n."""
        is_added = ids >= self.n_tokens
        vectors = self.table(ids.masked_fill(is_added, 0))
        added = F.embedding((ids - self.n_tokens).clamp(min=0), self.added) * getattr(self.table, "embed_scale", 1.0)
        return torch.where(is_added.unsqueeze(-1), added.to(vectors.dtype), vectors)


class ExtendedHead(nn.Module):
    """A head over V tokens, with logits of ``n`` symbols behind them.

    Args:
        head: the model's own, perhaps inside an adapter.
        added: (n, d).
    """

    def __init__(self, head, added):
        super().__init__()
        self.head, self.added = head, added
        self.out_features = head.out_features + len(added)

    def forward(self, states):
        """Logits (..., V + n) of states (..., d)."""
        return torch.cat([self.head(states), F.linear(states, self.added.to(states.dtype))], dim=-1)


class NoSymbols(LogitsProcessor):
    """For ``generate``: what stands behind the first ``n_tokens`` ids is never written."""

    def __init__(self, n_tokens):
        self.n_tokens = n_tokens

    def __call__(self, input_ids, scores):
        return scores.masked_fill(torch.arange(scores.shape[1], device=scores.device) >= self.n_tokens, -torch.inf)


def add_symbols(model, number) -> None:
    """Give a model of transformers so many symbols, whose ids follow those of its tokens.

    Each vector is drawn from a normal distribution with the mean and the deviation that the tokens' vectors have in every
    dimension: symbols are about as long as tokens, and differ from each other as tokens do. Where the model reads and writes
    with one table, so it does with one vector for each symbol; else a symbol has two. They are trained in single precision.
    """
    tokens, head = model.get_input_embeddings(), model.get_output_embeddings()
    added = _alike(tokens.weight, number)
    model.set_output_embeddings(
        ExtendedHead(head, added if head.weight is tokens.weight else _alike(head.weight, number))
    )
    model.set_input_embeddings(ExtendedEmbedding(tokens, added))


@torch.no_grad()
def _alike(table, number):
    """(number, d), drawn as the rows of a table (V, d) are."""
    rows = table.float()
    return nn.Parameter(rows.mean(dim=0) + rows.std(dim=0) * torch.randn(number, rows.shape[1], device=rows.device))
