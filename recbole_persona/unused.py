"""Settings that a run is given and that change nothing in it, each with the reason."""

import importlib.util
import inspect
import re
import sys
from functools import cache, lru_cache
from pathlib import Path

from recbole.data import utils as data_utils
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, InputType, ModelType

_FILTERS = (
    "rm_dup_inter", "val_interval", "filter_inter_by_user_or_item", "user_inter_num_interval", "item_inter_num_interval",
    "entity_kg_num_interval", "relation_kg_num_interval",
)  # fmt: skip
_HISTORIES = (
    "MAX_ITEM_LIST_LENGTH", "ITEM_LIST_LENGTH_FIELD", "exact_time", "event_field", "target_events", "eval_history",
)  # fmt: skip
_GRAPHS = (
    "HEAD_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "ENTITY_ID_FIELD", "kg_reverse_r",
    "entity_kg_num_interval", "relation_kg_num_interval",
)  # fmt: skip
_OPTIMISER = (
    "learner", "learning_rate", "weight_decay", "clip_grad_norm", "enable_amp", "enable_scaler", "fused_adam",
    "max_steps", "warmup_steps", "gradient_accumulation_steps",
)  # fmt: skip
_OF_METRICS = {
    "tdd_tastes": "tdd", "tdd_clusters": "tdd", "tdd_distance": "tdd", "ild_ruler": "ild", "bertscore_encoder": "bertscore",
    "bleu_tokenizer": "bleu-", "judge_url": "judge", "judge_model": "judge",
}  # fmt: skip


def unused_settings(config) -> dict[str, str]:
    """The user's settings that nothing in this run reads, and why, as the end of a sentence; "" where no code names the key.

    Only a value other than the default is looked at: a run's ``config.yaml`` holds every setting.

    Args:
        config: a complete ``Config``.
    """
    defaults, found = config.internal_config_dict, {}
    changed = {key: value for key, value in config.external_config_dict.items() if value != defaults.get(key, ...)}
    for key in changed:
        if key not in defaults and not is_read(key, config.model_class, anywhere=False):
            found[key] = ""
    for keys, reason in _reasons(config):
        for key in keys:
            if str(changed.get(key)) not in ("None", "False", "[0,inf)"):  # the setting is off
                found.setdefault(key, reason)
    return found | _unused_parts(config, changed)


def _reasons(config):
    """``(keys, reason)`` of those that do nothing in a run with these settings."""
    kind, model = config["MODEL_TYPE"], config.model_class
    if config["benchmark_filename"]:
        yield _FILTERS, "data that come split (benchmark_filename) are not filtered"
        yield ("exact_time", "target_events"), "data that come split (benchmark_filename) bring their histories"
    if kind != ModelType.SEQUENTIAL:
        yield [key for key in _HISTORIES if not mentions(model, rf"\b{key}\b")], "it reads no histories"
    if kind != ModelType.KNOWLEDGE:
        yield [key for key in _GRAPHS if not mentions(model, rf"\b{key}\b")], "it reads no knowledge graph"
    if not _reads_labels(config):
        keeps = "; val_interval keeps rows by their values"
        yield ("threshold",), f"neither its training nor this evaluation reads the labels that it makes{keeps}"
        yield ("LABEL_FIELD",), "neither its training nor this evaluation reads labels of the data"
    if not mentions(model, r"\brequire_pow\b"):
        yield ("require_pow",), ""
    computed = is_computed(config)
    if computed or kind == ModelType.DECISIONTREE:
        yield _OPTIMISER, "it has no optimiser"
    if computed:
        yield ("epochs", "eval_step", "stopping_step"), "it is computed once and not trained"
        yield ("train_neg_sample_args",), "it is computed from what was chosen, without negatives"
    elif "train_neg_sample_args" in config.external_config_dict and _trains_by_user(config):
        yield ("train_neg_sample_args",), "it learns from all items of a user, without negatives"
    if str(config["learner"]).lower() not in ("adam", "adamw"):
        yield ("fused_adam",), f"the learner is {config['learner']}"
    if not config["enable_amp"]:
        yield ("enable_scaler",), "enable_amp is False"
    names = [metric.lower() for metric in config["metrics"]]
    for key, metric in _OF_METRICS.items():
        if not any(name.startswith(metric) for name in names):
            yield (key,), f"{metric.rstrip('-')} is none of the metrics"
    mixed, labelled = _is_mixed(config), set(config["eval_args"]["mode"].values()) == {"labeled"}
    if not mixed:
        yield ("value_mode",), "there are no value metrics beside ranking metrics"
        yield ("mask_history",) if labelled else (), "labelled rows are scored as they are"


