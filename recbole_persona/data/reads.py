"""What a model reads of the data, asked of the headers of the files before the data are read."""

import re

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, InputType, ModelType

from recbole_persona.data import columns
from recbole_persona.errors import UserError
from recbole_persona.registry import METRICS
from recbole_persona.unused import mentions, source

_RULERS = {"data.tastes": "tdd_tastes", "data.item_profiles": "ild_ruler"}  # config key by what a metric needs
NEGATIVES = (
    "The loss of {model} compares an item with a negative one, and train_neg_sample_args draws none; leave it out, or set "
    "train_neg_sample_args: {{distribution: uniform, sample_num: 1}}."
)


def check_reads(config, headers, loaded) -> None:
    """Refuse data and settings that do not give the model what it reads.

    Args:
        headers: ``{suffix: {field: type}}``, the columns of every file.
        loaded: those of them that are loaded, in the same form.

    Raises:
        UserError: negatives, labels, item features or histories that are missing or of a type that cannot be used.
    """
    _check_negatives(config)
    _check_labels(config, loaded.get("inter", {}))
    for key in ("selected_features", "item_attribute"):
        if mentions(config.model_class, rf"config\[[\"']{key}[\"']\]"):
            _check_features(config, key, loaded.get("item", {}))
    _check_named(config, loaded)
    _check_metrics(config, loaded)
    _check_negative_lists(config, loaded.get("inter", {}))
    _check_preloaded(config, headers, loaded)


def which_lacks(config, field) -> str:
    """A sentence for a column that a model asked for and did not get."""
    keys = [
        key for key, value in config.final_config_dict.items() if value == field or (_is_list(value) and field in value)
    ]
    named = f" ({', '.join(keys)})" if keys else ""
    column = field.removesuffix(config["LIST_SUFFIX"])  # the lists of a history are made of it
    return f"{config['model']} reads {field!r}{named}, and {columns.absent(config, column)}."


def lacks_labels(config, why="") -> str:
    """A sentence for labels that are read and that the data do not have, by what reads them: ``why``, and else the model."""
    label, rating = config["LABEL_FIELD"], config["RATING_FIELD"]
    fields = next(one.fields for one in columns.all_files(config) if one.suffix == "inter")
    remedies = []
    if fields.get(rating) == "float":
        load = "" if columns.is_loaded(config, "inter", rating) else f" {columns.loading(config, 'inter', rating)}"
        remedies.append(f"set {columns.option('threshold', {rating: 3})}{load} to make labels of ratings")
    if why.startswith("train"):
        remedies.append("set train_neg_sample_args: {distribution: uniform, sample_num: 1}")
    elif why.startswith("mode"):
        remedies.append("set mode in eval_args to uni100, which draws negatives")
    since, also = f", since {why}" if why else "", "; or " if label in fields else "; "
    remedy = also + "; or ".join(remedies) if remedies else ""
    return f"{config['model']} needs labels{since}, and {columns.absent(config, label, 'inter')}{remedy}."


def _is_list(value) -> bool:
    return isinstance(value, (list, tuple))


def _draws(config) -> bool:
    return config["train_neg_sample_args"]["distribution"] != "none"


def _own_code_has(config, pattern) -> bool:
    """Whether the model's class, without what it extends, has the pattern; False where its code cannot be found."""
    return bool(re.search(pattern, source(config.model_class) or ""))


def _check_negatives(config):
    """A pairwise loss reads negatives; what is computed or trained by user has the type and reads none."""
    if config["MODEL_INPUT_TYPE"] != InputType.PAIRWISE or config["loss_type"] == "CE":
        return
    if not _draws(config) and config["model"] != "AMPCF":
        if _own_code_has(config, r"self\.NEG_ITEM_ID\b"):
            raise UserError(NEGATIVES.format(model=config["model"]))


def _check_labels(config, loaded):
    """Labels of the data are read by evaluation of labelled rows, by trees, and by a pointwise loss without negatives."""
    for field in config["threshold"] or ():
        if loaded.get(field) != "float":
            fault = f"it is of type {loaded[field]}" if field in loaded else columns.absent(config, field, "inter")
            raise UserError(f"threshold makes labels of numbers in the column {field!r}, and {fault}.")
    why = _why_labels(config)
    if why and not config["threshold"] and config["LABEL_FIELD"] not in loaded:
        raise UserError(lacks_labels(config, why))


def _why_labels(config) -> str | None:
    if config["MODEL_TYPE"] == ModelType.DECISIONTREE:
        return "it learns from them"
    if config["MODEL_INPUT_TYPE"] == InputType.POINTWISE and not _draws(config):
        if _own_code_has(config, r"self\.(LABEL|label_field)\b"):
            return "train_neg_sample_args draws no negatives"
    kinds = {metric_types[metric.lower()] for metric in config["metrics"]}
    if "labeled" in config["eval_args"]["mode"].values():
        return "mode in eval_args is labeled"
    if {EvaluatorType.RANKING, EvaluatorType.VALUE} <= kinds and config["value_mode"] == "labeled":
        return "value_mode is labeled"
    return None


