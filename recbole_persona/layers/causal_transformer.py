"""A causal transformer on packed sequences (see packing.py): N positions of all sequences, d dimensions."""

from torch import nn
from torch.nn import functional as F

NORMS = ("post", "pre")


class CausalTransformer(nn.Module):
    """Layers of causal self-attention and a feed-forward part, each added to what it reads.

    Args:
        size: d.
        inner_size: of the feed-forward part, whose activation is GELU.
        n_layers, n_heads: numbers of them; ``n_heads`` divides d.
        dropout: of what each part adds.
        attention_dropout: of the attention weights.
        norm: ``post``: LayerNorm after each sum, and of the input (Vaswani et al. 2017; SASRec of RecBole); ``pre``: of
            what each part reads, and of the output (Xiong et al. 2020).
        epsilon: of the LayerNorms.
    """

    def __init__(self, size, inner_size, n_layers, n_heads, dropout, attention_dropout, norm, epsilon):
        super().__init__()
        self.norm_first = norm == "pre"
        self.norm = nn.LayerNorm(size, eps=epsilon)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(size, inner_size, n_heads, dropout, attention_dropout, self.norm_first, epsilon)
            for _ in range(n_layers)
        )

    def forward(self, inputs, packing):
        """(N, d) -> (N, d), by a :class:`recbole_persona.layers.packing.Packing`."""
        states = self.dropout(inputs if self.norm_first else self.norm(inputs))
        for layer in self.layers:
            states = layer(states, packing)
        return self.norm(states) if self.norm_first else states


class Layer(nn.Module):
    """One layer of :class:`CausalTransformer`."""

    def __init__(self, size, inner_size, n_heads, dropout, attention_dropout, norm_first, epsilon):
        super().__init__()
        self.n_heads, self.attention_dropout, self.norm_first = n_heads, attention_dropout, norm_first
        self.mix = nn.Linear(size, 3 * size)  # queries, keys, values
        self.attended = nn.Linear(size, size)
        self.attention_norm = nn.LayerNorm(size, eps=epsilon)
        self.widen = nn.Linear(size, inner_size)
        self.narrow = nn.Linear(inner_size, size)
        self.feed_forward_norm = nn.LayerNorm(size, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states, packing):
        if self.norm_first:
            states = states + self._attend(self.attention_norm(states), packing)
            return states + self._feed_forward(self.feed_forward_norm(states))
        states = self.attention_norm(states + self._attend(states, packing))
        return self.feed_forward_norm(states + self._feed_forward(states))

    def _attend(self, states, packing):
        dropout = self.attention_dropout if self.training else 0.0
        return self.dropout(self.attended(packing.causal_attention(self.mix(states), self.n_heads, dropout)))

    def _feed_forward(self, states):
        return self.dropout(self.narrow(F.gelu(self.widen(states))))