def _unused_parts(config, changed) -> dict[str, str]:
    """As :func:`unused_settings`, of the parts of ``eval_args`` and ``train_neg_sample_args``."""
    found = {}
    if config["benchmark_filename"]:
        given, default = changed.get("eval_args"), config.internal_config_dict["eval_args"]
        for part in ("split", "order", "group_by"):
            if isinstance(given, dict) and given.get(part, default.get(part)) != default.get(part):
                found[f"{part} in eval_args"] = "the data come split (benchmark_filename)"
    sampling = changed.get("train_neg_sample_args")
    if isinstance(sampling, dict):
        if sampling.get("alpha", 1.0) != 1.0 and sampling.get("distribution") == "uniform":
            found["alpha in train_neg_sample_args"] = "it is the power of the distribution popularity"
        if sampling.get("candidate_num") and not sampling.get("dynamic"):
            found["candidate_num in train_neg_sample_args"] = "dynamic is False"
    return found


def _reads_labels(config) -> bool:
    """Whether training or evaluation reads labels of the data, and not those that come with sampled negatives."""
    if "labeled" in config["eval_args"]["mode"].values():
        return True
    if _is_mixed(config) and config["value_mode"] in (None, "labeled"):
        return True
    if config["MODEL_TYPE"] == ModelType.DECISIONTREE:
        return True
    drawn = config["train_neg_sample_args"]["distribution"] != "none"
    return mentions(config.model_class, r"LABEL|[\"']label") and not (
        drawn and config["MODEL_INPUT_TYPE"] == InputType.POINTWISE
    )


def _is_mixed(config) -> bool:
    kinds = {metric_types[metric.lower()] for metric in config["metrics"]}
    return {EvaluatorType.RANKING, EvaluatorType.VALUE} <= kinds


def _trains_by_user(config) -> bool:
    """Whether a training batch is rows of users, as RecBole's auto-encoders read it."""
    return data_utils.get_dataloader(config, "train").__name__ == "UserDataLoader"


def mentions(model_class, pattern: str) -> bool:
    """Whether the code of a model, or of what it is built on, has the pattern; True when its code cannot be found.

    RecBole's abstract models stand in one file, of which only those count that the model extends.
    """
    for base in model_class.__mro__:
        if base.__module__.startswith(("torch.", "builtins", "abc", "typing")):
            continue
        alone = base.__module__ == "recbole.model.abstract_recommender"
        code = source(base if alone else sys.modules.get(base.__module__))
        if code is None or re.search(pattern, code):
            return True
    return False


def is_computed(config) -> bool:
    """Whether a model is computed from what was chosen, and not trained; NCEPLRec is, too, which RecBole does not call so."""
    return config["MODEL_TYPE"] == ModelType.TRADITIONAL or _has_no_loss(getattr(config, "model_class", None))


def _has_no_loss(model_class) -> bool:
    """Whether a model only pretends to be trained, as those of RecBole that are computed when they are made."""
    loss = getattr(model_class, "calculate_loss", None)
    return "Parameter(torch.zeros(1))" in (source(loss) or "")


def source(thing) -> str | None:
    """The code of a module, class or function; None where it cannot be found, as when it was typed at a prompt."""
    try:
        return inspect.getsource(thing) if inspect.ismodule(thing) else _source(thing)
    except (OSError, TypeError):
        return None


@lru_cache(maxsize=256)
def _source(thing):
    return inspect.getsource(thing)  # of a class: its whole file is parsed


def is_read(key: str, model_class, anywhere=True) -> bool:
    """Whether some code reads ``key`` from a config: RecBole's, ours, the model's own modules, or the running script.

    Args:
        anywhere: false leaves out the modules of other models.
    """
    name = re.escape(str(key))
    pattern = re.compile(rf"""config\w*(?:\[|\.get\()\s*f?["']{name}["']|["']{name}["'] in \S*config""")
    modules = {inspect.getmodule(base) for base in model_class.__mro__} | {sys.modules.get("__main__")}
    own = [Path(module.__file__) for module in modules if getattr(module, "__file__", None)]
    texts = [path.read_text(encoding="utf-8") for path in own if path.suffix == ".py" and path.is_file()]
    return any(pattern.search(text) for text in (*texts, *_sources(False), *(_sources(True) if anywhere else ())))


@cache
def _sources(of_models: bool) -> tuple[str, ...]:
    """The code of RecBole and ours: of the single models, or all the rest."""
    folders = [Path(importlib.util.find_spec(name).origin).parent for name in ("recbole", "recbole_persona")]
    paths = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    rooms = [re.search(r"(_recommender|recbole_persona/models)$", path.parent.as_posix()) for path in paths]
    return tuple(path.read_text(encoding="utf-8") for path, room in zip(paths, rooms) if bool(room) == of_models)
