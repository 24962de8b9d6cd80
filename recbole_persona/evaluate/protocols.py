"""What a run's metrics mean: which items compete, how negatives are drawn, how many lists a user has.

RecBole decides part of this by the kind of the model: general models never recommend what a user has seen, sequential ones
do (``repeatable``). ``mask_history`` says it for both.
"""

import copy

from recbole.data import utils as data_utils

_upstream_create_samplers = data_utils.create_samplers
EXCLUDED = {
    "target": "the target itself",
    "targets": "all targets of the user in this part",
    "history": "all that the user has interacted with in this part and those before it",
}


def config_with(config, **values):
    """A copy of a ``Config`` with other values."""
    changed = copy.copy(config)
    changed.final_config_dict = {**config.final_config_dict, **values}
    return changed


def masks_seen(config) -> bool:
    """Whether items that a user has seen are no candidates in full ranking."""
    return not config["repeatable"] if config["mask_history"] is None else config["mask_history"]


def excluded(config) -> str:
    """Which items are no negatives of a target, a key of ``EXCLUDED``.

    Left to itself (``mask_history: ~``) it is what RecBole does: with ``repeatable``, which sequential models have, the target
    alone; else the user's history.
    """
    if config["mask_history"] is None:
        return "target" if config["repeatable"] else "history"
    return "history" if config["mask_history"] else "targets"


def create_samplers(config, dataset, built_datasets):
    """As RecBole's function; the samplers also know the parts of the split (``parts``), which evaluation loaders need.

    RecBole would count held-out interactions for ``popN``, in a table of its own; our loaders draw from the training part.
    """
    uniform = {
        f"{phase}_neg_sample_args": {**config[f"{phase}_neg_sample_args"], "distribution": "uniform"}
        for phase in ("valid", "test")
        if config[f"{phase}_neg_sample_args"]["distribution"] == "popularity"
    }
    samplers = _upstream_create_samplers(config_with(config, **uniform), dataset, built_datasets)
    for sampler in samplers:
        if sampler is not None:
            sampler.parts = built_datasets
    return samplers


def describe(config) -> dict:
    """What two results must share to be compared: split, candidates, targets and metrics."""
    eval_args, files = config["eval_args"], config["benchmark_filename"]
    modes = eval_args["mode"]
    described = {
        "split": {"files": list(files)} if files else eval_args["split"],
        "order": None if files else eval_args["order"],
        "group_by": None if files else eval_args["group_by"],
        "mode": modes["test"],
        **({"valid_mode": modes["valid"]} if modes["valid"] != modes["test"] else {}),
        "targets": _targets(config),
        "seen_items_masked": modes["test"] == "full" and masks_seen(config),
    }
    if config["held_out_users"] is not None:
        described["held_out_users"] = config["held_out_users"]
    if config["eval_history"] not in (None, "in order"):
        described["histories"] = config["eval_history"]
    sampled = next((mode for mode in (modes["test"], modes["valid"]) if mode[:3] in ("uni", "pop")), None)
    if sampled:
        described["negatives"] = negatives_of(config, sampled)
    return {
        **described,
        "metrics": sorted(metric.lower() for metric in config["metrics"]),
        "topk": sorted(config["topk"]),
        "valid_metric": config["valid_metric"],
    }


def _targets(config) -> str:
    mode = config["eval_args"]["mode"]["test"]
    if mode == "labeled":
        return "every row, with its label"
    if "LS" in config["eval_args"]["split"] and not config["benchmark_filename"]:
        return "1 per user"
    by_row = config["MODEL_TYPE"].name == "SEQUENTIAL" and mode == "full"
    return f"several per user, {'a list for each' if by_row else 'one list for all'}"


def negatives_of(config, mode) -> dict:
    """How the negatives of ``uniN`` or ``popN`` are drawn."""
    distributions = {"uni": "uniform", "pop": "number of training interactions"}
    return {
        "number": int(mode[3:]),
        "distribution": distributions[mode[:3]],
        "seed": config["split_seed"],
        "excluded": EXCLUDED[excluded(config)],
    }


def in_words(protocol) -> str:
    """The ``protocol`` of a result as a line of text; metrics and cut-offs stand in its tables."""
    told = dict(protocol)
    for shown in ("metrics", "topk"):
        told.pop(shown, None)
    seen = told.pop("seen_items_masked", False)
    if told.get("mode") == "full":
        told["mode"] = f"full, seen items {'' if seen else 'not '}masked"
    said = {key.replace("_", " "): _flat(value) for key, value in told.items() if value is not None}
    return "; ".join(f"{key} {value}" for key, value in said.items())


def _flat(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
