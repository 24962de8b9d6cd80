"""DIN's activation unit: how much a candidate has to do with a behaviour, before any normalisation.

Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018, section 4.3. It reads
[q; k; q - k; q * k], whose first layer splits: W [q; k; q - k; q * k] = (W1 + W3) q + (W2 - W3) k + W4 (q * k).

Shapes: C candidates, H behaviours, P pairs of them, d dimensions that both have, e that a behaviour has alone.
"""

import torch
from torch import nn

from recbole_persona.layers.tower import Tower

CANDIDATES = 256  # of a tile
TILE = {"cpu": 2**18, "accelerator": 2**26}  # numbers in the widest layer of a tile; on a CPU they stay in the cache


class ActivationUnit(nn.Module):
    """Logit of a candidate and a behaviour.

    Args:
        dimension: d.
        extra: e.
        sizes: of the hidden layers.
        activation: ``sigmoid``, ``dice`` or ``prelu``.
    """

    def __init__(self, dimension, extra, sizes, activation):
        super().__init__()
        self.dimension = dimension
        self.tower = Tower(4 * dimension + extra, sizes, activation)

    def _weights(self):
        """What the first layer does to q (d, a), to a behaviour (d + e, a), and to q * k (d, a)."""
        first, second, third, fourth, *extra = self.tower.linears[0].weight.T.split(self.dimension)
        return first + third, torch.cat([second - third, *extra]), fourth

    def forward(self, candidates, behaviours, row, place):
        """Logits (P,) of the pairs of ``candidates[row]`` and ``behaviours[place]``.

        Args:
            candidates: (C, d).
            behaviours: (H, d + e).
            row, place: (P,) int64.
        """
        query, own, product = self._weights()
        bias, q, k = self.tower.linears[0].bias, candidates[row], behaviours[place]
        if 2 * self.dimension > len(
            bias
        ):  # sums are shorter than what they are made of: once a candidate and a behaviour
            sums = torch.addmm(bias, candidates, query)[row] + (behaviours @ own)[place]
            sums = sums + (q * k[:, : self.dimension]) @ product  # (P, a)
        else:
            inputs = torch.cat([q, k, q * k[:, : self.dimension]], dim=1)  # (P, 3 d + e)
            sums = torch.addmm(bias, inputs, torch.cat([query, own, product]))
        return self.tower.above(sums)

    @torch.no_grad()
    def all_pairs(self, candidates, behaviours):
        """Logits of every behaviour (H, d + e) with every candidate (C, d), a tile of them at a time: (H, C).

        To the first layer a behaviour is an affine map of the candidate: q (W1 + W3 + diag(k) W4) + (W2 - W3) k + b.
        """
        query, own, product = self._weights()
        offsets = torch.addmm(self.tower.linears[0].bias, behaviours, own).unsqueeze(1)  # (H, 1, a)
        keys = behaviours[:, : self.dimension].unsqueeze(2)  # (H, d, 1)
        tile = TILE["cpu" if candidates.device.type == "cpu" else "accelerator"]
        size = max(1, tile // (self.tower.widest * max(1, len(candidates))))
        logits = candidates.new_empty(len(behaviours), len(candidates))
        for start in range(0, len(behaviours), size):
            part = slice(start, start + size)
            maps = torch.addcmul(query, keys[part], product)  # (h, d, a)
            sums = torch.baddbmm(offsets[part], candidates.expand(len(maps), -1, -1), maps)  # (h, C, a)
            logits[part] = self.tower.above(sums.flatten(end_dim=1)).view(len(maps), -1)
        return logits
