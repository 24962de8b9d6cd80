"""Training by optimizer steps: ``max_steps``, ``warmup_steps`` and ``gradient_accumulation_steps``.

RecBole's loop calls ``zero_grad``, ``backward`` and ``step`` for every batch. Here ``step`` decides what becomes of that.
"""

from recbole.trainer import trainer as upstream
from recbole.utils import ModelType
from torch.nn.utils import clip_grad_norm_

from recbole_persona.errors import UserError

# Their epoch goes through the data several times, each with a loss of its own, and RecBole adds the losses up.
_SEVERAL_PASSES = (upstream.KGATTrainer, upstream.MKRTrainer, upstream.RecVAETrainer)


def trains_by_steps(config) -> bool:
    """Whether a setting asks for something else than one step a batch until the last epoch.

    A config out of a checkpoint of RecBole has none of these keys.
    """
    warmup, accumulation = config["warmup_steps"] or 0, config["gradient_accumulation_steps"] or 1
    asked = config["max_steps"] is not None or warmup > 0 or accumulation > 1
    return asked and config["MODEL_TYPE"] not in (ModelType.TRADITIONAL, ModelType.DECISIONTREE)


def check_steps(config, trainer_class) -> None:
    """Refuse what a trainer cannot do.

    Raises:
        UserError: ``max_steps`` where an epoch is several passes; accumulation of scaled gradients.
    """
    if not trains_by_steps(config):
        return
    if config["max_steps"] is not None and issubclass(trainer_class, _SEVERAL_PASSES):
        raise UserError(
            f"{config['model']} goes through the data several times in an epoch, once for each of its losses, and cannot "
            "stop within it: leave max_steps out and set epochs."
        )
    if config["gradient_accumulation_steps"] > 1 and config["enable_scaler"]:
        raise UserError(
            "gradient_accumulation_steps does not work with enable_scaler, whose gradients are scaled; leave enable_scaler "
            "out (enable_amp then computes in bfloat16, which needs none)."
        )


class SteppedOptimizer:
    """An optimizer that counts its steps, warms its learning rate up, and can step once for several batches.

    A step uses the mean of the gradients since the step before, clipped once.

    Args:
        optimizer: of torch.
        parameters: whose gradients are averaged and clipped.
        warmup_steps: step n of the first ``warmup_steps`` has n / warmup_steps of the learning rate.
        accumulation: batches to a step.
        clip: arguments of ``clip_grad_norm_``, or None.

    Attributes:
        steps: that were made.
    """

    def __init__(self, optimizer, parameters, warmup_steps=0, accumulation=1, clip=None):
        self.optimizer, self.warmup_steps, self.accumulation, self.clip = optimizer, warmup_steps, accumulation, clip
        self.steps = 0
        self._parameters = list(parameters)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._batches = 0  # since the last step

    @property
    def param_groups(self) -> list[dict]:
        """Those of the optimizer; torch's ``GradScaler`` reads them."""
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        """Forget the gradients, unless they are those of batches that no step was made for yet."""
        if not self._batches:
            self.optimizer.zero_grad()

    def step(self) -> None:
        """Take note of a batch; step when there are as many as ``accumulation``."""
        self._batches += 1
        if self._batches == self.accumulation:
            self.flush()

    def flush(self) -> None:
        """Step for the batches since the last step, if there are any."""
        if not self._batches:
            return
        if self._batches > 1:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self._batches)
        if self.clip:
            clip_grad_norm_(self._parameters, **self.clip)
        if self.steps < self.warmup_steps:
            for group, rate in zip(self.optimizer.param_groups, self._rates):
                group["lr"] = rate * ((self.steps + 1) / self.warmup_steps)
        self.optimizer.step()
        self.steps += 1
        self._batches = 0

    def state_dict(self) -> dict:
        """The optimizer's, and the count of steps; batches without a step are not kept, an epoch ends without any."""
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        """Continue from :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


class SteppedBatches:
    """A data loader for RecBole's loop: it ends with the last step, and no batch is left without a step at its end.

    Args:
        loader: of RecBole; everything else is asked of it.
        optimizers: :class:`SteppedOptimizer`, those that may step in a pass over the loader.
        done: function that says whether the last step was made.
    """

    def __init__(self, loader, optimizers, done):
        self._loader, self._optimizers, self._done = loader, optimizers, done

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def __len__(self):
        return len(self._loader)

    def __iter__(self):
        for batch in self._loader:
            yield batch
            if self._done():
                return
        for optimizer in self._optimizers:
            optimizer.flush()
