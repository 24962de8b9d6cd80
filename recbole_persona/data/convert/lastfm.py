"""Plays of LastFM, tab-separated with a header: user, artist, plays (``user_artists.dat`` of HetRec 2011)."""

from pathlib import Path

from recbole_persona.data.convert.atomic import token_id
from recbole_persona.data.convert.lines import BadLine, Lines, first_line, number

INTER = {"user_id": "token", "item_id": "token", "plays": "float"}


def inputs(source: Path, items: Path | None = None) -> list[Path]:
    return [source] if items is None else [source, items]


def convert(source: Path, lines: Lines, tables, items: Path | None = None) -> None:
    """Write ``.inter``, and with a table of artists (id, name, …; ``artists.dat``) ``.item``."""

    def parse(text):
        cells = text.split("\t")
        if len(cells) != 3:
            raise BadLine(f"has {len(cells)} cells, not user, artist and plays with a tab between them")
        tables.interact(token_id(cells[0], "user"), token_id(cells[1], "artist"), number(cells[2], "number of plays"))

    def artist(text):
        cells = text.split("\t")
        if len(cells) < 2:
            raise BadLine("has no tab between an artist and a name")
        return token_id(cells[0], "artist"), cells[1]

    tables.open("inter", INTER)
    last = first_line(source).split("\t")[-1].strip()
    for _ in lines.read(source, parse, skip=0 if last.isdecimal() else 1):
        pass
    if items is not None:
        played = (row for row in lines.read(items, artist, skip=1) if row[0] in tables.items)
        tables.describe("item", {"artist_name": "token"}, played)
