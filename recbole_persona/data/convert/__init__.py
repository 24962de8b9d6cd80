"""Atomic files from other people's forms.

:func:`convert` reads a form and writes ``OUT/NAME/NAME.inter`` (and ``.user``, ``.item``), which RecBole finds with
``data_path: OUT`` and ``dataset: NAME``.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from recbole_persona.data.convert import (
    amazon,
    lastfm,
    lexicon,
    movielens,
    reviews,
    run_settings,
    sequences,
    split,
    table,
)
from recbole_persona.data.convert.atomic import fingerprint, is_whole, read_manifest, replaced_together
from recbole_persona.data.convert.lines import Lines
from recbole_persona.errors import UserError

FORMS = {
    "csv": table,
    "movielens": movielens,
    "amazon": amazon,
    "reviews": reviews,
    "sequences": sequences,
    "lastfm": lastfm,
    "split": split,
}
VERSION = "recbole_persona.convert/4"  # of the manifest, and of what convert makes from an input


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        folder: holds the files.
        users, items, interactions: how many occur in ``.inter``, all parts together.
        columns: column names by suffix.
        n_left_out: number of bad lines that were left out.
        left_out: the first of them, "FILE, line N: why".
        fresh: false when the files of an earlier run were found whole, and nothing was done.
        notes: what else a form tells of its work, by name.
    """

    folder: Path
    users: int
    items: int
    interactions: int
    columns: dict[str, list[str]]
    n_left_out: int
    left_out: list[str]
    fresh: bool
    notes: dict = field(default_factory=dict)


def convert(form, source, out="dataset", name=None, on_error="refuse", nouns=None, keys=None, **options) -> Conversion:
    """Write the atomic files of one data set; do nothing if they stand there already, made from the same input.

    Args:
        form: a key of ``FORMS``.
        source: the folder (movielens) or file to read; for ``csv`` also a DataFrame, which needs a ``name``.
        out: folder of data sets, RecBole's ``data_path``.
        name: of the data set; the name of ``source`` without its endings if None.
        on_error: ``refuse`` (a bad line ends it, nothing is written) or ``keep`` (bad lines are left out and counted).
        nouns: for ``reviews``, what tells nouns from other words: ``wordnet`` or ``patterns``; the first if installed when None.
        keys: for ``reviews``, names of keys by ``user``, ``item``, ``text``, ``rating``, ``time``; else Amazon's.
        options: further input files, as the ``inputs`` of the form takes them; for ``csv`` also DataFrames, and what
            ``table.convert`` takes.

    Raises:
        UserError: a bad line, a missing or damaged file, a full disk; what stood in the folder is whole.
    """
    module, source = FORMS[form], _input(source)
    options = {key: value for key, value in options.items() if value is not None}
    settings = {key: options.pop(key) for key in getattr(module, "SETTINGS", ()) if key in options}
    files = {key: _input(given) for key, given in options.items()}
    frames = [given for given in (source, *files.values()) if isinstance(given, pd.DataFrame)]
    if frames and form != "csv":
        raise UserError(f"A DataFrame is converted with the form csv, not {form}.")
    if on_error not in ("refuse", "keep"):
        raise UserError(f"--on-error is refuse or keep, not {on_error!r}.")
    if form == "reviews":
        keys = {key: name for key, name in (keys or {}).items() if name is not None}
        settings = {"nouns": lexicon.chosen(nouns), **({"keys": keys} if keys else {})}
    if isinstance(source, pd.DataFrame) and not name:
        raise UserError("Name the data set that is made of a DataFrame, as name='shop'.")
    name = _checked_name(name or _stem(source))
    folder = Path(out) / name
    inputs = module.inputs(source, **files)
    for path in inputs:
        if not path.is_file():
            raise UserError(f"There is no file {path}.")
    manifest = {
        "format": VERSION,
        "form": form,
        "options": {
            "on_error": on_error,
            "out": str(out),
            **settings,
            **{key: given.name for key, given in files.items() if isinstance(given, Path)},
        },
        "inputs": [{"file": path.name, **fingerprint(path)} for path in inputs],
    }
    old = None if frames else read_manifest(folder, name)
    if old and all(old.get(key) == value for key, value in manifest.items()) and is_whole(folder, old):
        return Conversion(folder, **old["result"], fresh=False)
    lines = Lines(on_error == "keep")
    with replaced_together(folder, name, manifest) as tables:
        notes = module.convert(source, lines, tables, **settings, **files)
        if not tables.interactions:
            why = f" (the first bad line: {lines.left_out[0]})" if lines.left_out else ""
            what = source if isinstance(source, Path) else "The table"
            raise UserError(f"{what} holds no interaction that can be read{why}; nothing was written.")
        for suffix, count in tables.repeated.items():
            notes = {**(notes or {}), f".{suffix}: rows of an id that has one, left out": count}
        result = manifest["result"] = {
            "users": len(tables.users),
            "items": len(tables.items),
            "interactions": tables.interactions,
            "columns": {suffix: list(table.columns) for suffix, table in tables.files.items()},
            "n_left_out": lines.n_left_out,
            "left_out": lines.left_out,
            **({"notes": notes} if notes else {}),
        }
        run_settings.write(tables.folder / f"{name}.yaml", name, str(out), result["columns"], form)
    return Conversion(folder, **manifest["result"], fresh=True)


def _input(given):
    return given if isinstance(given, pd.DataFrame) else Path(given)


def _stem(source) -> str:
    """``reviews_Beauty_5`` of ``reviews_Beauty_5.json.gz``; the name of a folder as it is."""
    source = source.resolve()
    return source.name if source.is_dir() else source.name.partition(".")[0]


def _checked_name(name) -> str:
    if name == "ml-100k":
        raise UserError("RecBole reads its own copy under the name ml-100k; give another, as --name=ml-100k-own.")
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
        raise UserError(f"A data set cannot be named {name!r}; choose a --name without slashes.")
    return name
