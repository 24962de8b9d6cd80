"""Tasks as data: what a language model is asked, and what it should answer.

A template is text with names in braces: ``{user}``, ``{item}`` (the target item of the row), ``{history}``,
``{candidates}``, and columns of these: ``{item.title}``, ``{user.age}``, ``{history.title}``. P5 (Geng et al., RecSys 2022)
and POD (Li et al., CIKM 2023) ask so; their whole-word ids number what is mentioned.
"""

import re
from typing import NamedTuple

import torch
from recbole.utils import FeatureType

from recbole_persona.data.columns import absent
from recbole_persona.errors import UserError
from recbole_persona.lm.ragged import Ragged, concatenated

NAMES = ("user", "item", "history", "candidates")


class Task(NamedTuple):
    """One thing that a model is taught.

    Attributes:
        templates: of the prompt; each training row gets one by chance, held-out rows the last.
        target: ``item`` (its code) or ``text`` (the sentence of the row).
    """

    templates: tuple[str, ...]
    target: str


TASKS = {
    "sequential": Task(("{history}",), "item"),
    "topn": Task(("choose for {history} from {candidates}", "{history} from {candidates}"), "item"),
    "explanation": Task(("explain {user} {item}", "{user} {item}"), "text"),
}


class Prompts(NamedTuple):
    """Prompts of ``B`` rows.

    Attributes:
        tokens: ids.
        words: for each token, the number of the user or item in its row that it belongs to, from 1; 0 for other text.
        items: for the last token of an item's code, the item; 0 for all others.
    """

    tokens: Ragged
    words: Ragged
    items: Ragged

    @classmethod
    def of(cls, tokens, **known):
        """Prompts of some tokens of which no more is known: ``words`` and ``items`` are 0 where they are not given."""
        return cls(tokens, **{"words": tokens.filled(0), "items": tokens.filled(0)} | known)

    def followed_by(self, other):
        """Row by row, the others behind these."""
        return Prompts(*(concatenated(parts) for parts in zip(self, other)))


class Writer:
    """Fills templates with rows of a batch, from pieces that were tokenised once.

    Args:
        templates: str.
        tokens: function text -> token ids.
        pieces: name -> :class:`Ragged`: ``item`` and ``user``, by id, and each column that a template names
            (``item.title``, ``history.title``), by id.

    Raises:
        UserError: a template that names what there is not.
    """

    def __init__(self, templates, tokens, pieces):
        self.pieces = pieces
        self.parts = [[(kind, Ragged.of([tokens(value)])) for kind, value in parse(one)] for one in templates]

    def write(self, template, rows) -> Prompts:
        """The prompts of one template (its number) for ``rows``: a dict of columns ``user`` (B,), ``item`` (B,), ``history``
        (B, T) with ``length`` (B,), ``candidates`` (B, C), as far as the template names them."""
        tokens, words, items, mentioned = [], [], [], 0
        for kind, literal in self.parts[template]:
            if kind == "text":
                size = len(next(iter(rows.values())))
                part = literal.take(torch.zeros(size, dtype=torch.int64))
                number, item, count = torch.zeros_like(part.values), torch.zeros_like(part.values), 0
            else:
                part, number, item, count = self._mention(kind, rows)
            offset = torch.as_tensor(mentioned).expand(len(part.lengths)).repeat_interleave(part.lengths)
            tokens.append(part)
            words.append(Ragged(torch.where(number > 0, number + offset, 0), part.offsets))
            items.append(Ragged(item, part.offsets))
            mentioned = mentioned + count
        return Prompts(*map(concatenated, (tokens, words, items)))

    def _mention(self, kind, rows):
        """Tokens of what a name stands for, the number of each token's mention in its row, the item of each token (as in
        :class:`Prompts`), and how many mentions there are (B,)."""
        source = kind.partition(".")[0]
        if source not in rows:
            raise UserError(
                f"The prompt names {{{kind}}}, and these rows have no {source}; a new user has a history alone."
            )
        if source == "history":
            inside = torch.arange(rows["history"].shape[1]) < rows["length"].unsqueeze(1)
            ids, counts = rows["history"][inside], rows["length"]
        elif source == "candidates":
            ids, counts = (
                rows["candidates"].flatten(),
                torch.full((len(rows["candidates"]),), rows["candidates"].shape[1]),
            )
        else:
            ids, counts = rows[source], torch.ones_like(rows[source])
        named = self.pieces[kind if "." in kind or source == "user" else "item"].take(ids)
        starts = counts.cumsum(0) - counts
        number = torch.arange(1, len(ids) + 1) - starts.repeat_interleave(counts)
        number = number.repeat_interleave(named.lengths)
        nothing = torch.zeros_like(number)
        if "." in kind:
            return named.joined(counts), nothing, nothing, 0
        return named.joined(counts), number, nothing if source == "user" else named.at_ends(ids), counts


