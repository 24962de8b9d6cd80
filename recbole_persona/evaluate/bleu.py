"""BLEU of a corpus, from counts that can be added up: of sentences, of users, of what is drawn in a bootstrap.

Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation, ACL 2002. Two conventions, which differ in
what a token is and in what happens where nothing matches: that of sacrebleu (Post, WMT 2018), and that of the code which
PETER, PEPLER, P5, POD and PeaPOD share.
"""

from collections import Counter

import numpy as np

from recbole_persona.errors import UserError

LONGEST = 4  # n-grams that are counted
COUNTS = ("tokens", "reference", *(f"{what}_{n}" for what in ("matched", "total") for n in range(1, LONGEST + 1)))
TOKENIZERS = ("13a", "intl", "char", "zh", "none")


def sacrebleu_tokens(name: str):
    """The function text -> tokens of a tokenizer of sacrebleu (``13a``, its default; ``zh`` or ``char`` for Chinese).

    Raises:
        UserError: no such tokenizer, or sacrebleu is not installed.
    """
    if name not in TOKENIZERS:
        raise UserError(f"bleu_tokenizer is one of {', '.join(TOKENIZERS)}, not {name!r}.")
    try:
        from sacrebleu.metrics import BLEU
    except ModuleNotFoundError:
        raise UserError("bleu-1 to bleu-4 need sacrebleu: pip install recbole_persona[text].") from None
    tokenizer = BLEU(tokenize=name).tokenizer
    return lambda text: tokenizer(text.rstrip()).split()


def signature(tokenizer: str) -> str:
    """What sacrebleu calls this convention, but for its version."""
    return f"nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp"


def bleu_counts(hypotheses, references) -> np.ndarray:
    """Counts of every pair of token lists.

    Returns:
        (n, 10) int64, the columns of ``COUNTS``: tokens of both, then for n-grams of 1 to 4 tokens how many of the hypothesis
        occur in the reference (each at most as often as there) and how many it has.
    """
    rows = np.zeros((len(hypotheses), len(COUNTS)), dtype=np.int64)
    for row, hypothesis, reference in zip(rows, hypotheses, references):
        row[:2] = len(hypothesis), len(reference)
        for n in range(1, LONGEST + 1):
            grams = ngrams(hypothesis, n)
            row[1 + LONGEST + n] = len(grams)
            if n > 1 and row[n] == 0:  # no shorter one in common
                continue
            wanted = Counter(ngrams(reference, n))
            row[1 + n] = sum(min(count, wanted[gram]) for gram, count in Counter(grams).items())
    return rows


def ngrams(tokens, n) -> list[tuple]:
    """All runs of ``n`` tokens, in their order."""
    return list(zip(*(tokens[start:] for start in range(n))))


def bleu(counts, order: int, smoothed: bool) -> np.ndarray:
    """BLEU, 0 to 100: brevity penalty times the geometric mean of the precisions of 1- to ``order``-grams.

    Args:
        counts: (..., 10) sums of rows of :func:`bleu_counts`.
        smoothed: sacrebleu's ``exp``: the first order without a match counts as half a match, the next as a quarter, …;
            else such an order makes it 0.

    Returns:
        (...) values; 0 where there is no match at all, or no n-gram of some order.
    """
    counts = np.asarray(counts, dtype=float)
    length, wanted = counts[..., 0], counts[..., 1]
    matched, total = counts[..., 2 : 2 + order], counts[..., 2 + LONGEST : 2 + LONGEST + order]
    some = (matched[..., 0] > 0) & (total > 0).all(-1)
    nothing = matched == 0
    if smoothed:
        matched = np.where(nothing, 0.5 ** nothing.cumsum(-1), matched)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(matched / total).mean(-1))  # log 0 is -inf, and its exponential 0
        brevity = np.exp(np.minimum(0.0, 1 - wanted / length))
        return np.where(some, 100 * brevity * precision, 0.0)
