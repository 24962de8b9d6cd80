"""Features of items, mined from reviews: nouns that are often said to be warm, sturdy or overpriced.

A noun is told from other words by WordNet or, without it, by how the reviews themselves use it. A feature is a noun of which
enough reviews hold an opinion, in one of four forms: "the tone is really warm", "it sounds warm", "a warm tone", "I love the
tone". Opinions lead to features as in Qiu et al. (Opinion Word Expansion and Target Extraction through Double Propagation,
Computational Linguistics 2011), but their list is fixed, and forms of words stand in for a parser. That features belong to items
("the plot of this film", "its tone") is used as in Popescu and Etzioni (Extracting Product Features and Opinions from Reviews,
EMNLP 2005), with the names of items taken from the reviews.
"""

from collections import Counter
from dataclasses import dataclass, field

from recbole_persona.data.convert import opinions as known
from recbole_persona.errors import UserError

WAYS = ("wordnet", "patterns")  # to tell a noun from other words
FEWEST = 5  # reviews that hold an opinion of a feature
RAREST = 10  # occurrences of a noun
# shares of the places of a feature: where it is judged ("the plot is thin"), and where it is judged or said to belong to an item
JUDGED, SPOKEN_OF = 0.015, 0.05
KINDS = 2  # times as often as it is judged, a noun may say what an item is ("it is a thriller")
_NO_FEATURE = known.FUNCTION_WORDS | known.OPINIONS | known.DEGREES | known.VAGUE | (known.LINKS - known.SENSES)
# behind a noun, where a phrase ends: "the tone of", "the tone is"
_CLOSING = known.LINKS | (known.FUNCTION_WORDS - known.DETERMINERS) | frozenset(""", . ! ? ; : ) - ( " """.split())
_BEING = frozenset("is are was were be been isn't wasn't it's that's they're".split())
_OPENING = (
    known.DETERMINERS | known.POINTERS | known.OPINIONS | frozenset(", - . ; : ( and but or of because".split()) | {""}
)


@dataclass
class Usage:
    """How often words occur, and how: counted over all sentences before a noun is told from other words.

    Attributes:
        all: occurrences.
        named: behind a determiner.
        closed: of these, at the end of the phrase: "the tone is".
        pointed: behind "this" or "these", which point at an item, or behind "my" or "your", at what a user has.
        this: of these, behind "this" or "these".
        kinds: as what something is said to be: "it is a well-made thriller".
    """

    all: Counter = field(default_factory=Counter)
    named: Counter = field(default_factory=Counter)
    closed: Counter = field(default_factory=Counter)
    pointed: Counter = field(default_factory=Counter)
    this: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)

    def add(self, words: list[str]) -> None:
        """Count the words of one sentence."""
        self.all.update(words)
        for before, word, behind in zip(["", *words], words, [*words[1:], "."]):
            if before in known.DETERMINERS:
                self.named[word] += 1
                self.closed[word] += behind in _CLOSING
            if before in known.POINTERS or before in known.OWNERS:
                self.pointed[word] += 1
            if before in ("this", "these"):
                self.this[word] += 1
        for place, word in enumerate(words):
            if word in ("a", "an") and (kind := _kind(words, place)):
                self.kinds[kind] += 1

    def nouns(self, way: str) -> frozenset[str]:
        """The nouns among the words that occur often enough.

        Args:
            way: ``wordnet``, the commonest sense of the word is a noun's; or ``patterns``, in one of twenty occurrences it is
                behind a determiner and ends the phrase, and four in ten behind a determiner do so.
        """
        is_noun = _by_wordnet() if way == "wordnet" else self._by_patterns
        often = (word for word, count in self.all.items() if count >= RAREST and len(word) > 2 and word[0].isalpha())
        return frozenset(word for word in often if word in known.SENSES or (word not in _NO_FEATURE and is_noun(word)))

    def _by_patterns(self, word):
        closed = self.closed[word]
        return closed >= 3 and closed >= 0.05 * self.all[word] and closed >= 0.4 * self.named[word]

    def items(self) -> frozenset[str]:
        """Nouns that stand for a whole item or what it is used with: "this pedal", "my guitar"; but one says "the tone"."""
        return frozenset(
            word for word, count in self.pointed.items() if count > max(1, 0.2 * (count + self.named[word]))
        )

    def names(self) -> frozenset[str]:
        """Nouns that name the reviewed item: at least 1 in 5 behind a determiner is "this film"; also their other number."""
        pointed = {word for word, count in self.this.items() if count > max(1, 0.2 * (count + self.named[word]))}
        return frozenset(pointed | {f"{word}s" for word in pointed} | {word.removesuffix("s") for word in pointed})


