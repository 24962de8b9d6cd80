"""METEOR of pairs of word lists by nltk, with WordNet's synonyms or without.

Banerjee and Lavie, METEOR: An Automatic Metric for MT Evaluation with Improved Correlation with Human Judgments, 2005.
Without WordNet words match exactly or by Porter's stem; the value is lower then, and has another name.
"""

from functools import lru_cache

from recbole_persona.errors import UserError


def meteor_function(synonyms: bool):
    """The function (hypothesis, reference: lists of words) -> METEOR, 0 to 1.

    Raises:
        UserError: nltk is not installed; with ``synonyms``, nltk finds no WordNet.
    """
    try:
        from nltk.translate.meteor_score import single_meteor_score
    except ModuleNotFoundError:
        raise UserError("METEOR needs nltk: pip install recbole_persona[text].") from None
    stemmer, dictionary = _Stemmer(), _wordnet() if synonyms else _NoSynonyms()

    def meteor(hypothesis, reference):
        if not hypothesis or not reference:
            return 0.0
        return single_meteor_score(reference, hypothesis, stemmer=stemmer, wordnet=dictionary)

    return meteor


def _wordnet():
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise UserError(
            "meteor needs WordNet, which nltk finds in none of its folders (nltk.download('wordnet'), or NLTK_DATA); the "
            "metric without synonyms is meteor-exact-stem."
        ) from None
    return wordnet


class _Stemmer:
    """Porter's, every word once."""

    def __init__(self):
        from nltk.stem.porter import PorterStemmer

        self.stem = lru_cache(1 << 18)(PorterStemmer().stem)


class _NoSynonyms:
    """Stands where WordNet would: no word has a synonym."""

    @staticmethod
    def synsets(word):
        return []
