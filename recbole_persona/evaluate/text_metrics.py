"""Metrics of generated explanations, in RecBole's evaluator. ``docs/text_metrics.md`` has every formula and its convention.

The formulas are plain functions in files beside this one. Here they meet RecBole: a metric reads texts from the data struct
(:mod:`recbole_persona.evaluate.text_pass` gathers them), and says what its value is computed from row by row, so that
per-user tables hold enough to compute it for any set of users.
"""

import json
from abc import ABC, abstractmethod

import numpy as np
from recbole.evaluator.base_metric import AbstractMetric

from recbole_persona.data.words import words
from recbole_persona.errors import UserError
from recbole_persona.evaluate import named_features, rouge, variety
from recbole_persona.evaluate.bleu import COUNTS, bleu, bleu_counts, sacrebleu_tokens, signature
from recbole_persona.evaluate.meteor import meteor_function
from recbole_persona.evaluate.sentiment import agreement
from recbole_persona.registry import TEXT


class TextMetric(AbstractMetric, ABC):
    """A metric of the texts of all held-out rows.

    Args:
        config: RecBole's ``Config``.
    """

    metric_type = TEXT
    name: str

    def __init__(self, config):
        self.config = config
        super().__init__(config)

    @abstractmethod
    def columns(self, struct) -> dict[str, np.ndarray]:
        """What the value is computed from, (n,) by name of a column of the per-user table."""

    @abstractmethod
    def value(self, struct) -> float:
        """The value over all rows, not rounded; NaN where it is not defined."""

    def calculate_metric(self, dataobject):
        return {self.name: round(float(self.value(dataobject)), self.decimal_place)}


def once(struct, name, make):
    """``struct[name]``, made when it is asked for first: several metrics read one set of counts."""
    if name not in struct:
        struct.set(name, make())
    return struct.get(name)


def texts(struct) -> tuple[list[str], list[str]]:
    """Generated texts and references, (n,) each."""
    return struct.get("text.generated"), struct.get("text.reference")


def word_lists(struct, side) -> list[list[str]]:
    """The words of all texts of one side, ``generated`` or ``reference``."""
    return once(struct, f"text.words.{side}", lambda: [words(text) for text in struct.get(f"text.{side}")])


# --- BLEU: of a corpus, from counts


class Bleu(TextMetric):
    """BLEU up to ``order``, as sacrebleu computes it (0 to 100)."""

    order, prefix, smoothed = 1, "bleu", True

    def __init__(self, config):
        super().__init__(config)
        self.tokens = self.tokenizer()

    def tokenizer(self):
        return sacrebleu_tokens(self.config["bleu_tokenizer"])

    def counts(self, struct):
        def make():
            return bleu_counts(*([self.tokens(text) for text in side] for side in texts(struct)))

        return once(struct, f"text.{self.prefix}", make)  # (n, 10)

    def columns(self, struct):
        return {f"{self.prefix}_{name}": column for name, column in zip(COUNTS, self.counts(struct).T)}

    def value(self, struct):
        return bleu(self.counts(struct).sum(0), self.order, self.smoothed)


class PeterBleu(Bleu):
    """BLEU of the field's published tables: blanks separate tokens, an order without a match makes it 0."""

    prefix, smoothed = "peter-bleu", False

    def tokenizer(self):
        return str.split


Bleu1, Bleu2, Bleu3, Bleu4 = (
    type(f"Bleu{n}", (Bleu,), {"name": f"bleu-{n}", "order": n, "__doc__": Bleu.__doc__}) for n in (1, 2, 3, 4)
)
PeterBleu1, PeterBleu2, PeterBleu3, PeterBleu4 = (
    type(f"PeterBleu{n}", (PeterBleu,), {"name": f"peter-bleu-{n}", "order": n, "__doc__": PeterBleu.__doc__})
    for n in (1, 2, 3, 4)
)


# --- Means over rows


