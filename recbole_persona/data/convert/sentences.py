"""Reviews cut into sentences, and sentences into words, by rules alone: nothing is downloaded."""

import html
import re

# words before a full stop that end no sentence
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st jr sr vs etc e.g i.e eg ie inc ltd co corp no nos approx dept est fig ft lb lbs oz min max hr "
    "hrs sec mfg ref vol cm mm a.m p.m u.s u.k".split()
)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,40}>")
# signs that end a sentence, with the quotes and brackets that close behind them; reviews often lack the space that follows
_END = re.compile(r"""([.!?]+|…|[。！？]+)["'”’)\]]*(?:\s+|$|(?=[A-Z\u3040-\u9fff]))|[\n\r]+""")
_LAST_WORD = re.compile(r"[\w.&'-]*$")
_INITIALS = re.compile(r"[a-hj-z]|\w(\.\w)+")
_WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each on one line with single spaces; HTML entities and tags are resolved.

    A sentence ends at ``. ! ? …`` and a space, also where the space is missing before a capital letter ("warm.The"), and at
    the end of a line; not after an abbreviation or an initial, not at dots with a small letter behind them ("well... it").
    """
    text = _TAG.sub(" ", html.unescape(text))
    start, found = 0, []
    for end in _END.finditer(text):
        if end[1] is None or _ends(text, start, end):
            found.append(text[start : end.end()])
            start = end.end()
    found.append(text[start:])
    return [" ".join(sentence.split()) for sentence in found if sentence.strip()]


def _ends(text, start, end) -> bool:
    """Whether the signs of a match end a sentence that begins at ``start``."""
    before = _LAST_WORD.search(text, start, end.start())[0].lower()
    following = text[end.end() : end.end() + 1]
    if end[1] == ".":
        if before in _ABBREVIATIONS or _INITIALS.fullmatch(before):
            return False
        if following and not end[0][-1].isspace():  # no space: a small word in front, or it is U.S.A or Node.JS
            return bool(re.search(r"[a-z0-9]{2}$", before)) or end[0] != "."
    return not (end[1].startswith(("..", "…")) and following.islower())


def words(sentence: str) -> list[str]:
    """The words of a sentence in small letters, and its signs: "It's 5-string!" is ``it's``, ``5-string``, ``!``."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(sentence)]
