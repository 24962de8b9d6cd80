"""One protocol for all rows of a data set: the settings of every row made from it, and no mixing, before and after."""

from recbole.utils import argument_list

from recbole_persona.board.specification import Board, Part, Row
from recbole_persona.config import Config, literal, read_yaml
from recbole_persona.data.missing_parts import why_lacking
from recbole_persona.errors import UserError
from recbole_persona.runner.training import protocol as described
from recbole_persona.runs import plain_config
from recbole_persona.settings import check_valid_metric

# Keys that a result of an earlier version may lack.
_CAME_LATER = {"targets", "metrics", "topk"}
# What the data are and how they are judged; all else is a model's own affair, the length of its histories too.
KEYS = (
    {
        "split_seed",
        "mask_history",
        "held_out_users",
        "eval_history",
        "exact_time",
        "event_field",
        "target_events",
        "value_mode",
        "tdd_tastes",
        "tdd_distance",
        "tdd_clusters",
        "ild_ruler",
        "explanation_field",
        "feature_field",
        "bleu_tokenizer",
        "bertscore_encoder",
        "judge_model",
    }
    | set(argument_list.dataset_arguments)
    | set(argument_list.evaluation_arguments)
) - {"MAX_ITEM_LIST_LENGTH", "eval_batch_size", "valid_metric_bigger", "preload_weight", "additional_feat_suffix"}


def shared_settings(board: Board, part: Part) -> dict:
    """What every row of a data set has: the protocol, the data set's settings, and stopping by the primary metric."""
    settings = {"valid_metric": board.primary.upper(), **board.protocol, **part.config}
    return settings | ({"data_path": part.data_path} if part.data_path else {})


def row_config(board: Board, part: Part, row: Row) -> Config:
    """The ``Config`` of a row, with its first seed.

    Raises:
        UserError: whatever ``Config`` refuses, and a setting of the row that is the protocol's.
    """
    shared = shared_settings(board, part)
    files = [str(file) for file in row.files]
    try:
        settings = {**row.config, **shared, "seed": part.seeds_of(row)[0]}
        config = Config(row.model, part.source, files, settings)
        _check_own(row, part, config, shared)
        _check_computed(config, board.primary)
        check_valid_metric(config)
    except UserError as error:
        raise UserError(f"Row {row.name!r} on {part.dataset}: {error}") from error
    return config


def _check_own(row, part, config, shared):
    """What the row sets itself may stand in the protocol only with the protocol's value."""
    given = {}
    for file in row.files:
        given |= read_yaml(file)
    for key, value in (("model", row.model), ("dataset", part.source)):
        if key in given and given[key] != value:
            raise UserError(f"its config files are for the {key} {given[key]}, not {value}.")
    given |= row.config
    judged = {"metrics", "topk"} if row.study else set()  # a search may watch fewer; what it stops on must be the same
    both = [key for key in given if (key in shared or key in KEYS) and key not in judged]
    if not both:
        return
    path = {"data_path": part.data_path} if part.data_path else {}
    own = _values(Config(row.model, part.source, [str(file) for file in row.files], {**row.config, **path}))
    settled = _values(config)
    for key in both:
        if key != "data_path" and own.get(key) != settled.get(key):
            raise UserError(
                f"it sets {key} to {literal(given[key])!r}, but a board has one protocol for all rows; "
                f"leave {key} out, or set it under protocol."
            )


def check_configs(board: Board, part: Part, configs: dict[str, Config]) -> None:
    """Refuse rows whose settings make another protocol, before anything runs.

    Args:
        configs: a ``Config`` by row.

    Raises:
        UserError: the first key in which a row differs from the first row, a split without a test part, or a metric
            that nobody computes.
    """
    first = next(iter(configs))
    compare_protocols(part.dataset, {name: _values(config, KEYS) for name, config in configs.items()})
    compare_protocols(part.dataset, {name: described(config) for name, config in configs.items()})
    if reason := why_lacking("test", configs[first]):
        raise UserError(
            f"A board compares its rows on the test part, and on {part.dataset} {reason} leaves none; give it a share, or "
            "name its file in benchmark_filename."
        )
    for picture in board.pictures:
        for key in ("metric", "x", "y"):
            _check_computed(configs[first], picture.get(key, board.primary))


def _check_computed(config, metric):
    name, at, k = metric.partition("@")
    if name not in [known.lower() for known in config["metrics"]] or (
        at and k not in [str(cut) for cut in config["topk"]]
    ):
        raise UserError(
            f"{metric} is not computed: metrics are {', '.join(config['metrics'])} and topk is {config['topk']}; "
            "set metrics and topk under protocol."
        )


def compare_protocols(dataset: str, protocols: dict[str, dict]) -> None:
    """Refuse rows that were judged differently.

    Args:
        protocols: ``protocol`` of ``result.json``, by row.

    Raises:
        UserError: names the first row and key that differ from the first row.
    """
    first, *others = protocols
    for name in others:
        for key in sorted({*protocols[first], *protocols[name]}):
            value, other = protocols[first].get(key), protocols[name].get(key)
            lacking = key in _CAME_LATER and None in (value, other)
            if value != other and not lacking:
                raise UserError(
                    f"A board has one protocol for all rows, but on {dataset} {key} is {value!r} in the row {first!r} "
                    f"and {other!r} in {name!r}; set it under protocol, or leave one of them out."
                )


def _values(config, keys=None) -> dict:
    """The settings, all or those of ``keys``, in a form that compares; the order of metrics and cut-offs is no setting."""
    values = plain_config(config)
    values |= {key: sorted(str(item).lower() for item in values[key]) for key in ("metrics", "topk")}
    values["valid_metric"] = values["valid_metric"].lower()
    return {key: value for key, value in values.items() if keys is None or key in keys}
