"""One batch through the loss before a run begins: what cannot be computed is refused while nothing is written.

The probe leaves no trace. Random numbers, weights, buffers, the attributes of the model and its mode are afterwards what
they were before, so that a run is the same to the last bit with and without it.
"""

from contextlib import contextmanager

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.trainer import trainer as upstream
from torch.utils.data import DataLoader

from recbole_persona.errors import TrainingDiverged
from recbole_persona.train.random_state import generator_states, process_state, set_generator_states, set_process_state

_FEW = 4  # rows of a batch for a language model, whose step is dear
_CONTAINERS = (list, dict, set)


class LossComputed(Exception):
    """Ends RecBole's loop over the batches as soon as it has a loss, before the backward pass."""


class FirstBatch:
    """A training loader of which only the first batch comes; everything else is asked of the loader.

    Args:
        loader: of RecBole or ours.
        rows: how many rows of the batch to take at most; None for all.
    """

    def __init__(self, loader, rows=None):
        self.loader, self.rows, self.batch = loader, rows, None

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return 1

    def __iter__(self):
        with _without_workers(self.loader):
            for batch in self.loader:
                few = self.rows and type(batch) is Interaction and len(batch) > self.rows
                self.batch = batch[: self.rows] if few else batch
                yield self.batch
                return


def first_batch(trainer, loader) -> FirstBatch | None:
    """The first batch for a trainer that trains as RecBole's own do; None for any other.

    A trainer with a ``fit`` of its own prepares before the first epoch what its loss needs (NCL its clusters), and one with
    another loop over the batches may not stop at the loss. Several processes would have to stop together.
    """
    own = [base for base in type(trainer).__mro__ if not base.__module__.startswith("recbole_persona.")]
    loop = next(base for base in own if "_train_epoch" in vars(base))
    fit = next(base for base in own if "fit" in vars(base))
    if loop.__module__ != upstream.__name__ or fit is not upstream.Trainer or not trainer.config["single_spec"]:
        return None
    return FirstBatch(loader, _FEW if hasattr(trainer.model, "generate") else None)


@contextmanager
def untouched(model, loader):
    """Inside the block a model may compute losses of batches of a loader; afterwards both are as they were."""
    sources = {"model": model, "train": loader}
    random, generators = process_state(), generator_states(sources)
    modules = [(module, _contents(module)) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [(tensor, tensor.detach().clone()) for tensor in (*trained, *model.buffers())]
    _lend_copies(model)
    try:
        yield
    finally:
        for module, contents in modules:
            _put_back(module, contents)
        for tensor, before in weights:
            if not torch.equal(tensor, before):  # batch normalisation writes without counting it
                tensor.data.copy_(before)
        set_generator_states(sources, generators)
        set_process_state(random)


def check_number(trainer, loss, batch) -> None:
    """Refuse a first loss that is no number: no step was made yet, so the data or the settings make it so.

    Raises:
        TrainingDiverged: names the columns of the batch that hold no numbers, if there are any.
    """
    if torch.isfinite(loss).all():
        return
    columns = batch.interaction.items() if isinstance(batch, Interaction) else ()
    bad = [name for name, value in columns if value.is_floating_point() and not torch.isfinite(value).all()]
    cause = f"the column {bad[0]!r} holds values that are no numbers" if bad else "its settings make it overflow"
    raise TrainingDiverged(
        f"The loss of {trainer.config['model']} is not a number on the first batch, before any step: {cause}; "
        f"{'correct or leave out the column' if bad else 'change those that scale weights, scores or losses'}."
    )


def _contents(module) -> dict:
    """``{attribute: (value, copy)}``; the copy only of containers, which a loss may change in place."""
    return {name: (value, value.copy() if type(value) in _CONTAINERS else None) for name, value in vars(module).items()}


def _put_back(module, contents):
    for name, (value, copy) in contents.items():
        vars(module)[name] = value
        if copy is not None:
            value.clear()
            value.extend(copy) if isinstance(value, list) else value.update(copy)
    for name in vars(module).keys() - contents.keys():
        del vars(module)[name]


def _lend_copies(model):
    """Let attributes that are tensors or arrays be copies; that a tensor was written to is counted, and cannot be undone."""
    copies = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.layout == torch.strided:
                vars(module)[name] = copies.setdefault(id(value), value.detach().clone())
            elif isinstance(value, np.ndarray):
                vars(module)[name] = copies.setdefault(id(value), value.copy())


@contextmanager
def _without_workers(loader):
    """While one batch is made: a loader starts no processes for it."""
    loaders = [part for part in (loader, *vars(loader).values()) if isinstance(part, DataLoader)]
    numbers = [part.num_workers for part in loaders]
    for part in loaders:
        part.num_workers = 0
    try:
        yield
    finally:
        for part, number in zip(loaders, numbers):
            part.num_workers = number
