"""RecBole's trainers with a run folder: safe and atomic files, and training that continues bit for bit.

RecBole calls ``_train_epoch`` once per epoch, after it has finished validation, early stopping and best result of the
epoch before: there the state is written, and there it is put back.
"""

import os
import signal
import threading
import time
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import torch
from recbole.trainer import trainer as upstream
from torch.autograd.graph import increment_version
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.tensorboard import SummaryWriter

from recbole_persona.errors import TrainingDiverged, UserError
from recbole_persona.evaluate.passes import EvaluationPasses
from recbole_persona.train.checkpoint import fitting, load_model_state, model_state, restore_model, save_model_state
from recbole_persona.train.first_batch import LossComputed, check_number, first_batch, untouched
from recbole_persona.train.outside import remember
from recbole_persona.train.random_state import (
    generator_states,
    process_state,
    set_generator_states,
    set_process_state,
)
from recbole_persona.train.steps import SteppedBatches, SteppedOptimizer, check_steps, trains_by_steps
from recbole_persona.upstream.files import load_tree, remove_leftovers, save_tree
from recbole_persona.upstream.tree import same_kind

FORMAT = 1  # of the state
_PROGRESS = ("cur_step", "best_valid_score", "best_valid_result", "train_loss_dict")
_PARTS = {
    "trainer": list, "epoch": int, "in_epoch": bool, "seconds": float, "progress": dict, "model": dict, "bindings": dict,
    "steppers": dict, "random": dict, "generators": dict,
}  # fmt: skip


@cache
def resumable(upstream_class):
    """A subclass of a RecBole trainer, with the same name, that writes to ``config["run_dir"]`` and resumes from there.

    Without ``run_dir`` it writes what RecBole writes, where RecBole writes it.
    """
    if issubclass(upstream_class, (RunTrainer, TreeRunTrainer)):
        return upstream_class
    trees = issubclass(upstream_class, upstream.DecisionTreeTrainer)
    ours = (TreeRunTrainer,) if trees else (RunTrainer, EvaluationPasses)
    names = {"__doc__": upstream_class.__doc__, "__module__": __name__, "__qualname__": upstream_class.__qualname__}
    return type(upstream_class.__name__, (*ours, upstream_class), names)


@contextmanager
def _written_to(run_dir, config):
    """While RecBole's constructor runs: its folders for checkpoints, TensorBoard and W&B are those of the run."""
    if run_dir is None:
        yield
        return
    config["checkpoint_dir"] = str(run_dir)
    events = _Later(partial(SummaryWriter, str(run_dir / "tensorboard")))
    logger = _Later(partial(_wandb_logger, upstream.WandbLogger, config, run_dir))
    with (
        patch.object(upstream, "get_tensorboard", lambda _: events),
        patch.object(upstream, "WandbLogger", lambda _: logger),
    ):
        yield


def _wandb_logger(logger_class, config, run_dir):
    with patch.dict(os.environ, WANDB_DIR=str(run_dir)):
        return logger_class(config)


@contextmanager
def _half_precision(config):
    """``enable_amp`` on CUDA means bfloat16, as it does on a CPU; float16 with ``enable_scaler``, which it cannot do without."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.float16 if config["enable_scaler"] else torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_dtype("cuda", before)


class _StepsDone(Exception):
    """Ends RecBole's loop over the epochs."""


class _Later:
    """TensorBoard's or W&B's writer, made at its first use: a refused run, or the test of a finished one, writes nothing."""

    def __init__(self, make):
        self._make = make

    def begin(self) -> None:
        """Make it now."""
        if "_writer" not in vars(self):
            self._writer = self._make()

    def close(self) -> None:
        if "_writer" in vars(self):
            self._writer.close()

    def __getattr__(self, name):
        self.begin()
        return getattr(self._writer, name)


def _count_writes(optimizer, *_):
    """The fused kernel writes parameters without counting it in ``Tensor._version``, by which a model knows what it may keep."""
    increment_version([parameter for group in optimizer.param_groups for parameter in group["params"]])