class RowMetric(TextMetric):
    """A metric that is the mean over rows of a value of the row, those without one left out."""

    @abstractmethod
    def values(self, struct) -> np.ndarray:
        """(n,) float64."""

    def columns(self, struct):
        return {
            self.name: once(struct, f"text.values.{self.name}", lambda: np.asarray(self.values(struct), dtype=float))
        }

    def value(self, struct):
        values = self.columns(struct)[self.name]
        defined = values[~np.isnan(values)]
        return defined.mean() if len(defined) else np.nan


def by_row(name, function, side, document):
    """A :class:`RowMetric` of a function (hypothesis, reference) -> value. ``side``: struct -> the two lists."""

    def values(self, struct):
        return [function(*pair) for pair in zip(*side(struct))]

    return type(name, (RowMetric,), {"name": name, "values": values, "__doc__": document, "__module__": __name__})


def _both_words(struct):
    return word_lists(struct, "generated"), word_lists(struct, "reference")


_STANDARD, _PETER = (
    "ROUGE as rouge-score computes it, over words in any script (F, 0 to 1).",
    "ROUGE of PETER's code (F, 0 to 100).",
)
Rouge1 = by_row("rouge-1", lambda one, other: rouge.rouge_n(one, other, 1), _both_words, _STANDARD)
Rouge2 = by_row("rouge-2", lambda one, other: rouge.rouge_n(one, other, 2), _both_words, _STANDARD)
RougeL = by_row("rouge-l", rouge.rouge_l, _both_words, _STANDARD)
PeterRouge1 = by_row("peter-rouge-1", lambda one, other: rouge.peter_rouge_n(one, other, 1), texts, _PETER)
PeterRouge2 = by_row("peter-rouge-2", lambda one, other: rouge.peter_rouge_n(one, other, 2), texts, _PETER)
PeterRougeL = by_row("peter-rouge-l", rouge.peter_rouge_l, texts, _PETER)


class Meteor(RowMetric):
    """METEOR with WordNet's synonyms (0 to 1)."""

    name, synonyms = "meteor", True

    def __init__(self, config):
        super().__init__(config)
        self.meteor = meteor_function(self.synonyms)

    def values(self, struct):
        return [self.meteor(*pair) for pair in zip(*_both_words(struct))]


class MeteorExactStem(Meteor):
    """METEOR that matches words exactly or by their stems alone (0 to 1)."""

    name, synonyms = "meteor-exact-stem", False


class BertScoreF(RowMetric):
    """BERTScore (F, -1 to 1) by the encoder that ``bertscore_encoder`` names."""

    name = "bertscore"

    def __init__(self, config):
        super().__init__(config)
        if not config["bertscore_encoder"]:
            raise UserError("bertscore needs an encoder: set bertscore_encoder to the folder of a Hugging Face model.")
        self.score = None

    def values(self, struct):
        if self.score is None:
            from recbole_persona.evaluate.bertscore import BertScore

            self.score = BertScore(self.config["bertscore_encoder"], self.config["device"])
        return self.score(*texts(struct))


class Judge(RowMetric):
    """What a language model behind ``judge_url`` says of the texts (0 to 10)."""

    name = "judge"

    def __init__(self, config):
        super().__init__(config)
        if not config["judge_url"] or not config["judge_model"]:
            raise UserError(
                "judge sends texts to another machine, and runs only where judge_url (such as http://localhost:8000/v1) and "
                "judge_model are set."
            )

    def values(self, struct):
        from recbole_persona.evaluate.judge import judged

        return judged(self.config["judge_url"], self.config["judge_model"], *texts(struct))


class Length(RowMetric):
    """Words of a generated text."""

    name = "length"

    def values(self, struct):
        return [len(one) for one in word_lists(struct, "generated")]


class SentimentAgreement(RowMetric):
    """Share of texts on the same side as the rating, by a small English lexicon."""

    name = "sentiment-agreement"

    def values(self, struct):
        return agreement(word_lists(struct, "generated"), struct.get("text.rating"), struct.get("data.middle_rating"))


