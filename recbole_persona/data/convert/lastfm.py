"""Plays of LastFM, tab-separated with a header: user, artist, plays (``user_artists.dat`` of HetRec 2011)."""

from pathlib import Path

from recbole_persona.data.convert.atomic import token_id
from recbole_persona.data.convert.lines import BadLine, Lines, first_line, number

INTER = {"user_id": "token", "item_id": "token", "plays": "float"}


def inputs(source: Path, items: Path | None = None) -> list[Path]:
    return [source] if items is None else [source, items]


def convert(source: Path, lines: Lines, tables, items: Path | None = None) -> dict:
    """Write ``.inter``, and with a table of artists (id, name, …; ``artists.dat``) ``.item``.

    Returns:
        Which columns of the table of artists were left out.
    """

    def take(text):
        cells = text.split("\t")
        if len(cells) != 3:
            raise BadLine(f"has {len(cells)} cells, not user, artist and plays with a tab between them")
        tables.interact(token_id(cells[0], "user"), token_id(cells[1], "artist"), number(cells[2], "number of plays"))

    def artist(text):
        cells = text.split("\t")
        if len(cells) < 2:
            raise BadLine("has no tab between an artist and a name")
        identifier = token_id(cells[0], "artist")
        if identifier in tables.items:
            write((identifier, cells[1]))

    tables.open("inter", INTER)
    last = first_line(source).split("\t")[-1].strip()
    lines.each(source, take, skip=0 if last.isdecimal() else 1)
    if items is None:
        return {}
    left_out = ", ".join(name.strip() for name in first_line(items).split("\t")[2:])
    with tables.describing("item", {"artist_name": "token"}) as write:
        lines.each(items, artist, skip=1)
    return {"columns left out": left_out} if left_out else {}
