"""Features of items, mined from reviews: nouns that are often said to be warm, sturdy or overpriced.

A noun is told from other words by WordNet or, without it, by how the reviews themselves use it. A feature is a noun of which
enough reviews hold an opinion, in one of four forms: "the tone is really warm", "it sounds warm", "a warm tone", "I love the
tone". Opinions lead to features as in Qiu et al. (Opinion Word Expansion and Target Extraction through Double Propagation,
Computational Linguistics 2011), but their list is fixed, and forms of words stand in for a parser.
"""

from collections import Counter
from dataclasses import dataclass, field

from recbole_persona.data.convert import opinions as known
from recbole_persona.errors import UserError

WAYS = ("wordnet", "patterns")  # to tell a noun from other words
FEWEST = 5  # reviews that hold an opinion of a feature
RAREST = 10  # occurrences of a noun
_NO_FEATURE = known.FUNCTION_WORDS | known.OPINIONS | known.DEGREES | known.VAGUE | (known.LINKS - known.SENSES)
# behind a noun, where a phrase ends: "the tone of", "the tone is"
_CLOSING = known.LINKS | (known.FUNCTION_WORDS - known.DETERMINERS) | frozenset(""", . ! ? ; : ) - ( " """.split())
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
    """

    all: Counter = field(default_factory=Counter)
    named: Counter = field(default_factory=Counter)
    closed: Counter = field(default_factory=Counter)
    pointed: Counter = field(default_factory=Counter)
    this: Counter = field(default_factory=Counter)

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
        if (
            word in known.SENSES
            and (before in known.SUBJECTS or before in nouns)
            and (opinion := _behind(words, place - 1))
        ):
            found.append(Remark(place, "sense", opinion))
            continue
        if behind in nouns and behind not in known.LINKS:
            continue  # "sound quality"
        first = place
        while first and place - first < 2 and words[first - 1] in nouns:
            first -= 1
        before = words[first - 1] if first else ""
        whole = behind in _CLOSING or not behind[0].isalnum()  # and no "perfect wall mount"
        if whole and before in known.OPINIONS and before not in known.ADVERBIAL:
            found.append(Remark(place, "adjective", before))
        if before in _OPENING and (opinion := _behind(words, place)):
            found.append(Remark(place, "link", opinion))
        if whole and before in ("the", "its", "their") and first > 1 and words[first - 2] in known.LIKING:
            if (words[first - 3] if first > 2 else "") in known.LIKERS:
                found.append(Remark(place, "liking", words[first - 2]))
    return found


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
