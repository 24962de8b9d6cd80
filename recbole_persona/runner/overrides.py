"""Which settings of a finished run can be changed when it is used: those that act there, and no others."""

from recbole_persona.config import literal, read_yaml
from recbole_persona.errors import UserError

_ALWAYS = (
    "gpu_id", "use_gpu", "worker", "show_progress", "state", "reproducibility", "data_path", "allow_unknown", "load_col",
    "unload_col", "text_fields",
)  # fmt: skip
_LOGS = ("log_wandb", "wandb_project")
_TEXTS = ("text_batch_size", "explanation_field", "feature_field")
_MEASURED = (
    "metrics", "topk", "metric_decimal_place", "eval_args", "split_seed", "repeatable", "mask_history", "eval_history",
    "value_mode", "threshold", "LABEL_FIELD", "RATING_FIELD", "tdd_tastes", "tdd_clusters", "tdd_distance", "ild_ruler",
    "bleu_tokenizer", "bertscore_encoder", "judge_url", "judge_model",
)  # fmt: skip
_TAKEN = {
    "recommend": ("eval_batch_size",),
    "explain": ("eval_batch_size",),
    "export": ("eval_batch_size",),
    "generate": _TEXTS,
    "evaluate": ("eval_batch_size", *_LOGS, *_TEXTS, *_MEASURED),
    "load": (
        "eval_batch_size",
        *_LOGS,
        *_TEXTS,
        *_MEASURED,
        "valid_metric",
    ),  # for whatever is done with what is loaded
}


def check_overrides(folder, config, given, use: str) -> None:
    """Refuse settings that would change nothing in a run that is trained, or would make it another one.

    Args:
        folder: the run's :class:`~recbole_persona.runs.RunFolder`.
        config: its config with ``given`` on top.
        given: settings to change; a value that the run has already passes. A model names those that it reads whenever it
            is made in ``reads_when_loaded``.
        use: ``recommend, explain, export, generate, evaluate``, or ``load`` for what can act anywhere.

    Raises:
        UserError: the first setting that does not act.
    """
    taken = (*_ALWAYS, *_TAKEN[use], *getattr(config.model_class, "reads_when_loaded", ()))
    written = read_yaml(folder.config_file) if given else {}
    changed = [key for key, value in (given or {}).items() if key not in written or written[key] != literal(value)]
    for key in changed:
        if key not in taken:
            why = f"{use} does not use {key}" if key in _TAKEN["load"] else f"{key} cannot be changed in a finished run"
            raise UserError(f"{why}; {use} takes {', '.join(sorted(taken, key=str.lower))}.")
    unused = config.unused_keys if changed and use != "load" else {}
    for key in changed:
        if key in unused:
            reason = unused[key] and f": {unused[key]}"
            raise UserError(f"{config['model']} does not use the setting {key}{reason}.")
