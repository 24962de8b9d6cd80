"""Sentences drawn by chance that depend on a seed and on their own row, and on no other row of a batch."""

import numpy as np
import torch
from transformers import LogitsProcessor


class NucleusSampling(LogitsProcessor):
    """Draws the next token of each row from the likeliest that hold ``top_p`` of the probability together.

    Holtzman et al., The Curious Case of Neural Text Degeneration, ICLR 2020. transformers draws for a whole batch from one
    stream, so that a sentence would depend on its neighbours; here every row brings its numbers. All tokens but the drawn one
    get -inf: a greedy search takes it.

    Args:
        numbers: (B, T) from 0, below 1, one for each token of each row.
        temperature: above 0; what the scores are divided by.
        top_p: above 0, up to 1.
    """

    def __init__(self, numbers, temperature=1.0, top_p=1.0):
        self.numbers, self.temperature, self.top_p, self.step = numbers, temperature, top_p, 0

    def __call__(self, input_ids, scores):
        """Scores (B, V) -> (B, V)."""
        likely, tokens = (scores.double() / self.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        up_to = likely.cumsum(dim=-1)
        kept = (up_to - likely < self.top_p).sum(dim=-1, keepdim=True)  # (B, 1), 1 at least
        number = self.numbers[:, self.step, None].to(scores.device) * up_to.gather(1, kept - 1)
        self.step += 1
        drawn = tokens.gather(1, (up_to <= number).sum(dim=-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


def row_numbers(seed, rows, length) -> torch.Tensor:
    """(B, length) random numbers from 0, below 1: those of a row depend on ``seed`` and on its number in ``rows`` (B,)."""
    return torch.from_numpy(np.stack([np.random.default_rng([seed, row]).random(length) for row in rows]))
