"""How long the sentences are that a language model learns to write, and what of them is left out."""

import logging

from recbole_persona.lm.ragged import Ragged, concatenated

REST = 20  # of so many training sentences one may be cut, where nobody says how long they are


def longest_answer(asked, lengths) -> int:
    """Tokens of a sentence at most, its end counted; the log says how many training sentences are longer.

    Args:
        asked: the key ``longest_answer``. None: the least number that leaves at most one of ``REST`` sentences longer.
        lengths: (R,) tokens of the training sentences, their ends counted; R is 1 at least.
    """
    longest = int(lengths.sort().values[-1 - len(lengths) // REST]) if asked is None else asked
    cut = int((lengths > longest).sum())
    logging.getLogger().log(
        logging.WARNING if cut * REST > len(lengths) else logging.INFO,
        "longest_answer: %d tokens, which cut %d of the %d training sentences (%.1f %%).",
        *(longest, cut, len(lengths), 100 * cut / len(lengths)),
    )
    return longest


def with_ends(texts, end) -> Ragged:
    """Token ids of texts, each followed by the token ``end``."""
    return concatenated([texts, Ragged.of([[end]] * len(texts.lengths))])
