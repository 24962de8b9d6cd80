"""Top items of a finished run: recbole-persona recommend --run=DIR --user=196,186 [--topk=10] [--key=value …].

For users of the data set (--user, --users, --all) everything they are known to have interacted with is left out. A new
user is a list of items, --history=50,181,172: AMPCF learns personas from it, sequential models read it. An id with a comma
stands in double quotes, as in CSV: --user='"Smith, J.",186'.
"""

import csv
import json
import sys
from contextlib import contextmanager
from pathlib import Path

from recbole_persona.cli.tables import add_run
from recbole_persona.errors import UserError, one_sentence

takes_settings = True
FORMATS = ("table", "csv", "jsonl")


def add_arguments(parser) -> None:
    add_run(parser)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", metavar="ID,ID", help="external user ids")
    who.add_argument("--users", metavar="FILE", help="file with a user id on each line, or in its first column")
    who.add_argument("--all", action="store_true", help="every user of the data set")
    who.add_argument("--history", metavar="ID,ID", help="external item ids that a new user chose")
    parser.add_argument(
        "--skip_unknown", action="store_true", help="leave out items of --history that the data set lacks"
    )
    parser.add_argument("--topk", type=int, default=10, metavar="N", help="items per user (10)")
    parser.add_argument("--with_seen", action="store_true", help="let known items be recommended again")
    parser.add_argument("--format", choices=FORMATS, help="table, csv or jsonl; by the ending of --out, else table")
    parser.add_argument("--out", metavar="FILE", help="write to a file, whole or not at all")
    parser.add_argument("--title_field", metavar="NAME", help="column of the .item file that holds the titles")


def main(arguments) -> int:
    from recbole_persona.runner.training import load

    users = read_users(arguments.users) if arguments.users else listed(arguments.user)
    loaded = load(arguments.run, arguments.settings, arguments.trust, "recommend")
    batches = loaded.recommend_batches(
        users,
        listed(arguments.history),
        arguments.topk,
        mask_history=not arguments.with_seen,
        skip_unknown=arguments.skip_unknown,
        title_field=arguments.title_field,
    )
    form = arguments.format or ending(arguments.out)
    with opened(arguments.out) as file:
        for number, table in enumerate(batches):
            if form == "csv":
                table.to_csv(file, index=False, header=number == 0)
            elif form == "jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_dict("records"))
            else:
                print_users(table, file)
    return 0


def listed(text: str | None) -> list[str] | None:
    """``"196, 186"`` as its parts; a part with a comma stands in double quotes: ``'"Smith, J.",186'``, as in CSV.

    Raises:
        UserError: a quote that is not closed, or something behind one.
    """
    return None if text is None else [part for part in _cells(text, repr(text)) if part]


def _cells(line, where) -> list[str]:
    """The cells of one line of CSV, without blanks around them but those within quotes."""
    try:
        rows = list(csv.reader([line.rstrip()], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(
            f"Cannot read {where} ({one_sentence(error).rstrip('.')}); an id with a comma stands in double quotes, "
            "and a quote within these is written twice."
        ) from None
    cells = [cell for row in rows for cell in row]
    return [cell if '"{}"'.format(cell.replace('"', '""')) in line else cell.strip() for cell in cells]


def read_users(file) -> list[str]:
    """The first column of a file, without a head line such as ``user_id:token``.

    Columns end at tabs where the first line has any, else at commas; there, an id with a comma stands in double quotes.

    Raises:
        UserError: no such file, a file that is no text, or one without an id.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"There is no file of users {file}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file in UTF-8.") from None
    lines = [line for line in lines if line.strip()]
    if lines and "\t" in lines[0]:
        users = [line.partition("\t")[0] for line in lines]
    else:
        users = [_cells(line, f"{line!r} in {file}")[0] for line in lines]
    users = [user for user in users if user]
    if users and users[0].partition(":")[0].lower() in ("user", "user_id", "userid", "uid"):
        users = users[1:]
    if not users:
        raise UserError(f"{file} names no user; write one id on each line.")
    return users


def ending(out) -> str:
    """The format that a file name asks for."""
    return {".csv": "csv", ".jsonl": "jsonl"}.get(Path(out or "").suffix, "table")


@contextmanager
def opened(out):
    """The screen, or a file that appears when it is whole."""
    if out is None:
        yield sys.stdout
        return
    from recbole_persona.upstream.files import atomic_path

    with atomic_path(Path(out)) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file


def headline(user: str) -> str:
    from recbole_persona.runner.people import NEW_USER

    return user if user == NEW_USER else f"user {user}"


def print_users(table, file) -> None:
    """One table for each user."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=file, highlight=False, markup=False)
    right = {"rank", "score", "persona", "share"}
    shown = [name for name in table.columns if name != "user"]
    for user, rows in table.groupby("user", sort=False):
        grid = Table(title=headline(user), title_justify="left", title_style="bold")
        for name in shown:
            grid.add_column(
                name,
                justify="right" if name in right else "left",
                overflow="fold",
                ratio=1 if name == "title" else None,
            )
        for row in rows[shown].to_dict("records"):
            grid.add_row(*(_cell(name, value) for name, value in row.items()))
        console.print(grid)


def _cell(name, value) -> str:
    return f"{value:.3f}" if name == "score" else f"{value:.0%}" if name == "share" else str(value)
