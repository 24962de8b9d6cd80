"""Which values a setting may have: the type of its default, a range, a choice, a form. Every fault is one sentence.

The types are not listed here: a setting must be of the kind that its default in RecBole's or our YAML files is.
"""

import math
import re
from urllib.parse import urlsplit

from recbole.evaluator import register
from recbole.utils import EvaluatorType

from recbole_persona.errors import UserError, nearest

# Whole numbers, and the least of each; every `…_size` with a whole default is another, with least 1.
_WHOLE = {
    "epochs": 0, "eval_step": 0, "stopping_step": 0, "worker": 0, "seed": 0, "split_seed": 0,
    "train_batch_size": 1, "eval_batch_size": 1, "MAX_ITEM_LIST_LENGTH": 1,
    "n_beams": 1, "text_beams": 1, "longest_answer": 1, "n_candidates": 2, "code_levels": 1, "task_tokens": 0,
    "max_steps": 1, "warmup_steps": 0, "gradient_accumulation_steps": 1, "user_tokens": 1, "n_neighbours": 1, "n_heads": 1,
    "metric_decimal_place": 0, "loss_decimal_place": 0,
}  # fmt: skip
JUDGE_KEY = "RECBOLE_PERSONA_JUDGE_KEY"  # environment variable; sent as a bearer token where it is set
_OR_NONE = ("longest_answer", "max_steps", "eval_batch_size")  # found from the data; no bound; sized by the scores
_CHOICES = {
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "state": ("debug", "info", "warning", "error", "critical"),
}
_NAMES = ("backbone", "user_vectors")
INTERVALS = [f"{what}_num_interval" for what in ("user_inter", "item_inter", "entity_kg", "relation_kg")]
_END = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf)"
_INTERVAL = re.compile(rf"\s*[\[(]\s*{_END}\s*,\s*{_END}\s*[\])]\s*")
_EVAL_MODE = re.compile(r"full|labeled|(?:uni|pop)[1-9]\d*")
_NEGATIVES = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")
_SPLITS = {"RS": "[0.8, 0.1, 0.1]", "TS": "[0.8, 0.1, 0.1]", "LS": "valid_and_test"}


def check_values(given: dict, defaults: dict) -> None:
    """Refuse a value that cannot work.

    Args:
        given: the user's settings, by key.
        defaults: the value of every key that has one in a shipped YAML file.

    Raises:
        UserError: the first value of a wrong type, range, choice or form.
    """
    for key, value in given.items():
        if not isinstance(key, str):
            raise UserError(f"{key!r} is no name of a setting.")
        _check_kind(key, value, defaults.get(key))
        if key in _CHOICES and value is not None:
            _one_of(key, str(value).lower(), _CHOICES[key])
        if key in INTERVALS and value is not None:
            _check_interval(key, value)
    values = {**defaults, **given}
    _check_topk(values["topk"])
    _check_names(values["metrics"])
    _check_eval_args(values["eval_args"])
    _check_negatives(values.get("train_neg_sample_args"))
    _check_columns(values)
    if values.get("judge_url") is not None:
        check_judge_url(values["judge_url"])
    if values.get("clip_grad_norm") is not None and not isinstance(values["clip_grad_norm"], dict):
        raise UserError(f"clip_grad_norm must be like {{'max_norm': 5}}; it is {values['clip_grad_norm']!r}.")


def _check_kind(key, value, default):
    if key in _WHOLE or (key.endswith("_size") and _is_whole(default)):
        least = _WHOLE.get(key, 1)
        if value is None and key in _OR_NONE:
            return
        if not _is_whole(value) or value < least:
            raise UserError(f"{key} must be a whole number of at least {least}; it is {value!r}.")
        if key.endswith("seed") and value >= 2**32:
            raise UserError(f"{key} must be less than 2**32; it is {value}.")
    elif key in _NAMES and not isinstance(value, str):
        raise UserError(f"{key} must be a name; it is {value!r}.")
    elif key in ("learning_rate", "weight_decay"):
        if not _is_number(value) or not math.isfinite(value) or value < 0 or (key == "learning_rate" and value == 0):
            raise UserError(f"{key} must be a positive number; it is {value!r}.")
    elif value is None:
        return
    elif key == "mask_history" and not isinstance(value, bool):
        raise UserError(f"mask_history must be True, False or None; it is {value!r}.")
    elif isinstance(default, bool) and not isinstance(value, bool):
        raise UserError(f"{key} must be True or False; it is {value!r}.")
    elif _is_number(default) and not _is_number(value):
        raise UserError(f"{key} must be a number, as its default {default!r} is; it is {value!r}.")
    elif isinstance(default, list) and key not in ("metrics", "topk") and not isinstance(value, (list, tuple)):
        raise UserError(f"{key} must be a list, as its default {default!r} is; it is {value!r}.")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(key, value, allowed):
    if value in allowed:
        return
    words = list(dict.fromkeys(str(name) for name in allowed))
    raise UserError(f"{key} must be one of {', '.join(words)}; it is {value!r}{nearest(value, words)}.")


def _check_interval(key, value):
    for part in str(value).split(";"):
        if not _INTERVAL.fullmatch(part):
            raise UserError(f"{key} must be an interval such as [5,inf) or (0,10]; it is {value!r}.")
        low, high = (float(end) for end in part.strip()[1:-1].split(","))
        if low > high:
            raise UserError(f"The interval {part.strip()} of {key} is empty: {low:g} is more than {high:g}.")


