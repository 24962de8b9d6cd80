"""The exceptions that stand for a mistake of the user: their text is one sentence that says what to do."""

import re


class UserError(ValueError):
    """A mistake of the user. The command line prints the text without a traceback and ends with status 2."""


class TrainingDiverged(UserError):
    """A loss or a weight that is no number."""


class StorageError(UserError):
    """A file that could not be written: the disk is full, or may not be written to."""


class Busy(UserError):
    """A folder that another process is at work in."""


def one_sentence(error: BaseException) -> str:
    """The text of somebody else's error as the end of a sentence of ours."""
    text = " ".join(str(error).split()).strip(" .'\"")
    return (re.sub(r"\. (?=[A-Z])", "; ", text) or type(error).__name__) + "."
