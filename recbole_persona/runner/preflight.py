"""What can be asked before a run begins: its settings before the data are read, its model before anything is written."""

import importlib.util
import re
import sys
from contextlib import contextmanager

import torch
from recbole.utils import ModelType, get_trainer

from recbole_persona.data.missing_parts import why_lacking
from recbole_persona.data.reads import NEGATIVES, lacks_labels, which_lacks
from recbole_persona.errors import UserError, nearest, one_sentence
from recbole_persona.settings import check_valid_metric
from recbole_persona.train.steps import check_steps
from recbole_persona.unused import mentions

# RecBole's transforms of batches, and the share that each reads
_TRANSFORMS = {"mask_itemseq": "mask_ratio", "crop_itemseq": "eta", "reorder_itemseq": "beta"}
_TRANSFORMS |= {"inverse_itemseq": None, "user_defined": None}
_OWN_CODE = ("recbole.model.", "recbole_persona.models.")


def check_settings(config) -> None:
    """What needs no data: the metric of early stopping, the steps of the optimiser, the transform, W&B.

    Raises:
        UserError: one of these cannot work.
    """
    check_valid_metric(config)
    check_steps(config, get_trainer(config["MODEL_TYPE"], config["model"]))
    if config["transform"] is not None:
        _check_transform(config, config["transform"])
    if config["log_wandb"] and "wandb" not in sys.modules and importlib.util.find_spec("wandb") is None:
        raise UserError("log_wandb is True, and wandb is not installed: pip install wandb, or leave log_wandb out.")


def _check_transform(config, name):
    if name not in _TRANSFORMS:
        raise UserError(
            f"transform must be one of {', '.join(_TRANSFORMS)}; it is {name!r}{nearest(name, _TRANSFORMS)}."
        )
    if name != "user_defined" and config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise UserError(f"The transform {name} changes histories, and {config['model']} reads none; leave it out.")
    key = _TRANSFORMS[name]
    if key and not isinstance(config[key], (int, float)):
        raise UserError(f"The transform {name} needs the share {key}; set it, as {key}: 0.5.")


def check_search(config) -> None:
    """As :func:`check_settings`, for trials that are compared on the validation part.

    Raises:
        UserError: there is no validation part.
    """
    check_settings(config)
    if reason := why_lacking("valid", config):
        raise UserError(
            f"A search compares its trials on the validation part, and {reason} leaves none; give it a share, as in "
            "eval_args: {split: {RS: [0.8, 0.1, 0.1]}}, or name its file in benchmark_filename."
        )


def check_without_validation(config, tested) -> None:
    """Refuse what needs a validation part, where the data turn out to have none.

    Raises:
        UserError: decision trees; a run that is not ``tested``, as the trials of a search.
    """
    if config["MODEL_TYPE"] == ModelType.DECISIONTREE:
        raise UserError(
            f"{config['model']} grows its trees by the validation part, and the data set {config['dataset']!r} has none; give it "
            "a share in split of eval_args."
        )
    if not tested:
        raise UserError(
            f"The data set {config['dataset']!r} has no validation part, by which alone this run is judged."
        )


@contextmanager
def explained(config, dataset):
    """Around the making of a model and its first batch: what RecBole's models and ours raise becomes one sentence.

    Errors of a model from elsewhere pass through: its author needs the traceback.

    Raises:
        UserError: names the column that a batch lacks, or the settings that the model reads.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except KeyError as error:
        field = error.args[0] if error.args else None
        if isinstance(field, str) and field == config["LABEL_FIELD"]:
            raise UserError(lacks_labels(config)) from error
        if isinstance(field, str) and field == config["NEG_PREFIX"] + dataset.iid_field:
            raise UserError(NEGATIVES.format(model=config["model"])) from error
        if not isinstance(field, str) or not config.model_class.__module__.startswith(_OWN_CODE):
            raise
        raise UserError(which_lacks(config, field)) from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not config.model_class.__module__.startswith(_OWN_CODE):
            raise
        raise UserError(_cannot_train(config, error)) from error


def _cannot_train(config, error) -> str:
    """The settings of the user that the model reads are where to look."""
    given, defaults = config.external_config_dict, config.internal_config_dict
    changed = [key for key, value in given.items() if value != defaults.get(key, ...)]
    read = [key for key in changed if mentions(config.model_class, rf"config\w*\[\s*[\"']{re.escape(key)}[\"']")]
    reason = one_sentence(error).rstrip(".")
    advice = f"of your settings it reads {', '.join(f'{key}: {config[key]!r}' for key in read)}; change these"
    return f"{config['model']} cannot be trained so ({reason}): " + (
        f"{advice}."
        if read
        else "it reads none of your settings; the columns that are loaded (load_col) do not suit it."
    )