def _kind(words, place) -> str | None:
    """The noun of "a well-made thriller" that begins at ``place``, where something is said to be that."""
    before = place - 1
    while before >= 0 and words[before] in known.DEGREES:
        before -= 1
    if before < 0 or words[before] not in _BEING:
        return None
    phrase = zip(words[place + 1 : place + 5], [*words[place + 2 : place + 5], "."])
    return next((word for word, behind in phrase if _closes(behind) and word not in known.OPINIONS), None)


def _closes(word) -> bool:
    """Whether a phrase with a noun in front ends at ``word``."""
    return word in _CLOSING or not word[0].isalnum()


@dataclass
class Said:
    """What is said of nouns, counted over all reviews before features are told from other nouns.

    Attributes:
        nouns: that are counted.
        names: nouns that name an item.
        held: reviews with an opinion of a noun.
        sensed: reviews with "it sounds warm".
        places: of a noun, but not in front of another noun.
        judged: reviews that say "the tone is warm".
        owned: places where it belongs to an item: "the plot of this film", "its tone", "the film has a plot".
    """

    nouns: frozenset[str]
    names: frozenset[str]
    held: Counter = field(default_factory=Counter)
    sensed: Counter = field(default_factory=Counter)
    places: Counter = field(default_factory=Counter)
    judged: Counter = field(default_factory=Counter)
    owned: Counter = field(default_factory=Counter)

    def add(self, review: list[list[str]]) -> None:
        """Count what the sentences of one review say."""
        found = []
        for words in review:
            found += [(words[remark.place], remark.form) for remark in remarks(words, self.nouns)]
            for place, word in enumerate(words):
                if word in self.nouns and not (place + 1 < len(words) and words[place + 1] in self.nouns):
                    self.places[word] += 1
                    self.owned[word] += self._is_owned(words, place)
        self.held.update({word for word, form in found if form != "sense"})
        self.sensed.update({word for word, form in found if form == "sense"})
        self.judged.update({word for word, form in found if form == "link"})

    def _is_owned(self, words, place) -> bool:
        behind = words[place + 1 : place + 4]
        if len(behind) > 1 and behind[0] in known.BELONGING:
            if behind[1] in ("it", "this", "these") or (behind[1] == "the" and behind[-1] in self.names):
                return True
        for at in range(place - 1, max(-1, place - 5), -1):
            word = words[at]
            if word in ("its", "it's") or (word.endswith("'s") and word[:-2] in self.names):
                return True
            if word in known.HAVING:
                return at > 0 and (words[at - 1] in self.names or words[at - 1] in ("it", "this", "they", "these"))
        return False

    def features(self, kinds: Counter) -> frozenset[str]:
        """Nouns that are judged often enough, and are no kind of item; ``names`` are none."""
        return frozenset(word for word, held in self.held.items() if held >= FEWEST and self._is_feature(word, kinds))

    def _is_feature(self, word, kinds):
        judged, places = self.judged[word], self.places[word]
        if word in self.names or judged < max(2, JUDGED * places) or kinds[word] > KINDS * judged:
            return False
        spoken_of = self.owned[word] + (judged if judged >= FEWEST else 0)
        return spoken_of >= SPOKEN_OF * places

    def senses(self) -> frozenset[str]:
        """Links by which enough reviews say how an item is: "it sounds warm"."""
        return frozenset(word for word, reviews in self.sensed.items() if reviews >= FEWEST)


def has_wordnet() -> bool:
    """Whether nltk and its corpus ``wordnet`` are installed."""
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError, OSError):
        return False
    return True


def chosen(way: str | None) -> str:
    """The way that is used: the one that is named, else ``wordnet`` where it is installed.

    Raises:
        UserError: it is not installed, or there is none of that name.
    """
    if way is None:
        return "wordnet" if has_wordnet() else "patterns"
    if way not in WAYS:
        raise UserError(f"--nouns is one of {', '.join(WAYS)}, not {way!r}.")
    if way == "wordnet" and not has_wordnet():
        raise UserError(
            "--nouns=wordnet needs nltk and its corpus wordnet: pip install 'recbole_persona[text]', then "
            "python -m nltk.downloader wordnet; --nouns=patterns needs neither."
        )
    return way


