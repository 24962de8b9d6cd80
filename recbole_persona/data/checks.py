"""Faults of atomic files, and of settings that do not fit them, in one sentence that names the file and the line.

RecBole would fill an empty rating with the mean, drop a row without an item, leave out a column that a typo asks
for, or end in a traceback. Before it reads, only the headers are looked at; the values are looked at where RecBole has
just read them, and only a file with a fault is read again: a clean one costs a few per cent of its reading.
"""

import csv
import math
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from recbole.data.dataset import Dataset
from recbole.utils import FeatureSource, FeatureType, ModelType

from recbole_persona.data import columns, ids, texts
from recbole_persona.data.missing_parts import asks_for, part_files
from recbole_persona.data.reads import check_reads
from recbole_persona.errors import UserError, one_sentence
from recbole_persona.unused import mentions

# The words that pandas reads as an empty cell, besides nothing at all.
_MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip


_READS_FEATURES = r"\bnumerical_features\b|\bFeatureSeqEmbLayer\b"  # in the code of a model


@contextmanager
def checked_reading(config):
    """Around ``create_dataset`` and ``data_preparation``: what they cannot read or split becomes a UserError.

    Raises:
        UserError: see :func:`check_atomic_files`; and an empty or unreadable cell, nothing left after the filters.
    """
    check_atomic_files(config)
    if config["val_interval"] and not config["benchmark_filename"]:  # data that come split are not filtered
        columns.check_intervals(config)
    upstream = Dataset._data_processing

    def processing(dataset):
        _check_interactions(dataset)
        _check_features(dataset)
        ids.tell_of_unknown(dataset)
        upstream(dataset)
        ids.tell_of_idle(dataset)

    try:
        with patch.object(Dataset, "_data_processing", processing):
            yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        encoding = config["encoding"] or "UTF-8"
        raise UserError(f"The data set {config['dataset']!r} is not {encoding} text; set --encoding=….") from error
    except (ValueError, KeyError, IndexError, AssertionError, TypeError, AttributeError, RuntimeError) as error:
        if fault := _first_fault(config):
            raise UserError(fault) from error
        if "num_samples" in str(error):  # of torch's sampler
            raise UserError(_nothing_to("train", config)) from error
        if "feat is empty" in str(error):
            raise UserError(
                f"Nothing of the data set {config['dataset']!r} is left after filtering; "
                f"loosen {_filters(config) or 'the filters'}."
            ) from error
        raise UserError(
            f"The data set {config['dataset']!r} does not fit these settings: {one_sentence(error)}"
        ) from error


def check_atomic_files(config) -> None:
    """Look at the headers of every atomic file that the run will read.

    Raises:
        UserError: a missing, empty or header-less file, a file without rows, a column that is needed and not there, or
            what :func:`~recbole_persona.data.reads.check_reads` refuses.
    """
    headers, loaded = {}, {}
    for path, suffix in columns.read_files(config):
        fields = dict(columns.header(path, config))
        wanted = columns.wanted(config, suffix)
        if wanted and columns.unwanted(config, suffix):
            raise UserError(f"load_col and unload_col both name columns of {suffix!r}; keep one of the two.")
        headers.setdefault(suffix, fields)
        loaded[suffix] = {
            field: kind for field, kind in headers[suffix].items() if columns.is_loaded(config, suffix, field)
        }
        for field in wanted if wanted is not None else ():
            if field not in fields:
                missing = columns.lacking(config, columns.AtomicFile(path, suffix, fields), field)
                raise UserError(f"load_col names {field!r} for {suffix!r}, and {missing}.")
        for key in columns.needed(config, suffix):
            field = config[key]
            if field not in loaded[suffix]:
                missing = columns.lacking(config, columns.AtomicFile(path, suffix, fields), field)
                raise UserError(f"The {key} is {field!r}, and {missing}.")
            expected = "float" if key == "TIME_FIELD" else "token"
            if fields[field] != expected:
                raise UserError(f"The column {field!r} of {path} must be of type {expected}; it is {fields[field]!r}.")
        if suffix == "inter" and config["MODEL_TYPE"] == ModelType.SEQUENTIAL and config["benchmark_filename"]:
            _check_lists(config, path, fields)
    check_reads(config, headers, loaded)


def check_split(config, loaders) -> None:
    """Refuse a split that leaves nothing to train on, or to test on where it should, and a cut-off beyond the items.

    One warning counts the pairs of user and item that a random split has put on both sides.

    Args:
        loaders: of training, validation and test.

    Raises:
        UserError: one of these.
    """
    parts = [loader._dataset for loader in loaders]
    train, _, test = parts
    for name, part in (("train", train), ("test", test)):
        if len(part) == 0 and asks_for(name, config):
            raise UserError(_nothing_to(name, config))
    items = train.item_num - 1
    if max(config["topk"]) > items:
        raise UserError(f"topk is {max(config['topk'])}, and the data set {config['dataset']!r} has {items} items.")
    if config["eval_args"]["order"] == "RO" and not config["benchmark_filename"]:
        _tell_of_pairs_on_both_sides(train, *parts[1:])


