"""ROUGE of pairs of token lists, in two conventions: that of the package rouge-score, and that of PETER's code.

Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004. All functions give the F value of one pair; a corpus is
the mean of its pairs.
"""

from collections import Counter

from recbole_persona.evaluate.bleu import ngrams


def rouge_n(hypothesis, reference, n: int) -> float:
    """Shared n-grams, each as often as in both, 0 to 1; equal to rouge-score's on the same tokens."""
    grams, wanted = ngrams(hypothesis, n), ngrams(reference, n)
    shared = (Counter(grams) & Counter(wanted)).total()
    return _harmonic(shared, len(grams), len(wanted))


def rouge_l(hypothesis, reference) -> float:
    """Longest common subsequence, 0 to 1; equal to rouge-score's ``rougeL`` (the whole text is one sentence)."""
    return _harmonic(longest_common(hypothesis, reference), len(hypothesis), len(reference))


def peter_rouge_n(hypothesis: str, reference: str, n: int) -> float:
    """Shared n-grams as sets, 0 to 100; words are what single blanks separate."""
    grams, wanted = set(ngrams(hypothesis.split(" "), n)), set(ngrams(reference.split(" "), n))
    shared = len(grams & wanted)
    precision, recall = shared / max(len(grams), 1), shared / max(len(wanted), 1)
    return 100 * 2 * precision * recall / (precision + recall + 1e-8)


def peter_rouge_l(hypothesis: str, reference: str) -> float:
    """Longest common subsequence, 0 to 100, weighted with beta = precision / recall, so that it is no F1."""
    hypothesis, reference = hypothesis.split(" "), reference.split(" ")
    common = longest_common(hypothesis, reference)
    precision, recall = common / len(hypothesis), common / len(reference)
    beta = precision / (recall + 1e-12)
    return 100 * (1 + beta**2) * recall * precision / (recall + beta**2 * precision + 1e-12)


def longest_common(first, second) -> int:
    """Length of the longest common subsequence, a row of the table in one addition (Hyyrö, 2004).

    Bit j of ``row`` is 0 where the length grows at place j of ``first``.
    """
    places = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        found = row & places.get(token, 0)
        row = (row + found | row - found) & full
    return len(first) - row.bit_count()


def _harmonic(shared, size, wanted) -> float:
    return 2 * shared / (size + wanted) if shared else 0.0
