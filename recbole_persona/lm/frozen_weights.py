"""Checkpoints without the weights that were never trained: a digest of the pretrained model takes their place."""

import hashlib

import torch

from recbole_persona.errors import UserError

NAME, DIGEST = "pretrained_name", "pretrained_sha256"  # entries of a state_dict, uint8 as it holds nothing but tensors


class FrozenWeights:
    """Leaves the parameters that a pretrained model was loaded with, and that are not trained, out of ``state_dict``.

    The model's name and a digest of its parameters are put in. ``load_state_dict`` takes what was left out from the model
    itself, which must have the same digest. A ``state_dict`` that holds all parameters is loaded as it stands; those that
    differ from the pretrained ones are no longer left out.

    Args:
        llm: a pretrained model as ``from_pretrained`` returns it.
        name: its id or folder.
        missing: names of parameters that were not in its files: they are random, and always saved.
    """

    def __init__(self, llm, name, missing=()):
        loaded = {key: value for key, value in llm.named_parameters() if key not in missing}
        digest = torch.frombuffer(bytearray(_digest(loaded)), dtype=torch.uint8)
        self.entries = {NAME: torch.frombuffer(bytearray(name.encode()), dtype=torch.uint8), DIGEST: digest}
        self.parameters = {value: (value.data_ptr(), value._version) for value in loaded.values()}

    def leave_out_of(self, module) -> None:
        """Register the hooks on a module that contains the model, once adapters have been put in.

        Some adapters (PiSSA, OLoRA) start by changing the weights beside them: those are not left out.
        """
        as_loaded = self.parameters.items()
        self.parameters = {value for value, mark in as_loaded if mark == (value.data_ptr(), value._version)}
        module.register_state_dict_post_hook(self)
        module.register_load_state_dict_pre_hook(self._complete)

    def __call__(self, module, state_dict, prefix, _):
        """The hook of ``state_dict``. Names and what is trained are looked up each time: both may have changed."""
        for name, value in module.named_parameters(prefix[:-1], remove_duplicate=False):
            if value in self.parameters and not value.requires_grad:
                state_dict.pop(name, None)
        state_dict.update({prefix + name: value for name, value in self.entries.items()})

    def check(self, state_dict, prefix) -> None:
        """Raise UserError for a ``state_dict`` that belongs to another pretrained model."""
        digest = state_dict.get(prefix + DIGEST, self.entries[DIGEST]).cpu()
        if not torch.equal(digest, self.entries[DIGEST]):
            raise UserError(
                f"These weights need the backbone {_text(state_dict[prefix + NAME])} (sha256 {_short(digest)}) that they were "
                f"trained with; {_text(self.entries[NAME])}, as loaded here, has other weights or another dtype "
                f"(sha256 {_short(self.entries[DIGEST])})."
            )

    def _complete(self, module, state_dict, prefix, *_):
        self.check(state_dict, prefix)
        partial = state_dict.pop(prefix + DIGEST, None) is not None
        state_dict.pop(prefix + NAME, None)
        for name, value in module.named_parameters(prefix[:-1], remove_duplicate=False):
            if value not in self.parameters:
                continue
            given = state_dict.get(name)
            if given is None and partial:
                state_dict[name] = value.detach()
            elif given is not None and not torch.equal(given.to(value), value):
                self.parameters.remove(value)


def _digest(tensors) -> bytes:
    """SHA-256 over names, dtypes, shapes and contents."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.digest()


def _text(characters) -> str:
    return bytes(characters.tolist()).decode(errors="replace")


def _short(digest) -> str:
    return bytes(digest.tolist()).hex()[:12]
