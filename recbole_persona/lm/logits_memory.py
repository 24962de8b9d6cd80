"""How much memory the logits of a training batch take: with a large vocabulary, more than all else."""

import psutil
import torch

from recbole_persona.errors import UserError

BYTES = 12  # of a logit, its log-probability and its gradient, in single precision
SHARE = 0.5  # of the device's memory that they may take


def check_logits(rows, positions, tokens, device, other) -> None:
    """Refuse a batch whose logits would not leave room for the rest.

    Args:
        rows, positions, tokens: shape of the logits.
        device: torch's, which the model is trained on.
        other: settings that may be lowered, besides ``train_batch_size``.

    Raises:
        UserError: they take more than ``SHARE`` of the memory.
    """
    memory = memory_of(device)
    needed = rows * positions * tokens * BYTES
    if needed > SHARE * memory:
        raise UserError(
            f"The logits of a training batch take {needed / 2**30:.1f} GiB ({rows:,} rows x {positions:,} positions x "
            f"{tokens:,} tokens x {BYTES} bytes), more than {SHARE:.0%} of the {memory / 2**30:.1f} GiB of {device.type}; "
            f"lower train_batch_size, or {other}."
        )


def memory_of(device) -> int:
    """Bytes of a device: of a GPU its own, else the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total