def _check_topk(topk):
    values = topk if isinstance(topk, list) else [topk]
    if not values or not all(_is_whole(k) and k > 0 for k in values):
        raise UserError(f"topk must be a positive whole number or a list of them, such as [5,10]; it is {topk!r}.")


def _check_names(metrics):
    names = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"metrics must be a name or a list of names, such as ['Recall','NDCG']; it is {metrics!r}.")


def check_judge_url(url) -> None:
    """Refuse an address with a user name, a password or a query: settings are written to files and printed.

    Raises:
        UserError: anything but ``http(s)://host[:port][/path]``; the sentence does not repeat it.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError, TypeError):
        known = False  # ours is raised outside of this block: the text of its context may repeat the address
    if not known or re.search(r"[@?#\s]", url):
        raise UserError(
            "judge_url must be an address such as http://localhost:8000/v1, without user name, password and query; "
            f"put a key into the environment variable {JUDGE_KEY}."
        )


def check_valid_metric(config) -> None:
    """Refuse a metric for early stopping that is not computed: the first validation would fail.

    Raises:
        UserError: ``valid_metric`` is none of ``metrics`` at one of ``topk``.
    """
    metrics, topk = config["metrics"], config["topk"]
    name, at, cutoff = str(config["valid_metric"]).partition("@")
    known = name.lower() in [metric.lower() for metric in metrics] and (not at or cutoff in [str(k) for k in topk])
    if not known or bool(at) != _has_cutoff(name, bool(at)):
        example = metrics[0] + (f"@{topk[0]}" if _has_cutoff(metrics[0], bool(at)) else "")
        raise UserError(
            f"valid_metric is {config['valid_metric']}, which is not computed: metrics are {', '.join(metrics)} "
            f"and topk is {topk}; set valid_metric to one of these, such as {example}."
        )


def _has_cutoff(metric, otherwise: bool) -> bool:
    """Whether RecBole prints the metric with ``@k``; ``otherwise`` for metrics that are not RecBole's."""
    if not isinstance(register.metrics_dict.get(metric.lower()), type):
        kind = register.metric_types.get(metric.lower())
        return otherwise and kind in (None, EvaluatorType.RANKING)
    return bool({"rec.items", "rec.topk"} & set(register.metric_information[metric.lower()]))


def _check_eval_args(eval_args):
    if not isinstance(eval_args, dict):
        raise UserError(f"eval_args must be a mapping of split, order, group_by and mode; it is {eval_args!r}.")
    for key in eval_args:
        _one_of("A key of eval_args", key, ("split", "order", "group_by", "mode"))
    _one_of("order in eval_args", eval_args.get("order", "RO"), ("RO", "TO"))
    if eval_args.get("group_by", "user") not in (None, "None"):  # other spellings of none
        _one_of("group_by in eval_args", eval_args.get("group_by", "user"), ("user", "none"))
    _check_split(eval_args.get("split", {"RS": [0.8, 0.1, 0.1]}))
    mode = eval_args.get("mode", "full")
    for phase in mode if isinstance(mode, dict) else ():
        _one_of("A key of mode in eval_args", phase, ("valid", "test"))
    for value in mode.values() if isinstance(mode, dict) else [mode]:
        if not _EVAL_MODE.fullmatch(str(value)):
            raise UserError(f"mode in eval_args must be full, labeled, uniN or popN (N a number); it is {value!r}.")


def _check_split(split):
    if not isinstance(split, dict) or len(split) != 1 or next(iter(split)) not in _SPLITS:
        forms = ", ".join(f"{{'{name}': {value}}}" for name, value in _SPLITS.items())
        raise UserError(f"split in eval_args must be one of {forms}; it is {split!r}.")
    ((way, parts),) = split.items()
    if way == "LS":
        _one_of("LS in eval_args", parts, ("valid_and_test", "valid_only", "test_only"))
    elif not (
        isinstance(parts, list) and len(parts) == 3 and all(_is_number(p) and p >= 0 for p in parts) and parts[0]
    ):
        example = f"such as {_SPLITS[way]}, the first not zero"
        raise UserError(f"{way} in eval_args must be three ratios, {example}; it is {parts!r}.")


def _check_negatives(arguments):
    if arguments is None or arguments == "None":
        return
    if not isinstance(arguments, dict):
        raise UserError(f"train_neg_sample_args must be a mapping or None; it is {arguments!r}.")
    for key in arguments:
        _one_of("A key of train_neg_sample_args", key, _NEGATIVES)
    distribution = arguments.get("distribution", "uniform")
    if distribution not in (None, "None"):  # other spellings of none
        _one_of("distribution in train_neg_sample_args", distribution, ("uniform", "popularity", "none"))
    for key, least in (("sample_num", 1), ("candidate_num", 0)):
        value = arguments.get(key, least)
        if value != "none" and (not _is_whole(value) or value < least):
            raise UserError(f"{key} in train_neg_sample_args must be a whole number from {least} on; it is {value!r}.")


def _check_columns(values):
    """``load_col`` and its kin map the suffix of a file to a list; a lone name would be read letter by letter."""
    for key in ("load_col", "unload_col", "unused_col", "val_interval", "threshold"):
        value = values.get(key)
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{key} must be a mapping; it is {value!r}.")
    for key in ("load_col", "unload_col", "unused_col"):
        for suffix, columns in (values.get(key) or {}).items():
            if columns != "*" and not isinstance(columns, (list, tuple)):
                raise UserError(f"{key} of {suffix!r} must be a list of columns; it is {columns!r}.")
    for field, interval in (values.get("val_interval") or {}).items():
        if isinstance(interval, str):
            _check_interval(f"val_interval of {field}", interval)
