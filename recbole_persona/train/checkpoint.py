"""What a run writes: the best model, and the state from which training continues bit for bit."""

from contextlib import contextmanager

import torch

from recbole_persona.errors import UserError, one_sentence
from recbole_persona.train import outside
from recbole_persona.upstream.files import load_tree, save_tree


def model_state(model) -> dict:
    """All that tells a trained model from one that was just built, as a tree.

    Returns:
        ``state_dict``; ``other_parameter``, as RecBole's models declare it; ``outside``, what else changed in training
        (:func:`recbole_persona.train.outside.changed_since`).
    """
    return {
        "state_dict": dict(model.state_dict()),
        "other_parameter": model.other_parameter(),
        "outside": outside.changed_since(model),
    }


def restore_model(model, state: dict, path) -> None:
    """Put :func:`model_state` into a model of the same class and settings.

    Args:
        path: the file that ``state`` was read from, for the text of errors.

    Raises:
        UserError: the weights are those of another model or of other settings, or the file names what no model keeps.
    """
    try:
        model.load_state_dict(state["state_dict"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} is of another model than this {type(model).__name__}: {first}") from None
    with fitting(path, f"this {type(model).__name__}"):
        if isinstance(model, torch.nn.Module) and "outside" in state:
            outside.put_back(model, state["outside"])
            model.load_other_parameter(outside.to_device(state["other_parameter"], outside.device_of(model)))
        else:
            model.load_other_parameter(state.get("other_parameter"))


@contextmanager
def fitting(path, what):
    """Make one sentence of whatever goes wrong when content of another form is put where ``what`` has no place for it."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, KeyError, IndexError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = one_sentence(error).rstrip(".")
        raise UserError(f"{path} does not fit {what} ({reason}); it was damaged or edited.") from None


def save_model_state(model, path, **facts) -> None:
    """Write a model to ``path``: a safetensors file that shows its weights under their own names.

    Args:
        facts: trees to keep beside the weights, such as ``config`` and ``epoch``.

    Raises:
        UserError: the disk is full, or may not be written to.
    """
    save_tree({**model_state(model), **facts}, path)


def load_model_state(model, path) -> None:
    """Read ``path``, a file of :func:`save_model_state` or a checkpoint of RecBole in a safe format, into ``model``.

    Raises:
        UserError: the file is missing, truncated, a pickle, or of another model or other settings.
    """
    restore_model(model, load_tree(path), path)