def _tell_of_pairs_on_both_sides(train, valid, test):
    """Say how many pairs of user and item stand in training and again in validation or test.

    By the order of time (``TO``, and so for every sequential model) such a pair is a thing bought or heard again, which
    had still to come when the model was trained. Under a random split it is a held-out row that the model was trained on.
    """
    known, *held_out = (
        pd.Series(part.inter_feat[part.uid_field].numpy() * part.item_num + part.inter_feat[part.iid_field].numpy())
        for part in (train, valid, test)
    )
    in_valid, in_test = (
        set(pairs[pairs.isin(known)]) for pairs in held_out
    )  # by hash: sorting takes ten times as long
    if in_valid or in_test:
        train.logger.warning(
            f"{len(in_valid | in_test)} pairs of user and item stand in training and again in validation "
            f"({len(in_valid)}) or test ({len(in_test)}), because the data repeat them and the split is random; "
            "rm_dup_inter: first (or last) keeps each once, and order: TO in eval_args splits by time."
        )


def _check_lists(config, path, fields):
    """Data that come split bring the histories, in columns of lists."""
    suffix = config["LIST_SUFFIX"]
    items = config["ITEM_ID_FIELD"] + suffix
    if items not in fields:
        raise UserError(
            f"{config['model']} reads histories, and {path} has no column {items!r} of type token_seq; data that come split "
            "(benchmark_filename) need them, all others need times alone."
        )
    alias = f"alias_of_{config['ITEM_ID_FIELD']}"
    if items not in (config[alias] or ()):
        raise UserError(
            f"The items in {items} would be numbered apart from those in {config['ITEM_ID_FIELD']}; set {alias}: [{items}]."
        )
    for field, kind in fields.items():
        expected = {"token": "token_seq", "float": "float_seq"}.get(fields.get(field.removesuffix(suffix)))
        if field.endswith(suffix) and expected and kind != expected:
            raise UserError(f"The column {field!r} of {path} must be of type {expected}; it is {kind!r}.")


def _check_list_lengths(dataset):
    """Lists that came with the data must fit the model, and those of a row each other."""
    config, frame = dataset.config, dataset.inter_feat
    suffix, longest = config["LIST_SUFFIX"], config["MAX_ITEM_LIST_LENGTH"]
    items = dataset.iid_field + suffix
    if items not in frame:
        return
    lengths = frame[items].map(len)
    if (lengths == 0).any():
        raise UserError(
            f"{_place(dataset, int(np.argmax(lengths.to_numpy() == 0)))} has no item in {items}; "
            "leave out rows without a history."
        )
    if lengths.max() > longest:
        raise UserError(
            f"{items} holds lists of up to {lengths.max()} items, and MAX_ITEM_LIST_LENGTH is {longest}; set it to "
            f"{lengths.max()}, or cut the lists to their newest {longest} items."
        )
    for field in frame:
        if field.endswith(suffix) and field.removesuffix(suffix) in frame and field != items:
            other = frame[field].map(len)
            if (other != lengths).any():
                row = int(np.argmax(other.to_numpy() != lengths.to_numpy()))
                raise UserError(
                    f"Row {row + 1} of the interactions has {lengths.iloc[row]} items in {items} and {other.iloc[row]} "
                    f"values in {field}; the lists of a row must be equally long."
                )


def tell_of_numbers(dataset) -> None:
    """Name the columns of numbers that a model of features leaves out, since ``numerical_features`` does not name them.

    RecBole's models pass over them. Columns that are read for another purpose are none: labels, times, ratings, vectors that
    are preloaded, what filters and metrics read. Histories of a column that is named are none, either.
    """
    config = dataset.config
    if not mentions(config.model_class, _READS_FEATURES) or config["MODEL_TYPE"] == ModelType.DECISIONTREE:
        return
    roles = {config[f"{role}_FIELD"] for role in ("LABEL", "TIME", "RATING")}
    roles |= {*(config["preload_weight"] or {}).values(), *(config["val_interval"] or ())}
    roles |= {str(config[key]).removeprefix("field:") for key in ("tdd_tastes", "ild_ruler")}
    numbers = dataset.fields(
        ftype=[FeatureType.FLOAT, FeatureType.FLOAT_SEQ],
        source=[FeatureSource.INTERACTION, FeatureSource.USER, FeatureSource.ITEM],
    )
    known, suffix = roles.union(config["numerical_features"] or ()), config["LIST_SUFFIX"]
    left_out = [field for field in numbers if not {field, field.removesuffix(suffix)} & known]
    left_out = [field for field in left_out if not (field.endswith(suffix) and field.removesuffix(suffix) in left_out)]
    chosen = config["selected_features"]
    left_out = [field for field in left_out if chosen is None or field in chosen]
    if left_out:
        dataset.logger.warning(
            f"{config['model']} does not use the columns {', '.join(left_out)}, which hold numbers: numerical_features "
            "does not name them."
        )