def _by_wordnet():
    from nltk.corpus import wordnet

    def is_noun(word):
        """Senses are counted in the corpus that WordNet comes with; of those never counted there, the noun's is the first."""
        counts, senses = Counter(), wordnet.synsets(word)
        if len({sense.pos() for sense in senses}) == 1:  # counting reads a file
            return senses[0].pos() == "n"
        for sense in senses:
            kind = sense.pos().replace("s", "a")
            forms = (word, wordnet.morphy(word, kind), word.removesuffix("s"))  # "strings" is an entry beside "string"
            counts[kind] += sum(lemma.count() for lemma in sense.lemmas() if lemma.name().lower() in forms)
        return "n" in counts and counts["n"] == max(counts.values())

    return is_noun


@dataclass(frozen=True)
class Remark:
    """What a sentence says of a noun.

    Attributes:
        place: of the noun among the words.
        form: ``link`` ("the tone is warm"), ``sense`` ("it sounds warm"), ``adjective`` ("a warm tone") or ``liking``
            ("I love the tone").
        opinion: the word that says it.
    """

    place: int
    form: str
    opinion: str


def remarks(words: list[str], nouns) -> list[Remark]:
    """What the words of a sentence say of their nouns; of "sound quality" it is the last that it is said of."""
    found = []
    for place, word in enumerate(words):
        if word not in nouns:
            continue
        before, behind = words[place - 1] if place else "", words[place + 1] if place + 1 < len(words) else "."
        if word in known.SENSES and _has_subject(words, place, nouns) and (opinion := _behind(words, place - 1)):
            found.append(Remark(place, "sense", opinion))
            continue
        if behind in nouns and behind not in known.LINKS:
            continue  # "sound quality"
        first = place
        while first and place - first < 2 and words[first - 1] in nouns:
            first -= 1
        before = words[first - 1] if first else ""
        whole = _closes(behind)  # and no "perfect wall mount"
        if whole and before in known.OPINIONS and before not in known.ADVERBIAL and not _is_predicate(words, first - 1):
            found.append(Remark(place, "adjective", before))
        if before in _OPENING and not _is_within(words, first - 1) and (opinion := _behind(words, place)):
            found.append(Remark(place, "link", opinion))
        if whole and before in ("the", "its", "their") and first > 1 and words[first - 2] in known.LIKING:
            if (words[first - 3] if first > 2 else "") in known.LIKERS:
                found.append(Remark(place, "liking", words[first - 2]))
    return found


def _is_predicate(words, place) -> bool:
    """Whether the adjective at ``place`` belongs to what something is said to be: "it is a simple boost"."""
    while place >= 0 and (
        words[place] in known.OPINIONS or words[place] in known.DEGREES or words[place] in ("an", "and")
    ):
        place -= 1
    return place >= 0 and words[place] in _BEING and (place == 0 or words[place - 1] not in ("there", "here"))


def _has_subject(words, place, nouns) -> bool:
    """Whether something in front, of the same number, is what "sounds" or "sound" at ``place`` is said of."""
    many, place = not words[place].endswith("s"), place - 1
    while place >= 0 and words[place] in known.ADVERBS:
        place -= 1
    subject = words[place] if place >= 0 else ""
    if subject in nouns:
        return subject.endswith("s") == many
    return subject in (known.PLURAL_SUBJECTS if many else known.SUBJECTS)


def _is_within(words, place) -> bool:
    """Whether the phrase that begins at ``place`` belongs to a noun in front: "the girl in the opening scene"."""
    if place < 1 or words[place - 1] not in known.PREPOSITIONS:
        return False
    return place < 2 or words[place - 2] not in known.SHARES


def _behind(words, place) -> str | None:
    """The opinion behind a noun and a link: "the tone (of this guitar) is really warm"."""
    at = place + 1
    if at < len(words) and words[at] in ("of", "on", "in", "for", "from"):
        ends = (
            i for i in range(at + 1, min(at + 5, len(words))) if words[i] in known.LINKS or not words[i][0].isalnum()
        )
        at = next(ends, len(words))
    if at >= len(words) or words[at] not in known.LINKS:
        return None
    at += 1
    end = at + 4
    while at < min(end, len(words)) and words[at] in known.DEGREES and words[at] not in known.OPINIONS:
        at += 1
    return words[at] if at < len(words) and words[at] in known.OPINIONS else None
