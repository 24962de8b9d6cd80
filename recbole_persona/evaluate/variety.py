"""How varied texts are among each other, without a reference."""

from recbole_persona.evaluate.bleu import ngrams


def unique_share(texts) -> float:
    """USR: distinct texts over texts, compared token by token (blanks separate tokens); NaN without texts.

    Li, Zhang, Chen, Generate Neural Template Explanations for Recommendation, CIKM 2020.
    """
    return len({tuple(text.split()) for text in texts}) / len(texts) if len(texts) else float("nan")


def distinct(token_lists, n: int) -> float:
    """Distinct-n: distinct n-grams over n-grams of all texts together; NaN where there is no n-gram.

    Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models, NAACL 2016. It falls with the number of
    texts: compare corpora of one size.
    """
    grams, total = set(), 0
    for tokens in token_lists:
        found = ngrams(tokens, n)
        grams.update(found)
        total += len(found)
    return len(grams) / total if total else float("nan")
