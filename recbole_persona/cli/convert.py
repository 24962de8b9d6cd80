"""Make atomic files: recbole-persona convert FORM INPUT [--out=DIR] [--name=NAME] [--on-error=refuse|keep].

recbole-persona convert FORM --help tells the options of one form. `convert checkpoint OLD.pth NEW.safetensors` makes a
safe file of a checkpoint that RecBole pickled.
"""

import shlex
import sys

from recbole_persona.cli.tables import print_table

FORMS = {
    "csv": "any table: CSV, TSV, other separators, plain or gz, or Parquet; its columns are named",
    "movielens": "a MovieLens folder: ml-100k, ml-1m, ml-10m, or the csv form",
    "amazon": "Amazon reviews, JSON lines, plain or gz: 2014, 2018, 2023",
    "reviews": "the same reviews: of each one sentence that explains, and the feature that it names",
    "sequences": "lines of `user item item …`, or of `user item` pairs, plain or gz",
    "lastfm": "plays of LastFM: user, artist, plays, separated by tabs",
    "split": "interactions that come split: a table with the columns user, item, split, or one for each part",
}
FILES = {
    "csv": {"items": "table of items, with the same column of ids", "users": "table of users, likewise"},
    "movielens": {},
    "amazon": {"items": "item metadata, JSON lines"},
    "reviews": {"items": "item metadata, JSON lines"},
    "sequences": {
        "times": "lines of `user seconds seconds …` since the item before; the position is the time without it",
        "attributes": "JSON object of attribute ids by item",
        "attribute-names": "table with a header: attribute, name",
        "titles": "table with a header: item, title",
    },
    "lastfm": {"items": "table with a header: artist, name"},
    "split": {"valid": "table of the validation part, INPUT being that of training", "test": "table of the test part"},
}
COLUMNS = {
    "rating": "column of ratings",
    "time": "column of times: seconds, or ISO dates; a date without a zone is UTC",
    "keep": "further columns that are written, separated by commas; NAME:token, NAME:float or NAME:token_seq sets the type",
    "missing-rating": "a row without a rating: refuse (default), drop, or empty (an empty cell)",
    "separator": "one sign, or tab (default: found from the first line)",
    "encoding": "of the files (default: utf-8)",
}  # of a table
KEYS = ("user", "item", "text", "rating", "time")  # of a review


def add_arguments(parser) -> None:
    forms = parser.add_subparsers(dest="form", metavar="FORM", required=True)
    for form, purpose in FORMS.items():
        options = forms.add_parser(form, help=purpose, description=purpose)
        options.add_argument("source", metavar="INPUT", help="the folder" if form == "movielens" else "the file")
        options.add_argument("--out", default="dataset", metavar="DIR", help="folder of data sets (default: dataset)")
        options.add_argument("--name", help="name of the data set (default: that of the input)")
        options.add_argument(
            "--on-error",
            choices=("refuse", "keep"),
            default="refuse",
            help="a bad line: refuse (default) writes nothing; keep writes the rest and counts the bad lines",
        )
        for name, meaning in FILES[form].items():
            options.add_argument(f"--{name}", metavar="FILE", help=meaning)
        if form == "csv":
            for name in ("user", "item"):
                options.add_argument(f"--{name}", metavar="COLUMN", required=True, help=f"column of {name}s")
            for name, meaning in COLUMNS.items():
                options.add_argument(f"--{name}", help=meaning)
        if form == "reviews":
            options.add_argument(
                "--nouns", help="what tells nouns from other words: wordnet (default where it is installed) or patterns"
            )
            for key in KEYS:
                options.add_argument(f"--{key}", metavar="KEY", help=f"key of the {key} (default: as Amazon names it)")
    checkpoint = forms.add_parser("checkpoint", help="a checkpoint of RecBole (.pth) as a safe file")
    checkpoint.add_argument("source", metavar="OLD.pth")
    checkpoint.add_argument("target", metavar="NEW.safetensors")


def main(arguments) -> int:
    if arguments.form == "checkpoint":
        from recbole_persona.upstream.pickled import convert_checkpoint

        convert_checkpoint(arguments.source, arguments.target)
        print(f"{arguments.target} was written; RecBole's load_data_and_model reads it.")
        return 0

    from recbole_persona.data.convert import convert

    files = {key: getattr(arguments, key) for key in (name.replace("-", "_") for name in FILES[arguments.form])}
    if arguments.form == "csv":
        files |= {"user": arguments.user, "item": arguments.item}
        files |= {key: getattr(arguments, key) for key in (name.replace("-", "_") for name in COLUMNS)}
    if arguments.form == "reviews":
        files |= {"nouns": arguments.nouns, "keys": {key: getattr(arguments, key) for key in KEYS}}
    done = convert(arguments.form, arguments.source, arguments.out, arguments.name, arguments.on_error, **files)
    rows = [(key, f"{getattr(done, key):,}") for key in ("users", "items", "interactions")]
    rows += [(f".{suffix}", ", ".join(columns)) for suffix, columns in done.columns.items()]
    rows += [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in done.notes.items()]
    print_table(done.folder.name, {"": "left", "count or columns": "left"}, rows)
    print(
        f"folder: {done.folder}" + ("" if done.fresh else " (complete already, from the same input; nothing was done)")
    )
    if done.n_left_out:
        _tell_left_out(done)
    if all("timestamp" not in columns for columns in done.columns.values()):
        print("no times: a sequential model (SASRec, POD) cannot train on it")
    settings = shlex.quote(str(done.folder / f"{done.folder.name}.yaml"))
    print(f"train on it: recbole-persona run --config_files={settings} --model=AMPCF")
    return 0


def _tell_left_out(done) -> None:
    count = "1 bad line was" if done.n_left_out == 1 else f"{done.n_left_out:,} bad lines were"
    print(f"{count} left out" + (", the first:" if done.n_left_out > 1 else ":"), file=sys.stderr)
    for fault in done.left_out:
        print(f"  {fault}", file=sys.stderr)
