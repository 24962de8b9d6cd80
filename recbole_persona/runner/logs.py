"""What a run logs, and what it shows while it trains."""

import logging
import sys
import time
from contextlib import contextmanager
from logging import getLogger
from logging.handlers import MemoryHandler

from recbole.utils.logger import RemoveColorFilter
from torch.optim.optimizer import register_optimizer_step_post_hook

from recbole_persona import progress


@contextmanager
def logging_to(config):
    """RecBole logs to the root logger: everything goes to ``train.log``, warnings to the screen as well.

    What is logged before the run begins is held back: a refused run writes nothing.
    """
    root = getLogger()
    kept, level = root.handlers[:], root.level
    log = _HeldLog()
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    screen.addFilter(RemoveColorFilter())
    root.handlers[:] = [log, screen]
    root.setLevel(getattr(logging, str(config["state"] or "INFO").upper(), logging.INFO))
    try:
        yield log
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
        log.close()


class _HeldLog(MemoryHandler):
    """Holds what is logged, as text, until it is told the file."""

    def __init__(self):
        super().__init__(capacity=sys.maxsize, flushLevel=sys.maxsize)
        self.addFilter(RemoveColorFilter())

    def emit(self, record):
        record.msg, record.args = record.getMessage(), None  # what is logged may change until it is written
        super().emit(record)

    def write_to(self, file) -> None:
        """Write to ``file`` what was held, and all that comes at once."""
        handler = logging.FileHandler(file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.setTarget(handler)
        self.capacity = 0
        self.flush()

    def close(self):
        if self.target is not None:
            self.target.close()
        super().close()


@contextmanager
def quiet():
    """Warnings alone are logged."""
    root = getLogger()
    level = root.level
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(level)


@contextmanager
def epoch_bar(config, trainer, callback):
    """One bar over the epochs, with the loss and the validation score beside it; lines where there is no terminal.

    It also shows the steps of the optimiser now and then, so that an epoch that takes long is seen to go on.
    """
    on_terminal = sys.stderr.isatty()
    silent = config["show_progress"] or (callback is not None and not on_terminal)
    with progress.progress(
        total=getattr(trainer, "epochs", config["epochs"]),
        initial=getattr(trainer, "start_epoch", 0),
        desc=f"{config['model']} on {config['dataset']}",
        unit="epoch",
        disable=silent,
        leave=callback is None,
    ) as bar:
        trainer.epoch_begins = lambda epoch: bar.update(epoch - bar.n)  # also where nothing is validated
        steps, scores, shown = 0, "", time.monotonic()

        def after_step(*_):
            nonlocal steps, shown
            steps += 1
            if time.monotonic() - shown > (1 if on_terminal else progress.SECONDS):
                shown = time.monotonic()
                bar.set_postfix_str(f"{steps:,} steps{scores}")

        def after_validation(epoch, valid_score):
            nonlocal scores, shown
            loss = getattr(trainer, "train_loss_dict", {}).get(epoch, float("nan"))
            scores = f", loss {loss:.4g}, valid {config['valid_metric'].lower()} {valid_score:.4f}"
            shown = time.monotonic()
            bar.set_postfix_str(f"{steps:,} steps{scores}" if steps else scores[2:], refresh=False)
            bar.update(epoch + 1 - bar.n)
            if callback:
                callback(epoch, valid_score)

        hook = None if silent else register_optimizer_step_post_hook(after_step)
        try:
            yield after_validation
        finally:
            if hook:
                hook.remove()
