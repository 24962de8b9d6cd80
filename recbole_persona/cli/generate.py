"""Sentences of a finished run: recbole-persona generate --run=DIR --user=u1 --item=i7,i9 [--key=value …].

For pairs that are named (--user and --item, or --pairs), or for the rows of a part of the split, whose references stand beside
what is written. --out writes JSON lines as they are made, --resume goes on with them. The same settings give the same text.
In a list of ids, one with a comma stands in double quotes, as in CSV: --user='"Smith, J.",186'.
"""

from recbole_persona.cli.recommend import listed
from recbole_persona.cli.tables import add_run, print_table

takes_settings = True


def add_arguments(parser) -> None:
    add_run(parser)
    parser.add_argument("--task", default="explanation", help="what is asked for (explanation)")
    parser.add_argument("--user", metavar="ID,ID", help="external user ids, side by side with --item")
    parser.add_argument(
        "--item", "--items", metavar="ID,ID", help="external item ids; one user goes with all, one item too"
    )
    parser.add_argument("--pairs", metavar="FILE", help="CSV, tab-separated or .jsonl with columns user and item")
    parser.add_argument("--split", metavar="PART", help="valid or test: its rows that have a text")
    parser.add_argument("--beams", type=int, metavar="N", help="beams of a sentence (the run's text_beams)")
    parser.add_argument("--sample", action="store_true", help="draw sentences by chance")
    parser.add_argument("--temperature", type=float, metavar="T", help="with --sample: below 1 likelier words (1)")
    parser.add_argument("--top_p", type=float, metavar="P", help="with --sample: the likeliest words up to P (1)")
    parser.add_argument("--seed", type=int, metavar="N", help="with --sample: of the drawing (the run's)")
    parser.add_argument("--out", metavar="FILE", help="write JSON lines, row by row")
    parser.add_argument("--resume", action="store_true", help="go on behind the last whole line of --out")


def main(arguments) -> int:
    from recbole_persona.errors import UserError
    from recbole_persona.runner.generation import generate, generate_file

    names = ("pairs", "split", "beams", "sample", "temperature", "top_p", "seed")
    options = {name: getattr(arguments, name) for name in names} | {"config_dict": arguments.settings}
    options["trust"] = arguments.trust
    asked = arguments.run, listed(arguments.user), listed(arguments.item), arguments.task
    if arguments.out:
        written = generate_file(arguments.out, *asked, resume=arguments.resume, **options)
        print(f"{written} rows written to {arguments.out}")
        return 0
    if arguments.resume:
        raise UserError("--resume goes on with a file; name it with --out.")
    table = generate(*asked, **options)
    columns = {name: "right" if name == "rating" else "left" for name in table if name != "task"}
    print_table(arguments.task, columns, list(table[list(columns)].itertuples(index=False, name=None)))
    return 0