# --- What texts name


class Features:
    """The features that generated texts name, for the metrics that ask for them."""

    def finder(self, struct) -> named_features.FeatureFinder:
        return once(struct, "data.finder", lambda: named_features.FeatureFinder(struct.get("data.features")))

    def named(self, struct) -> list[list[int]]:
        """(n,) numbers of the finder. Each text's words are dropped with it: to keep millions is slow."""
        finder = self.finder(struct)
        return once(struct, "text.named", lambda: [finder.named(words(text)) for text in struct.get("text.generated")])

    def columns(self, struct):
        names = self.finder(struct).names
        lists = [json.dumps([names[one] for one in found], ensure_ascii=False) for found in self.named(struct)]
        return {"named": np.array(lists, dtype=object), "n_features": np.full(len(lists), len(names))}


class FMR(Features, RowMetric):
    """Feature matching ratio: share of texts that name the feature of their reference."""

    name = "fmr"
    columns = RowMetric.columns

    def values(self, struct):
        finder = self.finder(struct)
        return named_features.matches(self.named(struct), [finder.number(one) for one in struct.get("text.feature")])


class FCR(Features, TextMetric):
    """Feature coverage ratio: share of all features of the data that the texts name."""

    name = "fcr"

    def value(self, struct):
        return named_features.coverage(self.named(struct), len(self.finder(struct).names))


class DIV(Features, TextMetric):
    """Feature diversity: features that two texts have in common; less is more diverse."""

    name, smaller = "div", True

    def value(self, struct):
        return named_features.diversity(self.named(struct))


class Hallucinated(Features, TextMetric):
    """Share of the named features that training never saw with the item."""

    name, smaller = "hallucinated", True

    def columns(self, struct):
        numbers = self.finder(struct).numbers

        def seen():
            return {item: set(numbers[ids].tolist()) for item, ids in struct.get("data.item_features").items()}

        named = self.named(struct)
        items = struct.get("text.items").tolist()
        counts = named_features.hallucinated(named, items, once(struct, "data.seen_features", seen))
        return {"features_named": np.array([len(one) for one in named]), "features_hallucinated": counts}

    def value(self, struct):
        named, wrong = (column.sum() for column in self.columns(struct).values())
        return wrong / named if named else np.nan


# --- Variety


class USR(TextMetric):
    """Unique sentence ratio: distinct texts over texts."""

    name = "usr"

    def columns(self, struct):
        cells = [
            json.dumps(text, ensure_ascii=False) for text in struct.get("text.generated")
        ]  # "" and "NA" stay texts
        return {"generated": np.array(cells, dtype=object)}

    def value(self, struct):
        return variety.unique_share(struct.get("text.generated"))


class Distinct1(USR):
    """Distinct words over words of all texts."""

    name, n = "distinct-1", 1

    def value(self, struct):
        return variety.distinct(word_lists(struct, "generated"), self.n)


class Distinct2(Distinct1):
    """Distinct pairs of neighbouring words over such pairs of all texts."""

    name, n = "distinct-2", 2


def describe(config) -> dict[str, str]:
    """How the text metrics of a config are meant: what two results must share to be compared."""
    asked, said = [str(metric).lower() for metric in config["metrics"]], {}
    if any(metric.startswith("bleu-") for metric in asked):
        said["bleu"] = signature(config["bleu_tokenizer"])
    if any(metric.startswith("rouge-") for metric in asked):
        said["rouge"] = "F as rouge-score's, no stemming, words in any script"
    if any(metric.startswith("peter-") for metric in asked):
        said["peter"] = "PETER's code: blanks separate tokens, F values, references as they are"
    if "bertscore" in asked:
        said["bertscore"] = f"last layer of {config['bertscore_encoder']}, no idf, no rescaling"
    if "judge" in asked:
        said["judge"] = f"{config['judge_model']}, 0 to 10"
    return said
