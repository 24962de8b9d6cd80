"""Titles and classes of items, for display only: read from the ``.item`` file when a person is shown something.

Training loads the columns that a config names; what stands here never reaches a model.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recbole_persona.data.columns import TEXT
from recbole_persona.data.texts import unescaped, unquoted
from recbole_persona.errors import UserError

CHOSE = "chose"
# Columns that hold titles, the likeliest first, and what people do with what bears them.
TITLE_COLUMNS = {
    "title": CHOSE,
    "movie_title": "watched",
    "movie_name": "watched",
    "book_title": "read",
    "headline": "read",
    "track_title": "listened to",
    "track_name": "listened to",
    "artist_name": "listened to",
    "item_title": CHOSE,
    "product_title": CHOSE,
    "product_name": CHOSE,
    "item_name": CHOSE,
    "name": CHOSE,
}
CLASS_COLUMNS = (
    "class",
    "classes",
    "genre",
    "genres",
    "category",
    "categories",
    "tag",
    "tags",
    "attribute",
    "attributes",
)


@dataclass(frozen=True)
class ItemTexts:
    """What people call the items of a data set.

    Attributes:
        titles: str by external item id; empty when the data set has no titles.
        classes: tuple of str (genres, categories, tags) by external item id; empty when the data set has none.
        verb: what a user did with an item, as in "because you watched".
    """

    titles: pd.Series
    classes: pd.Series
    verb: str

    def titles_of(self, items) -> list[str]:
        """Titles of external ids; the id itself where there is none."""
        return [self.titles.get(item) or item for item in items]

    def classes_of(self, items) -> list[tuple[str, ...]]:
        return [self.classes.get(item, ()) for item in items]


def item_texts(config, title_field=None, class_field=None) -> ItemTexts:
    """Read the ``.item`` file of a data set, if there is one.

    Args:
        config: RecBole's keys for atomic files: ``data_path``, ``ITEM_ID_FIELD``, the separators, ``encoding``.
        title_field: column with the titles; the first of ``TITLE_COLUMNS`` that is there if None.
        class_field: column with genres, categories or tags; the first of ``CLASS_COLUMNS`` that is there if None.

    Raises:
        UserError: a named column that does not exist, or a file that is not what its header says.
    """
    file = Path(config["data_path"]) / f"{config['dataset']}.item"
    encoding, separator, item = config["encoding"] or "utf-8", config["field_separator"], config["ITEM_ID_FIELD"]
    header = _header(file, separator, encoding)
    title = _column(file, header, title_field, TITLE_COLUMNS)
    classes = _column(file, header, class_field, CLASS_COLUMNS)
    named = [name for name in (title, classes) if name is not None]
    if not named or item not in header:
        return ItemTexts(pd.Series(dtype=str), pd.Series(dtype=object), CHOSE)
    try:
        table = pd.read_csv(
            file,
            sep=separator,
            header=0,
            names=list(header),
            usecols=[item, *named],
            dtype=str,
            encoding=encoding,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
        )
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read for titles: {str(error).strip()}.") from None
    for name in dict.fromkeys((item, *named)):
        table[name] = table[name].map(unescaped if header[name] == TEXT else unquoted)
    table = table.drop_duplicates(item).set_index(item)
    lists = table[classes].str.split(config["seq_separator"]) if classes else pd.Series(dtype=object)
    return ItemTexts(
        table[title].str.strip() if title else pd.Series(dtype=str),
        lists.map(lambda names: tuple(name.replace("_", " ") for name in names if name)),
        TITLE_COLUMNS.get(title, CHOSE),
    )


def _header(file, separator, encoding) -> dict[str, str]:
    """The types of the columns of an atomic file by their names; none when there is no file."""
    if not file.is_file():
        return {}
    with file.open(encoding=encoding, errors="replace") as lines:
        cells = [column.partition(":") for column in lines.readline().rstrip("\r\n").split(separator)]
    return {name: kind for name, _, kind in cells}


def _column(file, header, named, usual) -> str | None:
    if named is None:
        return next((name for name in usual if name in header), None)
    if named not in header:
        raise UserError(f"{file} has no column {named!r}; its columns are {', '.join(header) or 'none'}.")
    return named
