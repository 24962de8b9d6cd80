"""The exceptions that stand for a mistake of the user: their text is one sentence that says what to do."""

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus


class UserError(ValueError):
    """A mistake of the user. The command line prints the text without a traceback and ends with status 2."""


class TrainingDiverged(UserError):
    """A loss or a weight that is no number."""


class StorageError(UserError):
    """A file that could not be written: the disk is full, or may not be written to."""


class Untrusted(UserError):
    """Settings that came with a file would run code that is not installed here."""


class Busy(UserError):
    """A folder that another process is at work in."""


def one_sentence(error: BaseException) -> str:
    """The text of somebody else's error as the end of a sentence of ours."""
    text = " ".join(str(error).split()).strip(" .'\"")
    return (re.sub(r"\. (?=[A-Z])", "; ", text) or type(error).__name__) + "."


def hidden(text: str, secrets: Iterable[str]) -> str:
    """A text with ``***`` in place of every secret, as it is, as ``repr`` shows it, and percent-encoded.

    A secret of fewer than four characters is replaced where it stands as a word: ``***`` within words would tell what it is.
    """
    forms = set()
    for secret in secrets:
        forms |= {secret, repr(secret)[1:-1], ascii(secret)[1:-1], quote_plus(secret)}
        forms |= {quote(secret, safe) for safe in ("", "/", " +")}
    for form in sorted(forms - {""}, key=len, reverse=True):  # the longest first: a secret may be part of another
        pattern = re.escape(form)
        text = re.sub(pattern if len(form) > 3 else rf"(?<!\w){pattern}(?!\w)", "***", text)
    return text
