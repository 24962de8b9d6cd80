"""Amazon reviews as JSON lines, plain or gz: the forms of 2014, 2018 and 2023, and the short user, item, rating, time.

Lines of 2014 may be Python literals; they are read as literals, never evaluated. Times become seconds.
"""

import ast
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from recbole_persona.data.convert.atomic import token_id
from recbole_persona.data.convert.lines import BadLine, Lines, number, raw_lines
from recbole_persona.errors import UserError


@dataclass(frozen=True)
class Form:
    """The keys of one generation of files. ``time_unit`` is the number of its time units in a second."""

    user: str
    items: tuple[str, ...]
    rating: str
    time: str
    summary: str
    text: str
    time_unit: int = 1


FORMS = (
    Form("reviewerID", ("asin",), "overall", "unixReviewTime", "summary", "reviewText"),  # 2014 and 2018
    Form("user_id", ("parent_asin", "asin"), "rating", "timestamp", "title", "text", 1000),  # 2023
    Form("user", ("item",), "rating", "time", "summary", "text"),
)
INTER = {"user_id": "token", "item_id": "token", "rating": "float", "timestamp": "float", "helpful": "float"}
ITEM = {"title": "token", "brand": "token", "category": "token_seq", "price": "float"}


def inputs(source: Path, items: Path | None = None) -> list[Path]:
    return [source] if items is None else [source, items]


def convert(source: Path, lines: Lines, tables, items: Path | None = None) -> None:
    """Write ``.inter``, and with a file of item metadata ``.item`` of the items that have reviews."""
    form, first = form_of(source)
    verified = next((key for key in ("verified", "verified_purchase") if key in first), None)
    votes = isinstance(first.get("helpful"), list)  # [helpful, all]; later forms have the helpful ones alone
    extra = ({"votes": "float"} if votes else {}) | ({"verified": "token"} if verified else {})
    tables.open("inter", INTER | extra | {"summary": "token", "review": "token"})

    def take(text):
        review = record(text)
        values = [*rating_and_time(review, form), *(_votes(review) if votes else _votes(review)[:1])]
        if verified:
            values.append("yes" if review.get(verified) else "no")
        tables.interact(*ids(review, form), *values, review.get(form.summary), review.get(form.text))

    lines.each(source, take)
    if items is not None:
        describe(items, lines, tables)


def describe(items: Path, lines: Lines, tables) -> None:
    """Write ``.item`` from a file of metadata."""
    with tables.describing("item", ITEM) as write:
        lines.each(items, lambda text: _describe(text, tables.items, write))


def ids(review, form) -> tuple[str, str]:
    """The user and the item of a review; BadLine when one is missing."""
    item = next((review[key] for key in form.items if review.get(key) not in (None, "")), None)  # 0 is an id
    return token_id(review.get(form.user), f"user ({form.user})"), token_id(item, f"item ({form.items[0]})")


def rating_and_time(review, form) -> tuple[float, float]:
    """The rating, and the time in seconds; BadLine when one is no number."""
    rating = number(review.get(form.rating), f"rating ({form.rating})")
    return rating, number(review.get(form.time), f"time ({form.time})") / form.time_unit


def form_of(source) -> tuple[Form, dict]:
    """The form of the first line that has one, and that line."""
    for _, line in raw_lines(source):
        try:
            review = record(line.decode("utf-8", "replace"))
        except BadLine:
            continue
        for form in FORMS:
            if {form.user, form.rating} <= review.keys():
                return form, review
    raise UserError(f"{source} holds no reviews: no line is a JSON object with a user and a rating.")


def record(text) -> dict:
    """A line as a mapping: JSON, or the Python literal that the files of 2014 hold."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of backslashes that escape nothing
                value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise BadLine("is neither JSON nor a Python literal") from None
    if not isinstance(value, dict):
        raise BadLine(f"is no JSON object but a {type(value).__name__}")
    return value


def _votes(review) -> tuple[float, float]:
    """Helpful votes, and all votes where the form counts them."""
    helpful = review.get("helpful")
    if isinstance(helpful, list):
        if len(helpful) != 2:
            raise BadLine(f"helpful has {len(helpful)} numbers, not 2")
        return number(helpful[0], "helpful"), number(helpful[1], "helpful")
    found = review.get("helpful_vote", review.get("vote"))
    return (0.0 if found is None else number(str(found).replace(",", ""), "votes")), 0.0


def _describe(text, reviewed, write):
    product = record(text)
    identifier = token_id(product.get("parent_asin") or product.get("asin"), "item (asin)")
    if identifier not in reviewed:
        return  # these files describe the whole shop
    brand = product.get("brand") or product.get("store")
    categories = _names(product.get("categories") or product.get("category"))
    write((identifier, product.get("title"), brand, list(categories), _price(product.get("price"))))


def _names(categories):
    """The names in a list, a list of lists (2014), or a single one."""
    if isinstance(categories, (list, tuple)):
        for part in categories:
            yield from _names(part)
    elif categories is not None:
        yield categories


def _price(price) -> float | None:
    """In dollars; None where it is missing or a range."""
    found = re.fullmatch(r"\$?\s*(\d[\d,]*(?:\.\d+)?)", str(price).strip())
    return float(found[1].replace(",", "")) if found else None
