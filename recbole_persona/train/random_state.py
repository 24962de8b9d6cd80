"""Every source of random numbers that training draws from: the process's own, and generators that objects hold."""

import random
from logging import Logger
from types import ModuleType

import numpy as np
import pandas as pd
import torch

from recbole_persona.errors import UserError

_SOURCES = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_WITHOUT = (torch.Tensor, np.ndarray, pd.DataFrame, pd.Series, Logger, ModuleType, type, str, bytes)
_FEW = 100  # a list of loaders or samplers is short; a longer one holds data


def process_state() -> dict:
    """The state of torch (CPU and every CUDA device), numpy and python, as a tree."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def set_process_state(state: dict) -> None:
    """Continue the process's random numbers from :func:`process_state`."""
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda in zip(range(torch.cuda.device_count()), state["cuda"]):
        torch.cuda.set_rng_state(cuda.cpu(), device)
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def generators(roots: dict) -> dict:
    """The random generators that objects hold, by the path that leads to them.

    Args:
        roots: name -> object (a data loader, a model, None). Attributes and short containers are followed.

    Returns:
        ``{"train.general_dataloader.generator": generator, …}``, each generator once.
    """
    found, seen = {}, set()

    def visit(value, path):
        if id(value) in seen or isinstance(value, _WITHOUT):
            return
        seen.add(id(value))
        if isinstance(value, _SOURCES):
            found[path] = value
            return
        children = ()
        if isinstance(value, (dict, list, tuple)):
            if len(value) <= _FEW:
                children = value.items() if isinstance(value, dict) else enumerate(value)
        elif hasattr(value, "__dict__"):
            children = vars(value).items()
        for name, child in list(children):
            visit(child, f"{path}.{name}")

    for name, root in roots.items():
        visit(root, name)
    return found


def generator_states(roots: dict) -> dict:
    """The state of every generator that :func:`generators` finds, as a tree."""
    return {path: _state(generator) for path, generator in generators(roots).items()}


def set_generator_states(roots: dict, states: dict) -> None:
    """Continue the generators of ``roots`` from :func:`generator_states`.

    Raises:
        UserError: a generator of the saved state is not there, so the data cannot come in the same order.
    """
    found = generators(roots)
    for path, state in states.items():
        if path not in found:
            raise UserError(
                f"The saved state holds the random generator {path}, which this data loader does not have; "
                "resume with the settings and the versions that the run began with."
            )
        _set_state(found[path], state)


def _state(generator):
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def _set_state(generator, state):
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)
