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
    "convert": "make atomic files from MovieLens, Amazon and sequence files",
    "doctor": "versions, what is repaired, what is missing",
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

        print(versions()["recbole_persona"])
        return 0
    if known.command is None:
        parser.print_help()
        return 0
    module = importlib.import_module(f"recbole_persona.cli.{known.command}")
    command = _Parser(
        f"recbole-persona {known.command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(command)
    arguments, settings = command.parse_known_args(rest)
    if settings and not getattr(module, "takes_settings", False):
        command.error(f"unrecognised arguments: {' '.join(settings)}")
    arguments.settings = parse_settings(settings)
    return module.main(arguments)


def parse_settings(arguments: list[str]) -> dict:
    """``--key=value`` (or a bare ``--key`` for true) as RecBole's users type settings; values are read as literals.

    Raises:
        UserError: another form, or one key with two values.
    """
    from recbole_persona.config import literal

    settings = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise UserError(f"Cannot read {_without_urls(argument)!r}; write settings as --key=value.")
        value = literal(value) if equals else True
        if settings.setdefault(key, value) != value:
            both = _without_urls(f"{settings[key]!r} and {value!r}")
            raise UserError(f"--{key} is given twice, as {both}.")
    return settings