def _place(dataset, row) -> str:
    """A row of all ready-made parts, counted from 0, as the file and the row in it."""
    config = dataset.config
    for part, size in zip(part_files(config), dataset.file_size_list):
        if row < size:
            return f"Row {row + 1} below the header of {Path(config['data_path']) / config['dataset']}.{part}.inter"
        row -= size
    raise IndexError(row)


def _nothing_to(what, config) -> str:
    return (
        f"The split of {config['dataset']!r} leaves nothing to {what} on: its users have too few interactions "
        f"for {config['eval_args']['split']}; change split in eval_args or add data."
    )


def _check_interactions(dataset):
    """Refuse interactions without a user, an item or a number, which RecBole would drop or fill in."""
    frame = dataset.inter_feat
    bad = np.zeros(len(frame), dtype=bool)
    for field in frame:
        if dataset.field2type[field] == FeatureType.FLOAT:
            bad |= ~np.isfinite(frame[field].to_numpy())
        elif field in (dataset.uid_field, dataset.iid_field):
            bad |= frame[field].isna().to_numpy()
    if bad.any():
        row = int(np.argmax(bad)) + 2
        raise UserError(_first_fault(dataset.config) or f"Row {row} of the interactions has an empty cell.")
    if dataset.config["MODEL_TYPE"] == ModelType.SEQUENTIAL and dataset.config["benchmark_filename"]:
        _check_list_lengths(dataset)


def _check_features(dataset):
    """Refuse a numerical feature without a single value: RecBole would fill the column with the mean of nothing."""
    for suffix in ("user", "item"):
        table = getattr(dataset, f"{suffix}_feat")
        for field in dataset.config["numerical_features"] or ():
            if table is not None and field in table and dataset.field2type[field] == FeatureType.FLOAT:
                if len(table) and table[field].isna().all():
                    raise UserError(
                        f"The column {field!r} of {dataset.dataset_name}.{suffix} has no value at all; leave it out of "
                        "numerical_features."
                    )


def _first_fault(config) -> str | None:
    """The first cell that cannot be read, as a sentence; None when every file is well. Reads the files line by line."""
    for path, suffix in columns.read_files(config):
        header = columns.header(path, config)
        loaded = {
            place: (field, kind)
            for place, (field, kind) in enumerate(header)
            if columns.is_loaded(config, suffix, field)
        }
        required = {config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]} if suffix == "inter" else set()
        raw = any(kind == columns.TEXT or field in texts.named(config) for field, kind in header)
        for line, cells in _rows(path, config, raw):
            for place, (field, kind) in loaded.items():
                cell = cells[place] if place < len(cells) else ""
                strict = field in required or (suffix == "inter" and kind == "float")
                if fault := _cell_fault(cell, kind, strict, config["seq_separator"]):
                    return f"{path}, line {line}: the {field} is {fault}."
    return None


def _rows(path, config, raw):
    """``(line number, cells)`` of every row but the header and blank lines; ``raw``: quotes are quotes, as beside texts."""
    separator = config["field_separator"]
    with open(path, encoding=config["encoding"], newline="\n" if raw else "") as file:
        if raw or len(separator) > 1:
            rows = ((number, line.rstrip("\r\n").split(separator)) for number, line in enumerate(file, 1))
        else:
            reader = csv.reader(file, delimiter=separator)
            rows = ((reader.line_num, cells) for cells in reader)
        for number, cells in rows:
            if number > 1 and cells not in ([], [""]):
                yield number, cells


def _cell_fault(cell, kind, strict, seq_separator) -> str | None:
    if kind == "token":
        return f"empty ({cell!r} is read as an empty cell)" if strict and cell in _MISSING else None
    if kind in ("token_seq", columns.TEXT):
        return None
    for number in cell.split(seq_separator) if kind == "float_seq" else [cell]:
        if number.strip() in _MISSING:
            if strict:
                return "empty" if not number.strip() else f"no number but {number!r}"
            continue
        try:
            value = float(number)
        except ValueError:
            return f"no number but {number!r}"
        if strict and not math.isfinite(value):
            return f"no number but {number!r}"
    return None


def _filters(config) -> str:
    """The filters that are set, as text."""
    keys = ("val_interval", "user_inter_num_interval", "item_inter_num_interval")
    named = [f"{key} ({config[key]})" for key in keys if config[key] not in (None, False, "[0,inf)")]
    if config["filter_inter_by_user_or_item"] is True and any(
        suffix in ("user", "item") for _, suffix in columns.read_files(config)
    ):
        named.append("filter_inter_by_user_or_item (only users and items of the .user and .item files stay)")
    return ", ".join(named)
