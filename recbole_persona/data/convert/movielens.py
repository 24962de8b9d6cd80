"""MovieLens folders: ml-100k (``u.data``), ml-1m and ml-10m (``::``, latin-1), and the csv form (ml-latest, ml-25m).

Titles are kept as they stand, with their year, and the year is a column of its own. ``.item`` has every movie of the
folder, also those that nobody rated, as RecBole's own files do.
"""

import csv
import re
from pathlib import Path

from recbole_persona.data.convert import rows
from recbole_persona.data.convert.atomic import token_id
from recbole_persona.data.convert.lines import BadLine, Lines, number
from recbole_persona.errors import UserError

INTER = {"user_id": "token", "item_id": "token", "rating": "float", "timestamp": "float"}
ITEM = {"movie_title": "token", "release_year": "token", "genre": "token_seq"}
USER = {"age": "token", "gender": "token", "occupation": "token", "zip_code": "token"}


def inputs(source: Path) -> list[Path]:
    """The files of the folder that are read, the ratings first.

    Raises:
        UserError: it is no MovieLens folder.
    """
    if not source.is_dir():
        raise UserError(f"{source} is no folder; name the folder that was unpacked, such as ml-1m.")
    for ratings, *others in (
        ("u.data", "u.item", "u.genre", "u.user"),
        ("ratings.dat", "movies.dat", "users.dat"),
        ("ratings.csv", "movies.csv"),
    ):
        if (source / ratings).is_file():
            return [source / ratings, *(source / file for file in others if (source / file).is_file())]
    raise UserError(f"{source} has none of u.data, ratings.dat and ratings.csv; it is no MovieLens folder.")


def convert(source: Path, lines: Lines, tables) -> None:
    files = {path.name: path for path in inputs(source)}
    form = {"u.data": _ml_100k, "ratings.dat": _ml_1m, "ratings.csv": _csv}
    form[next(iter(files))](files, lines, tables)


def _ratings(lines, tables, path, separator, header=0, quotes=False):
    columns = [
        rows.id_column(0, "user"),
        rows.id_column(1, "item"),
        rows.number_column(2, "rating"),
        rows.number_column(3, "timestamp"),
    ]
    tables.open("inter", INTER)
    rows.interact(rows.skipped(rows.read(path, separator, quotes=quotes), header), lines, path, tables, columns, 4)


def _ml_100k(files, lines, tables):
    _ratings(lines, tables, files["u.data"], "\t")
    genres = {}

    def genre(text):
        name, place = _cells(text.split("|"), 2)
        genres[int(number(place, "place of the genre"))] = name

    if "u.genre" in files:
        lines.each(files["u.genre"], genre)

    def movie(text):
        identifier, title, _, _, _, *flags = _cells(text.split("|"), 5, at_least=True)
        names = [genres.get(place, f"genre{place}") for place, flag in enumerate(flags) if flag == "1"]
        return token_id(identifier, "movie"), title, _year(title), names

    def user(text):
        identifier, *values = _cells(text.split("|"), 5)
        return token_id(identifier, "user"), *values

    if "u.item" in files:
        with tables.describing("item", ITEM) as write:
            lines.each(files["u.item"], lambda text: write(movie(text)), "latin-1")
    if "u.user" in files:
        with tables.describing("user", USER) as write:
            lines.each(files["u.user"], lambda text: write(user(text)), "latin-1")


def _ml_1m(files, lines, tables):
    _ratings(lines, tables, files["ratings.dat"], "::")

    def user(text):
        identifier, gender, age, occupation, zip_code = _cells(text.split("::"), 5)
        return token_id(identifier, "user"), age, gender, occupation, zip_code

    if "movies.dat" in files:
        # ml-1m is latin-1; ml-10m, of the same form, is UTF-8
        encoding = "utf-8" if _is_utf8(files["movies.dat"]) else "latin-1"
        with tables.describing("item", ITEM) as write:
            lines.each(files["movies.dat"], lambda text: write(_movie(text.split("::"))), encoding)
    if "users.dat" in files:
        with tables.describing("user", USER) as write:
            lines.each(files["users.dat"], lambda text: write(user(text)), "latin-1")


def _csv(files, lines, tables):
    _ratings(lines, tables, files["ratings.csv"], ",", header=1, quotes=True)
    if "movies.csv" in files:
        with tables.describing("item", ITEM) as write:
            lines.each(files["movies.csv"], lambda text: write(_movie(_csv_cells(text))), skip=1)


def _movie(cells):
    identifier, title, genres = _cells(cells, 3)
    names = [] if genres == "(no genres listed)" else genres.split("|")
    return token_id(identifier, "movie"), title, _year(title), names


def _cells(cells, count, at_least=False):
    if len(cells) != count and not (at_least and len(cells) > count):
        raise BadLine(f"has {len(cells)} cells, not {count}")
    return cells


def _csv_cells(text):
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise BadLine(f"is not CSV ({error})") from None


def _year(title):
    found = re.search(r"\((\d{4})\)\s*$", title)
    return found[1] if found else None


def _is_utf8(path):
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return False
    return True
