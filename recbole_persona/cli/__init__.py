"""The command line: ``recbole-persona <sub-command> …``, one module per sub-command.

A sub-command module has ``add_arguments(parser)`` and ``main(arguments) -> exit status``. A mistake of the user ends with one
sentence and status 2.
"""

import argparse
import errno
import importlib
import os
import re
import sys

from recbole_persona.errors import UserError

COMMANDS = {
    "run": "train and test one model",
    "evaluate": "test a finished run again",
    "recommend": "top items for users of a finished run, or for a new history",
    "explain": "say why: the persona and the history behind each recommendation",
    "generate": "sentences of a finished run, for pairs of users and items or for held-out rows",
    "export": "vectors of users, items and personas, for other programs",
    "tune": "search for the best settings",
    "leaderboard": "compare models under one protocol, with statistics, on a page",
    "convert": "make atomic files of your own table (CSV, Parquet), MovieLens, Amazon and others",
    "doctor": "versions, what is repaired, what is missing",
}
EXAMPLES = {
    "run": (
        "--model=AMPCF --dataset=ml-100k --epochs=20 --run_dir=runs/films",
        "--model=SASRec --dataset=ml-100k --metrics=[NDCG,Recall] --topk=[5,10]",
    ),
    "evaluate": ("--run=runs/films", "--run=runs/films --topk=[1,5] --json"),
    "recommend": ("--run=runs/films --user=196,186 --topk=5", "--run=runs/films --all --out=lists.csv"),
    "explain": ("--run=runs/films --user=196 --topk=5", "--run=runs/films --history=50,181,172 --json"),
    "generate": ("--run=runs/DIR --user=u1 --item=i751,i822", "--run=runs/DIR --split=test --out=texts.jsonl --resume"),
    "export": ("--run=runs/films --out=vectors", "--run=runs/films --out=vectors --format=parquet"),
    "tune": (
        "--model=AMPCF --dataset=ml-100k --trials=30 --workers=2",
        "--model=BPR --dataset=ml-100k --space=space.yaml --storage=sqlite:///study.db --resume",
    ),
    "leaderboard": ("board.yaml --workers=2", "board.yaml --print"),
    "convert": (
        "csv ratings.csv --user=customer --item=product --rating=stars --time=bought_at",
        "movielens ml-1m --name=films",
    ),
    "doctor": ("", "--repairs"),
}
PAGES = {
    "run": "docs/config.md lists the settings, docs/runs.md what a run folder holds",
    "evaluate": "docs/protocols.md",
    "recommend": "docs/serving.md",
    "explain": "docs/explain.md",
    "generate": "docs/generate.md",
    "export": "docs/serving.md",
    "tune": "docs/tune.md, docs/space.md",
    "leaderboard": "docs/leaderboard.md",
    "convert": "docs/data.md",
    "doctor": "docs/upstream.md",
}


def main(argv=None) -> int:
    """Run one command line; returns the exit status (0 well, 2 a mistake of the user, 130 interrupted)."""
    if argv is None:
        sys.path.append(os.getcwd())  # --model=my_model:MyModel finds a file in the working folder
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version"):
        argv.insert(0, "run")  # as RecBole's users type it: run_recbole_persona.py --model=…
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"recbole-persona: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"recbole-persona: {str(interrupt) or 'interrupted; every file is whole.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone (`… | head`): nothing more to say
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"recbole-persona: {error.strerror}{where}; files written before are whole.", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """An argument parser whose faults are one sentence; an option must be written out."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, allow_abbrev=False, **settings)

    def error(self, message):
        raise UserError(f"{_without_urls(message)}; see {self.prog} --help.")


def _without_urls(text: str) -> str:
    """What was typed, up to a URL: a mistyped --storage shows no password."""
    return re.sub(r"[^\s'\"=]*(?:://|:\S*@).*", "***", text, flags=re.DOTALL)


def _dispatch(argv) -> int:
    parser = _Parser("recbole-persona", description="Personalised recommendation that can say why.")
    parser.add_argument("--version", action="store_true", help="print the version and end")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name, purpose in COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    known, rest = parser.parse_known_args(argv)
    if known.version:
        from recbole_persona.runs import versions

        print(f"recbole-persona {versions()['recbole_persona']}")
        return 0
    if known.command is None:
        parser.print_help()
        return 0
    module = importlib.import_module(f"recbole_persona.cli.{known.command}")
    command = command_parser(known.command)
    arguments, settings = command.parse_known_args(rest)
    if settings and not getattr(module, "takes_settings", False):
        command.error(f"unrecognised arguments: {' '.join(settings)}")
    arguments.settings = parse_settings(settings)
    return module.main(arguments)


def command_parser(command: str) -> argparse.ArgumentParser:
    """The parser of a sub-command; its help ends with two examples and the page that tells more."""
    module = importlib.import_module(f"recbole_persona.cli.{command}")
    lines = [f"  recbole-persona {command} {example}".rstrip() for example in EXAMPLES[command]]
    parser = _Parser(
        f"recbole-persona {command}",
        description=module.__doc__,
        epilog="\n".join(["examples:", *lines, "", f"more: {PAGES[command]}"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def parse_settings(arguments: list[str]) -> dict:
    """``--key=value`` or ``--key value`` (a bare ``--key`` is true) as RecBole's users type settings.

    Values are read as literals; a list may have lost its quotes to the shell.

    Raises:
        UserError: another form, or one key with two values.
    """
    from recbole_persona.config import typed

    settings, rest = {}, list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise UserError(
                f"Cannot read {_without_urls(argument)!r}; write settings as --key=value, lists as --key=[a,b]."
            )
        if not equals and rest and _is_value(rest[0]):
            equals, value = True, rest.pop(0)
        value = typed(value) if equals else True
        if settings.setdefault(key, value) != value:
            both = _without_urls(f"{settings[key]!r} and {value!r}")
            raise UserError(f"--{key} is given twice, as {both}.")
    return settings


def _is_value(argument: str) -> bool:
    """Whether an argument behind a bare ``--key`` is its value; a negative number is one."""
    return not argument.startswith("-") or re.match(r"-[\d.]", argument) is not None
