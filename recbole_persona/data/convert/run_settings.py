"""``NAME.yaml`` beside the atomic files: the settings with which a run reads them."""

import re
from pathlib import Path

import yaml

# What a user wrote, or what is known only after the interaction, and texts that are another name of the item: not loaded
UNLOADED = {"summary", "review", "helpful", "votes", "verified", "movie_title", "title", "artist_name", "zip_code"}


class _Dumper(yaml.SafeDumper):
    """Quotes texts that begin like a number: RecBole reads ``1e5`` as one, where YAML 1.1 does not."""


def _text(dumper, text):
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if re.match(r"[-+.\d]", text) else None)


_Dumper.add_representer(str, _text)


def write(file: Path, name: str, out: str, columns: dict[str, list[str]], form: str) -> None:
    """Write the settings.

    Args:
        out: RecBole's ``data_path``.
        columns: names by suffix.
    """
    load, unloaded = {}, []
    for suffix, names in columns.items():
        key = suffix.rpartition(".")[2]
        left_out = set() if form == "csv" else UNLOADED
        load[key] = [one for one in names if one not in left_out]
        unloaded += [one for one in names if one in left_out]
    values = {"data_path": out, "dataset": name, "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id"}
    inter = load["inter"]
    values |= {"RATING_FIELD": "rating"} if "rating" in inter else {}
    values |= {"TIME_FIELD": "timestamp"} if "timestamp" in inter else {}
    values["load_col"] = load
    if "train.inter" in columns:
        values["benchmark_filename"] = ["train", "valid", "test"]
    text = "# Made by recbole-persona convert, which writes it again; settings of your own go into another file.\n"
    if unloaded:
        text += f"# Not loaded; name in load_col what a model shall read: {', '.join(dict.fromkeys(unloaded))}\n"
    file.write_text(text + yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")
