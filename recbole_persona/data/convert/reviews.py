"""Reviews as explanations: of each review one sentence that holds an opinion of a feature, and that feature.

The input is that of ``amazon``, or JSON lines whose keys are named; rating and time may lack. It is read four times: for keys,
to tell nouns from other words, to mine the features, and to choose a sentence of each review. Memory holds words and ids.
"""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from recbole_persona.data.convert import amazon
from recbole_persona.data.convert import opinions as known
from recbole_persona.data.convert.lexicon import FEWEST, Remark, Said, Usage, remarks
from recbole_persona.data.convert.lines import BadLine, Lines, raw_lines
from recbole_persona.data.convert.sentences import sentences, words
from recbole_persona.errors import UserError

INTER = {
    "user_id": "token",
    "item_id": "token",
    "rating": "float",
    "timestamp": "float",
    "explanation": "text",
    "feature": "token",
}
FEWEST_WORDS, MOST_WORDS = 3, 30
SHORT = 20  # words; models are trained on sentences cut there
FORMS = {"link": 3, "sense": 3, "adjective": 2, "liking": 2}  # how plainly a remark tells what is good or bad
LEAST = 2

inputs = amazon.inputs


def convert(
    source: Path, lines: Lines, tables, nouns: str, keys: dict | None = None, items: Path | None = None
) -> dict:
    """Write ``.inter`` with a sentence and a feature where a review has them, and as ``amazon`` does ``.item``.

    A rating or time that no review has is no column; one that some lack is an empty cell there, and counted.

    Args:
        keys: names of keys by what they hold: ``user``, ``item``, ``text``, ``rating``, ``time``.

    Returns:
        How many features there are, how many reviews have a sentence, and how many lack a rating or a time.
    """
    form, rows, lacking = form_of(source, keys or {})
    chooser = Chooser(lambda: texts(source, form), nouns)
    if not chooser.features:
        raise UserError(
            f"{source} holds no feature: there is no noun that {FEWEST} reviews hold an opinion of; `convert amazon` needs none."
        )
    dropped = {column for column, count in lacking.items() if count == rows}
    tables.open("inter", {name: kind for name, kind in INTER.items() if name not in dropped})
    explained = 0

    def take(text):
        nonlocal explained
        review = amazon.record(text)
        values = [*amazon.ids(review, form)]
        if "rating" not in dropped:
            values.append(_number(review, form.rating, "rating"))
        if "timestamp" not in dropped:
            time = _number(review, form.time, "time")
            values.append(None if time is None else time / form.time_unit)
        sentence, feature = chooser.choose(review.get(form.text) or "") or ("", "")
        tables.interact(*values, sentence, feature)
        explained += bool(sentence)

    lines.each(source, take)
    if items is not None:
        amazon.describe(items, lines, tables)
    notes = {"nouns": nouns, "features": len(chooser.features), "explained": explained}
    return notes | {f"without {column}": count for column, count in lacking.items() if count}


def form_of(source, keys) -> tuple[amazon.Form, int, dict[str, int]]:
    """The keys of a file: those that are named, the others of the form that the first review has most keys of.

    Returns:
        The form, the number of lines that can be read, and of these how many lack a ``rating`` and a ``timestamp``.

    Raises:
        UserError: no line has a user, an item and a text; or none has a key that was named.
    """
    named = {"items" if key == "item" else key: (name,) if key == "item" else name for key, name in keys.items()}
    if "time" in named:
        named["time_unit"] = 1
    forms = [replace(form, **named) for form in amazon.FORMS]
    form, rows, held = None, 0, Counter()
    for review in records(source):
        if form is None:
            fits = [
                one
                for one in forms
                if {one.user, one.text} <= review.keys() and not review.keys().isdisjoint(one.items)
            ]
            form = max(fits, key=lambda one: len({one.rating, one.time} & review.keys()), default=None)
        rows += 1
        held.update(key for key, value in review.items() if value not in (None, ""))
    if form is None:
        raise UserError(
            f"{source} holds no reviews: no line is a JSON object with a user, an item and a text; "
            "name their keys with --user, --item and --text."
        )
    for key, name in keys.items():
        if not held[name]:
            raise UserError(f"No line of {source} has the key {name!r} that --{key} names.")
    return form, rows, {"rating": rows - held[form.rating], "timestamp": rows - held[form.time]}