class RunTrainer:
    """What a trainer of gradients gains: see :func:`resumable`. Stands before RecBole's trainer in the bases.

    Attributes:
        run_dir: the run's folder, or None.
        state_file: ``<run_dir>/state/last.safetensors``.
        seconds: of training and validation, those before a resume included.
        validations: of every validation, the epoch, the seconds until its end, and its score.
        epoch_begins: called with the number of every epoch before it, when it is set.
    """

    def __init__(self, config, model):
        self.run_dir = Path(config["run_dir"]) if config["run_dir"] else None
        self._without_gain, self._cumulative = 0, bool(config["cumulative_patience"])
        check_steps(config, type(self))
        with _written_to(self.run_dir, config):
            super().__init__(config, model)
        remember(self.model)
        # Optimisers and schedulers. RecVAE binds one of its three to another name as it trains: a state calls them by
        # the names that they have here.
        self._steppers = {
            name: value for name, value in vars(self).items() if isinstance(value, (Optimizer, LRScheduler))
        }
        self._stepped = self._count_steps() if trains_by_steps(config) else []
        self.seconds, self._since = 0.0, time.perf_counter()
        self.validations = []
        self.epoch_begins = None
        self._resumed = None
        self._epoch = None  # the last epoch that training began
        self._sources = {"model": self.model}  # of random numbers
        self._keeps_state = False
        self._first_batch = None  # while check_first_batch is at work
        if self.run_dir:
            self.saved_model_file = str(self.run_dir / "model.safetensors")
            self.state_file = self.run_dir / "state" / "last.safetensors"

    def _build_optimizer(self, **kwargs):
        """As RecBole's; with ``fused_adam`` Adam and AdamW are built again, with the same groups, as the fused ones."""
        optimizer = super()._build_optimizer(**kwargs)
        if not self.config["fused_adam"] or type(optimizer) not in (Adam, AdamW):
            return optimizer
        groups = [{key: value for key, value in group.items() if key != "fused"} for group in optimizer.param_groups]
        fused = type(optimizer)(groups, fused=True)
        fused.register_step_post_hook(_count_writes)
        return fused

    def _count_steps(self):
        """Put a :class:`SteppedOptimizer` in the place of each optimizer, which clips in place of RecBole's loop."""
        clip, self.clip_grad_norm = self.clip_grad_norm, None
        how = {"warmup_steps": self.config["warmup_steps"], "clip": clip}
        how["accumulation"] = self.config["gradient_accumulation_steps"]
        optimizers = {id(value): value for value in self._steppers.values() if isinstance(value, Optimizer)}
        stepped = {key: SteppedOptimizer(value, self.model.parameters(), **how) for key, value in optimizers.items()}
        for name, value in self._steppers.items():
            self._steppers[name] = stepped.get(id(value), value)
            setattr(self, name, self._steppers[name])
        return list(stepped.values())

    @property
    def steps(self) -> int | None:
        """Steps of the optimizer so far; None where no setting of steps is used."""
        return sum(optimizer.steps for optimizer in self._stepped) if self._stepped else None

    def _steps_done(self) -> bool:
        return bool(self._stepped) and self.config["max_steps"] is not None and self.steps >= self.config["max_steps"]

    @property
    def cur_step(self):
        """Validations without a gain: those in a row, or with ``cumulative_patience`` all of them."""
        return self._without_gain

    @cur_step.setter
    def cur_step(self, number):
        self._without_gain = max(number, self._without_gain) if self._cumulative else number

    def resume(self) -> None:
        """Read the run's state; the next ``fit`` continues from it, to the same bits as if it had never stopped.

        Raises:
            UserError: there is no state, it is truncated, or of other settings.
        """
        if self.run_dir is None:
            raise UserError("Resuming needs a run folder: --run_dir=…")
        if not self.state_file.is_file():
            raise UserError(f"There is nothing to resume in {self.run_dir}: {self.state_file} does not exist.")
        for file in (self.state_file, self.saved_model_file):
            remove_leftovers(file)
        state = load_tree(self.state_file)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise UserError(f"{self.state_file} is the state of another version of recbole_persona; use --rerun.")
        with fitting(self.state_file, "this trainer"):
            self._check_state(state)
        if state["progress"]["best_valid_result"] is not None:
            load_tree(self.saved_model_file)  # without it the run could not end well: better said now
        self._resumed = state
        with fitting(self.state_file, "this trainer"):
            self._put_back(state)
        # With early stopping or the last step behind it, there is nothing left to train.
        stopped = self.cur_step > self.stopping_step or self._steps_done()
        self.start_epoch = max(state["epoch"], self.epochs) if stopped else state["epoch"]
        self.logger.info(f"Resuming from {self.state_file} at epoch {self.start_epoch}.")

    def _check_state(self, state):
        """Refuse a state that names other attributes than this trainer's; resuming would set them, whatever they are."""
        strange = [name for name, kind in _PARTS.items() if not isinstance(state.get(name), kind)]
        if not strange and state["trainer"] != [type(self).__name__, self.config["model"]]:
            raise UserError(f"{self.state_file} is the state of {state['trainer'][-1]}, which is another model.")
        if not strange:
            strange = {*state["progress"]} ^ {*_PROGRESS} | {*state["bindings"]} ^ {*self._steppers}
            strange |= {*state["steppers"], *state["bindings"].values()} - {*self._steppers}
            strange = sorted(map(str, strange))
        if not strange:
            strange = [name for name in _PROGRESS if not same_kind(getattr(self, name), state["progress"][name])]
            for stepper, kept in state["steppers"].items():
                own = self._steppers[stepper].state_dict()  # a schedule takes over whatever it is given
                strange += [
                    f"{stepper}.{name}" for name in kept if name not in own or not same_kind(own[name], kept[name])
                ]
        if strange:
            raise UserError(
                f"{self.state_file} does not fit this trainer ({', '.join(map(repr, strange))}); it was damaged or edited."
            )

    def check_first_batch(self, train_data) -> None:
        """Compute the loss of one batch as the first epoch will, and leave everything as it was.

        Raises:
            TrainingDiverged: the loss is no number.
            Exception: whatever the model raises.
        """
        self._first_batch = first_batch(self, train_data)
        if self._first_batch is None:
            return
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        try:
            with untouched(self.model, train_data), _half_precision(self.config):
                super()._train_epoch(self._first_batch, 0)
        except LossComputed:
            self.optimizer.zero_grad()
        finally:
            self._first_batch = None

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """As RecBole's ``fit``; with a run folder and ``saved``, the state is kept at every epoch.

        Raises:
            TrainingDiverged: a loss or a weight that is no number.
            StorageError: a full disk.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the text says how to continue.
        """
        self._sources.update(train=train_data, valid=valid_data)
        self._keeps_state = bool(self.run_dir and saved)
        if isinstance(self.wandblogger, _Later):
            self.wandblogger.begin()
        if self._resumed:
            self._continue_random_numbers(self._resumed)
        self._since = time.perf_counter()
        with self._interruptible(), _half_precision(self.config):
            try:
                result = super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
            except _StepsDone:
                self._add_hparam_to_tensorboard(self.best_valid_score)  # RecBole's fit ends with it
                result = self.best_valid_score, self.best_valid_result
            if self._keeps_state and self._epoch is not None:
                if not Path(self.saved_model_file).is_file():  # no validation, or none that gave a number
                    self._save_checkpoint(self._epoch, verbose=verbose)
                self._save_state(self._epoch + 1, in_epoch=False)
        self.tensorboard.flush()
        return result

    def _train_epoch(self, train_data, epoch_idx, *args, **kwargs):
        if self._steps_done():
            raise _StepsDone
        if self.epoch_begins:
            self.epoch_begins(epoch_idx)
        if self._resumed and self._resumed["in_epoch"]:
            # Between the start of fit and here RecBole may compute (NCL its clusters): what was saved here counts.
            with fitting(self.state_file, "this trainer"):
                self._put_back(self._resumed)
            self._continue_random_numbers(self._resumed)
        elif self._keeps_state:
            self._save_state(epoch_idx, in_epoch=True)
        self._resumed, self._epoch = None, epoch_idx
        if not self._stepped:
            return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)
        batches = SteppedBatches(train_data, self._stepped, self._steps_done)
        loss = super()._train_epoch(batches, epoch_idx, *args, **kwargs)
        if self._steps_done():  # whichever epoch this is, it is validated, and pre-training saved
            self.eval_step = min(self.eval_step, 1)
            if isinstance(self, upstream.PretrainTrainer):
                self.save_step = 1
        return loss

    def _valid_epoch(self, *args, **kwargs):
        score, found = super()._valid_epoch(*args, **kwargs)
        seconds = self.seconds + time.perf_counter() - self._since
        self.validations.append([self._epoch, round(seconds, 3), float(score)])
        return score, found

    def _save_state(self, epoch, in_epoch):
        """Write all that resuming at ``epoch`` needs; ``in_epoch``: whether the epoch has begun."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        self._check_weights()
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        names = {id(stepper): name for name, stepper in self._steppers.items()}
        bindings = {name: names[id(getattr(self, name))] for name in self._steppers}
        state = {
            "format": FORMAT,
            "trainer": [type(self).__name__, self.config["model"]],
            "epoch": epoch,
            "in_epoch": in_epoch,
            "seconds": self.seconds,
            "validations": self.validations,
            "progress": {name: getattr(self, name) for name in _PROGRESS},
            "model": model_state(self.model),
            "bindings": bindings,
            "steppers": {name: self._steppers[name].state_dict() for name in dict.fromkeys(bindings.values())},
            "random": process_state(),
            "generators": generator_states(self._sources),
        }
        save_tree(state, self.state_file)

    def _put_back(self, state):
        self.seconds, self.validations = state["seconds"], list(state.get("validations", []))
        restore_model(self.model, state["model"], self.state_file)
        for name, stepper in state["steppers"].items():
            self._steppers[name].load_state_dict(stepper)
        for name in self._steppers:  # only what this trainer declares: a state may come from anybody
            setattr(self, name, self._steppers[state["bindings"][name]])
        for name in _PROGRESS:
            setattr(self, name, state["progress"][name])

    def _continue_random_numbers(self, state):
        with fitting(self.state_file, "this trainer"):
            set_generator_states(self._sources, state["generators"])
            set_process_state(state["random"])

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if self.run_dir is None:
            return super()._save_checkpoint(epoch, verbose=verbose, **kwargs)
        self._check_weights()
        file = kwargs.get("saved_model_file", self.saved_model_file)
        finished_before = epoch == -1 and self._resumed and Path(file).is_file()
        if finished_before or (not self.config["single_spec"] and self.config["local_rank"] != 0):
            return
        save_model_state(self.model, file, config=self.config, epoch=epoch)
        if verbose:
            self.logger.info(f"Saving current: {file}")

    def save_pretrained_model(self, epoch, saved_model_file):
        """As RecBole's; with a run folder, the pre-trained model is the run's model."""
        if self.run_dir is None:
            return super().save_pretrained_model(epoch, saved_model_file)
        self._save_checkpoint(epoch, verbose=False)

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """As RecBole's; the best model comes with what it keeps outside its ``state_dict``."""
        if self.run_dir and load_best_model and eval_data:
            load_model_state(self.model, model_file or self.saved_model_file)
            load_best_model = False
        return super().evaluate(eval_data, load_best_model, model_file, show_progress)

    def _check_nan(self, loss):
        if self._first_batch is not None:
            check_number(self, loss, self._first_batch.batch)
            raise LossComputed
        if torch.isnan(loss).any():
            raise TrainingDiverged(self._no_number("The training loss"))

    def _check_weights(self):
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter.detach()).all():
                raise TrainingDiverged(self._no_number(f"A weight of {name}"))

    def _no_number(self, what):
        kept = f"the last good state is {self.state_file}" if self._keeps_state and self.state_file.is_file() else ""
        best = f"the best model so far is {self.saved_model_file}" if Path(self.saved_model_file).is_file() else ""
        where = "; ".join(part for part in (kept, best) if part)
        advice = f"lower learning_rate (now {self.learning_rate}) and train again"
        when = "before training" if self._epoch is None else f"in epoch {self._epoch}"
        return f"{what} is not a number {when}: {advice}{'; ' + where if where else ''}."

    @contextmanager
    def _interruptible(self):
        """Ctrl-C and SIGTERM end training with a sentence that says how to continue."""

        def interrupt(signum, frame):
            raise KeyboardInterrupt

        catch = self._keeps_state and threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, interrupt) if catch else None
        try:
            yield
        except KeyboardInterrupt:
            if not self._keeps_state or not self.state_file.is_file():
                raise
            text = f"Training was stopped in epoch {self._epoch}; continue it with --resume={self.run_dir}."
            raise KeyboardInterrupt(text) from None
        finally:
            if catch:
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class TreeRunTrainer:
    """What a trainer of decision trees gains: its files are in the run folder. It has no epochs to resume from."""

    def __init__(self, config, model):
        self.run_dir = Path(config["run_dir"]) if config["run_dir"] else None
        with _written_to(self.run_dir, config):
            super().__init__(config, model)
        if self.run_dir:
            suffix = "ubj" if type(self).__name__ == "XGBoostTrainer" else "txt"  # XGBoost goes by it
            self.temp_file = str(self.run_dir / "state" / f"last.{suffix}")
            self.temp_best_file = str(self.run_dir / "state" / f"best.{suffix}")
            self.saved_model_file = str(self.run_dir / "model.safetensors")

    def fit(self, *arguments, **options):
        """As RecBole's ``fit``; its temporary files are those of the run's state."""
        if self.run_dir:
            (self.run_dir / "state").mkdir(parents=True, exist_ok=True)
        return super().fit(*arguments, **options)

    def resume(self) -> None:
        """Raises UserError: trees are grown at once."""
        raise UserError("Decision trees are grown at once and cannot be resumed; start again with --rerun.")