def parse(template) -> list[tuple[str, str]]:
    """``("text", literal)`` and ``(name, "")``, in their order.

    Raises:
        UserError: a name that means nothing.
    """
    parts = []
    if re.search(r"[{}]", re.sub(r"\{[^{}]+\}", "", template)):
        raise UserError(f"The template {template!r} has a brace that names nothing.")
    for literal, name in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", template):
        if literal.strip():
            parts.append(("text", literal.strip()))
        if name:
            source, dot, column = name.partition(".")
            if source not in NAMES or (dot and not column):
                raise UserError(
                    f"The template {template!r} names {{{name}}}; a template knows {{user}}, {{item}}, {{history}}, "
                    "{candidates}, and columns such as {history.title} or {user.age}."
                )
            parts.append((name, ""))
    return parts


def templates_of(config, task) -> tuple[str, ...]:
    """The templates of a task: those of the key ``templates``, or its own.

    Raises:
        UserError: the key is not a dict of lists of texts, or a template names what its task does not show: candidates where
            there are none, or the item where it is the answer.
    """
    asked = config["templates"] or {}
    if not isinstance(asked, dict):
        raise UserError(f"templates gives tasks their texts, such as {{sequential: ['{{history}}']}}, not {asked!r}.")
    texts = asked.get(task, TASKS[task].templates)
    if (
        not isinstance(texts, (list, tuple))
        or not texts
        or not all(isinstance(text, str) and text.strip() for text in texts)
    ):
        raise UserError(f"templates of {task} is a list of texts, such as ['{{history}}'], not {texts!r}.")
    for text in texts:
        named = {name.partition(".")[0] for name, _ in parse(text)}
        if "item" in named and TASKS[task].target == "item":
            raise UserError(f"The template {text!r} of {task} names {{item}}, which is the answer.")
        if "candidates" in named and task != "topn":
            raise UserError(f"The template {text!r} of {task} names {{candidates}}, which topn alone has.")
    return tuple(texts)


def literal_text(template) -> str:
    """What of a template is plain text."""
    return " ".join(literal for kind, literal in parse(template) if kind == "text")


def named_texts(dataset, templates) -> dict[str, list[str]]:
    """What templates name besides codes of items, written out by id: ``user``, and columns such as ``history.title``.

    Raises:
        UserError: a column that the data set lacks.
    """
    names = dict.fromkeys(kind for template in templates for kind, _ in parse(template))
    found = {"user": [f"user {user}" for user in range(dataset.user_num)]} if "user" in names else {}
    for name in names:
        source, _, field = name.partition(".")
        if field:
            suffix = "user" if source == "user" else "item"
            found[name] = column_texts(dataset, suffix, field, f"A template names {{{name}}}")
    return found


def column_texts(dataset, suffix, field, what):
    """(n,) texts of a column of the items or users.

    Args:
        suffix: ``item`` or ``user``.

    Raises:
        UserError: there is no such column; the sentence begins with ``what`` asks for it.
    """
    table = dataset.get_user_feature() if suffix == "user" else dataset.get_item_feature()
    if field not in table:
        raise UserError(f"{what}, and {absent(dataset.config, field, suffix)}.")
    values = table[field]
    if field in dataset.texts:
        return dataset.texts[field][values]
    if dataset.field2type[field] in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ):
        words = dataset.field2id_token[field]
        return [" ".join(words[row[row > 0]]) for row in values.view(len(values), -1).numpy()]
    return [" ".join(f"{number:g}" for number in row) for row in values.view(len(values), -1).tolist()]