def _check_features(config, key, loaded):
    """The features of items that a sequential model reads are columns of the .item file."""
    for field in config[key] if _is_list(config[key]) else [config[key]]:
        if field not in loaded:
            absent = columns.absent(config, field, "item")
            raise UserError(f"{config['model']} reads the item feature {field!r} ({key}), and {absent}.")
        kind = loaded[field]
        if key == "item_attribute" and kind != "token_seq":
            raise UserError(f"item_attribute must be a column of type token_seq, and {field!r} of the items is {kind}.")
        if kind.startswith("float") and field not in (config["numerical_features"] or ()):
            raise UserError(
                f"{config['model']} cannot read the item feature {field!r} ({key}), a column of type {kind}: add it to "
                "numerical_features, or leave it out."
            )


def _check_named(config, loaded):
    """The columns that RecBole changes as it reads them."""
    for key in ("numerical_features", "normalize_field", "discretization"):
        for field in config[key] or ():
            if not any(field in fields for fields in loaded.values()):
                raise UserError(f"{key} names {field!r}, and {columns.absent(config, field)}.")


def _check_metrics(config, loaded):
    """The columns that metrics compare texts or items by."""
    for metric in config["metrics"]:
        entry = METRICS.get(metric.lower())
        for need in entry.needs if entry else ():
            suffix, key = ("item", _RULERS[need]) if need in _RULERS else ("inter", columns.OF_TEXT_METRICS.get(need))
            field = str(config[key]).removeprefix("field:")
            is_named = suffix == "inter" or field != config[key]  # else it is no column: svd
            if key and is_named and field not in loaded.get(suffix, {}):
                raise UserError(f"{metric} reads {field!r} ({key}), and {columns.absent(config, field, suffix)}.")


def _check_negative_lists(config, loaded):
    """DIEN reads a negative for every item of a history, which RecBole draws where it makes the histories."""
    field = f"{config['NEG_PREFIX']}{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"
    if config["benchmark_filename"] and field not in loaded and _own_code_has(config, r"\bNEG_ITEM_SEQ\b"):
        raise UserError(
            f"{config['model']} reads a negative for every item of a history ({field}), and data that come split "
            "(benchmark_filename) bring none; leave benchmark_filename out and split by time, as in eval_args: "
            "{split: {LS: valid_and_test}, order: TO}."
        )


def _check_preloaded(config, headers, loaded):
    """Vectors in a file of their own need a name for the ids, which an alias makes those of users, items or entities."""
    extra = config["additional_feat_suffix"] or ()
    for suffix in extra:
        file, own = f"{config['dataset']}.{suffix}", loaded[suffix]
        lines = _lines(config, suffix, headers[suffix], headers)
        if not own:
            raise UserError(f"load_col names no column of {file} (additional_feat_suffix); {lines}.")
        for other, fields in loaded.items():
            if other != suffix and (both := [field for field in own if field in fields]):
                raise UserError(
                    f"The column {both[0]!r} stands in {file} and in the .{other} file, and RecBole knows columns by their "
                    f"names; {lines}."
                )
    for key, value in (config["preload_weight"] or {}).items():
        where = [suffix for suffix, fields in loaded.items() if key in fields or value in fields]
        suffix = next((one for one in where if one in extra), where[0] if where else None)
        if suffix is None:
            raise UserError(f"preload_weight is {{{key}: {value}}}, and no file that is loaded has these columns.")
        own, lines = loaded[suffix], _lines(config, suffix, headers[suffix], headers)
        for field in (key, value):
            if field not in own:
                absent = columns.absent(config, field, suffix)
                raise UserError(f"preload_weight is {{{key}: {value}}}, and {absent}; {lines}.")
        if own[key] != "token" or not own[value].startswith("float"):
            raise UserError(
                f"preload_weight maps a column of ids (token) to one of numbers (float, float_seq), and {key!r} is "
                f"{own[key]} and {value!r} {own[value]}; {lines}."
            )
        aliases = [name for given, name in _aliases(config) if key in given]
        if suffix in extra and not aliases:
            raise UserError(
                f"The ids in {key!r} of {config['dataset']}.{suffix} would be numbered apart from all others; {lines}."
            )


def _aliases(config):
    """``(columns, key)`` of every ``alias_of_…``."""
    for key, value in config.final_config_dict.items():
        if key.startswith("alias_of_") and value:
            yield value, key


def _lines(config, suffix, header, headers) -> str:
    """The lines to write for a file of vectors."""
    ids = next((field for field, kind in header.items() if kind == "token"), "iid")
    vectors = next((field for field, kind in header.items() if kind.startswith("float")), "emb")
    taken = any(ids in fields for other, fields in headers.items() if other != suffix)
    own = next((name for name in ("iid", "uid", "vid") if name not in header), "iid") if taken else ids
    rename = f"name its column {own}:token, and set " if taken else "set "
    about = config["USER_ID_FIELD"] if "user" in suffix or own.startswith("u") else config["ITEM_ID_FIELD"]
    return (
        f"{rename}additional_feat_suffix: [{suffix}], load_col: {{…, {suffix}: [{own}, {vectors}]}}, "
        f"alias_of_{about}: [{own}], preload_weight: {{{own}: {vectors}}}"
    )
