"""What explanations name: features of items, such as *battery life*.

FMR, FCR and DIV are those of Li, Zhang, Chen, Generate Neural Template Explanations for Recommendation, CIKM 2020; their
code compares single tokens and all pairs, here a feature may have several words and nothing is compared in pairs.
"""

import numpy as np

from recbole_persona.data.words import words


class FeatureFinder:
    """Finds features in texts. Features are alike when their words are: *Battery life* and *battery  life*.

    Args:
        features: str; those without a word (``""``) are none.

    Attributes:
        numbers: (n_features,) int64, the number of each of the given features, -1 for none; alike ones share one.
        names: the distinct features by number, as their words with blanks between.
    """

    def __init__(self, features):
        self._known, self._longest, numbers = {}, {}, []
        for feature in features:
            key = tuple(words(feature))
            numbers.append(self._known.setdefault(key, len(self._known)) if key else -1)
            if key:
                self._longest[key[0]] = max(self._longest.get(key[0], 0), len(key))
        self.numbers = np.array(numbers, dtype=np.int64)
        self.names = [" ".join(key) for key in self._known]

    def number(self, feature) -> int:
        """The number of a feature; -1 where it is none of the given ones."""
        return self._known.get(tuple(words(feature)), -1)

    def named(self, tokens) -> list[int]:
        """The numbers of the features that occur in a list of words, each once, in ascending order."""
        found = set()
        for start, token in enumerate(tokens):
            for length in range(1, self._longest.get(token, 0) + 1):
                number = self._known.get(tuple(tokens[start : start + length]))
                if number is not None:
                    found.add(number)
        return sorted(found)


def matches(named, wanted) -> np.ndarray:
    """FMR, pair by pair: whether a text names the feature that the reference is about.

    Args:
        named: (n,) lists of features.
        wanted: (n,) the reference's features, -1 for none.

    Returns:
        (n,) float64 of 0 and 1, NaN where the reference has no feature.
    """
    return np.array([np.nan if one < 0 else float(one in found) for found, one in zip(named, wanted)], dtype=float)


def coverage(named, n_features) -> float:
    """FCR: the share of all features that at least one text names; NaN where there are no features."""
    return len(set().union(*named)) / n_features if n_features else float("nan")


def diversity(named) -> float:
    """DIV: features that two texts have in common, mean over all pairs; less is more diverse.

    A feature that c texts name is common to c (c - 1) / 2 pairs: linear in the texts. NaN for fewer than two texts.
    """
    n = len(named)
    if n < 2:
        return float("nan")
    count = np.bincount(np.array([one for found in named for one in found], dtype=np.int64))
    return float((count * (count - 1)).sum() / (n * (n - 1)))


def hallucinated(named, items, seen) -> np.ndarray:
    """How many of the named features were never seen with the item in training.

    Args:
        named: (n,) lists of features.
        items: (n,) items.
        seen: item -> set of features; a missing item has none.

    Returns:
        (n,) int64.
    """
    nothing = frozenset()
    counts = (sum(one not in seen.get(item, nothing) for one in found) for found, item in zip(named, items))
    return np.fromiter(counts, dtype=np.int64, count=len(named))
