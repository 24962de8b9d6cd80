"""Why: recbole-persona explain --run=DIR --user=196 [--topk=10].

Prints the personas of a user, and for every recommendation the persona that speaks for it and the history that this
persona attends to most; of a run of UserEncoder or DIN, the items of the history that carry each recommendation; of one
of PeaPOD, the similar users that it listens to, and which of them chose the item.
--items explains named items in place of the best, --history a new user. In these lists an id with a comma stands in double
quotes, as in CSV; --user is one id as it is.
"""

import json

from recbole_persona.cli.recommend import headline, listed
from recbole_persona.cli.tables import add_run, print_table

takes_settings = True
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
LEVELS = "▁▂▃▄▅▆▇█"
MOST_LEVELS = 9  # with more personas than that, their weights stand in --json alone
WIDTH = 80
TITLE = 32  # characters of a title of the history
CLOSE = 0.8  # of the largest weight: another persona that is named, too


def add_arguments(parser) -> None:
    add_run(parser)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", metavar="ID", help="external user id")
    who.add_argument("--history", metavar="ID,ID", help="external item ids that a new user chose")
    parser.add_argument(
        "--skip_unknown", action="store_true", help="leave out items of --history that the data set lacks"
    )
    parser.add_argument("--items", "--item", metavar="ID,ID", help="explain these items in place of the best")
    parser.add_argument("--topk", type=int, default=10, metavar="N", help="recommendations (10)")
    parser.add_argument("--title_field", metavar="NAME", help="column of the .item file that holds the titles")
    parser.add_argument(
        "--class_field", metavar="NAME", help="column of the .item file that holds genres or categories"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the same as data")
    form.add_argument(
        "--faithfulness",
        action="store_true",
        help="also take what is named away, and see how much the scores drop",
    )


def main(arguments) -> int:
    from recbole_persona.runner.training import load

    loaded = load(arguments.run, arguments.settings, arguments.trust, "explain")
    person = {"history": listed(arguments.history), "skip_unknown": arguments.skip_unknown}
    reasons = loaded.explain(
        arguments.user,
        arguments.topk,
        listed(arguments.items),
        title_field=arguments.title_field,
        class_field=arguments.class_field,
        **person,
    )
    if arguments.json:
        print(json.dumps(reasons, indent=1, ensure_ascii=False))
        return 0
    if not reasons:
        print("Nothing is left to recommend.")
        return 0
    part, show = next(value for key, value in FORMS.items() if key in reasons[0])
    show(reasons)
    if arguments.faithfulness:
        items = [reason["item"] for reason in reasons]
        print_faithfulness(loaded.check_explanations(arguments.user, items, **person), part)
    return 0


def print_reasons(reasons) -> None:
    """The personas of the user, then each recommendation with its reason."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    width = min(console.width, WIDTH)
    personas = reasons[0]["personas"]
    total = sum(persona["history"] for persona in personas)
    console.print(
        Text.assemble(
            (headline(reasons[0]["user"]), "bold"), f", {total} items of history among {len(personas)} personas"
        )
    )
    for persona in personas:
        k = persona["persona"]
        filled = round(20 * persona["history"] / max(total, 1))
        console.print(
            Text.assemble(
                f"{k:>4}  ",
                ("█" * filled, _colour(k)),
                ("·" * (20 - filled), "dim"),
                f" {persona['history']:>4}  ",
                (persona["name"], _colour(k)),
            ),
            overflow="ellipsis",
            no_wrap=True,
        )
    shows_levels = 1 < len(personas) <= MOST_LEVELS
    numbers = " ".join(str(persona["persona"]) for persona in personas) if shows_levels else ""
    console.print(Text(f"\n{'recommended':<{width - 8 - len(numbers)}}{numbers}   score", style="dim"))
    for reason in reasons:
        levels = Text(" ").join(_level(persona) for persona in reason["personas"]) if shows_levels else Text()
        room = width - 16 - len(levels)
        title = Text(reason["title"] or reason["item"], style="bold")
        title.truncate(room, overflow="ellipsis", pad=True)
        console.print(
            Text.assemble(f"{reason['rank']:>4}  ", title, "  ", levels, f"{reason['score']:>8.3f}"), no_wrap=True
        )
        console.print(Padding(_why(reason), (0, console.width - width + 8, 0, 6)))


def print_history_reasons(reasons) -> None:
    """Each recommendation with the items of the history that carry it."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    width = min(console.width, WIDTH)
    console.print(
        Text.assemble((headline(reasons[0]["user"]), "bold"), f", {len(reasons[0]['history'])} items of history read")
    )
    console.print(Text(f"\n{'recommended':<{width - 8}}   score", style="dim"))
    for reason in reasons:
        title = Text(reason["title"] or reason["item"], style="bold")
        title.truncate(width - 14, overflow="ellipsis", pad=True)
        console.print(Text.assemble(f"{reason['rank']:>4}  ", title, f"{reason['score']:>8.3f}"), no_wrap=True)
        named = [f"“{shorten(item['title'])}” {item['weight']:+.3f}" for item in reason["because"]]
        why = f"because you {reason['verb']} {', '.join(named)}" if named else "no single item of the history"
        console.print(Padding(Text(why), (0, console.width - width + 8, 0, 6)))


def print_neighbour_reasons(reasons) -> None:
    """Whom the model listens to, then each recommendation with those of them who chose it."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    width = min(console.width, WIDTH)
    neighbours, verb = reasons[0]["neighbours"], reasons[0]["verb"]
    who = f", {len(neighbours)} similar users listened to" if neighbours else ", no similar users"
    console.print(Text.assemble((headline(reasons[0]["user"]), "bold"), who))
    if neighbours:
        heads = len(neighbours[0]["heads"])
        console.print(
            Text(f"\n{'':>4}{'user':<12} weight  {'by head':<{max(heads, 7)}}  in common  {verb}", style="dim")
        )
    for one in neighbours:
        most = max(max(other["heads"]) for other in neighbours)
        levels = "".join(LEVELS[min(int(weight / most * len(LEVELS)), len(LEVELS) - 1)] for weight in one["heads"])
        titles = ", ".join(f"“{shorten(item['title'])}”" for item in one["chose"])
        line = Text(f"{'':>4}{one['user']:<12.12} {one['weight']:>6.1%}  {levels:<7}  {one['shared']:>9}  {titles}")
        line.truncate(width, overflow="ellipsis")
        console.print(line, no_wrap=True)
    console.print(Text(f"\n{'recommended':<{width - 8}}   score", style="dim"))
    for reason in reasons:
        title = Text(reason["title"] or reason["item"], style="bold")
        title.truncate(width - 14, overflow="ellipsis", pad=True)
        console.print(Text.assemble(f"{reason['rank']:>4}  ", title, f"{reason['score']:>8.3f}"), no_wrap=True)
        names = ", ".join(one["user"] for one in reason["because"])
        said = f"{names} {verb} it: {reason['share']:.0%} of the attention" if names else f"none of them {verb} it"
        console.print(Padding(Text(said), (0, console.width - width + 8, 0, 6)))


FORMS = {  # what is found in a reason -> what its parts are called, and how it is printed
    "personas": ("persona", print_reasons),
    "neighbours": ("neighbour", print_neighbour_reasons),
    "history": ("item", print_history_reasons),
}


def _why(reason):
    """ "70% Drama; because you watched …", with the second persona where it says almost as much."""
    from rich.text import Text

    first, *others = sorted(reason["personas"], key=lambda persona: -persona["weight"])
    if not first["history"]:  # a reason is something the user did
        return Text("no reason: the persona behind it stands for nothing of the history", style="dim")
    others = [persona for persona in others if persona["history"]]
    parts = [(f"{first['weight']:.0%} {first['name']}", _colour(first["persona"]))]
    if others and others[0]["weight"] > CLOSE * first["weight"]:
        parts += [", then ", (f"{others[0]['weight']:.0%} {others[0]['name']}", _colour(others[0]["persona"]))]
    titles = ", ".join(f"“{shorten(item['title'])}”" for item in reason["because"])
    parts.append(f"; because you {reason['verb']} {titles}" if titles else "; no item of the history is its own")
    return Text.assemble(*parts)


def shorten(title: str) -> str:
    return title if len(title) <= TITLE else title[: TITLE - 1].rstrip() + "…"


def _level(persona):
    from rich.text import Text

    return Text(LEVELS[min(int(persona["weight"] * len(LEVELS)), len(LEVELS) - 1)], style=_colour(persona["persona"]))


def _colour(persona: int) -> str:
    return COLOURS[persona % len(COLOURS)]


def print_faithfulness(table, part="persona") -> None:
    columns = {"taken away": "left", "score drops by": "right", "±": "right", "less than the named": "right"}
    names = dict(
        zip(table["removed"], (f"the {part} that is named", "a random vector of its length", f"another {part}"))
    )
    rows = [
        (names[row.removed], f"{row.drop:.3f}", f"{row.drop_sd:.3f}", f"{row.below_top:.0%}")
        for row in table.itertuples()
    ]
    print()
    print_table(f"what the named {part}s are worth", columns, rows)