def _number(review, key, what) -> float | None:
    value = review.get(key)
    return None if value in (None, "") else amazon.number(value, f"{what} ({key})")


def texts(source, form):
    """The text of every review that can be read."""
    return (review.get(form.text) or "" for review in records(source))


def records(source):
    """Every line that can be read, as a mapping."""
    for _, line in raw_lines(source):
        try:
            yield amazon.record(line.decode("utf-8", "replace"))
        except BadLine:
            continue


class Chooser:
    """Features mined from reviews, and the sentence of a review that says most of one.

    Args:
        read: gives all texts; called twice.
        nouns: how they are told from other words, one of ``lexicon.WAYS``.

    Attributes:
        features: words.
    """

    def __init__(self, read, nouns: str):
        usage = Usage()
        for text in read():
            for sentence in sentences(str(text)):
                usage.add(words(sentence))
        self.nouns, self.items = usage.nouns(nouns), usage.items()
        said = Said(self.nouns, usage.names() - known.FUNCTION_WORDS - known.SENSES)
        for text in read():
            said.add([words(sentence) for sentence in sentences(str(text))])
        self.features, self.senses, self.names = said.features(usage.kinds), said.senses(), said.names

    def choose(self, text) -> tuple[str, str] | None:
        """The sentence and its feature; None when no sentence of the review says enough.

        Of the sentences of 3 to 30 words that ask nothing it is the one with the strongest remark; of equal ones one of up to
        20 words, then the first.
        """
        best, found = (LEAST, False), None
        for sentence in sentences(str(text)):
            cut = words(sentence)
            length = sum(word[0].isalnum() for word in cut)
            if not FEWEST_WORDS <= length <= MOST_WORDS or "?" in cut:
                continue
            for remark in remarks(cut, self.nouns):
                rank = (self.strength(cut, remark), length <= SHORT)
                if rank > best or (found is None and rank == best):
                    best, found = rank, (sentence, cut[remark.place])
        return found

    def strength(self, cut: list[str], remark: Remark) -> int:
        """How much a remark explains: 2 to 4, less when it may be of something else; 0 when it is of no feature or says nothing.

        A plain remark on what the item is used with ("a great guitar") says nothing, nor does a measure before its noun ("light
        strings").
        """
        described, measured = remark.opinion in known.DESCRIPTIONS, remark.opinion in known.MEASURES
        adjective = remark.form == "adjective"
        if not self._is_of_feature(cut, remark) or (adjective and measured):
            return 0
        if cut[remark.place] in self.items and (adjective or not (described or (measured and remark.form == "link"))):
            return 0
        firm = remark.form in ("link", "sense")
        told = adjective and cut[0] == "i"  # what somebody did
        weak = told or not known.ELSEWHERE.isdisjoint(cut)
        return FORMS[remark.form] + described - weak * (1 if firm else 2)

    def _is_of_feature(self, cut, remark) -> bool:
        word, before = cut[remark.place], cut[max(0, remark.place - 8) : remark.place]
        if known.OWNERS & set(before[-3:]):
            return False  # "my old amp"
        if remark.form == "sense":  # "it sounds warm", "this pedal sounds warm", but not "the actor sounds odd"
            other = before and before[-1] in self.nouns and before[-1] not in self.names | self.items
            return word in self.senses and not other
        # nor "this delay", which is the item, nor "one of the best actors"
        return (
            word in self.features and not {"this", "these"} & set(before[-2:]) and ("one", "of") not in pairwise(before)
        )
