"""The exceptions that stand for a mistake of the user: their text is one sentence that says what to do."""

import difflib
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
    text = " ".join(str(error).split()).strip(" .")
    if text[:1] in ("'", '"') and text.count(text[0]) == 2 and text.endswith(text[0]):  # quotes around all of it
        text = text[1:-1].strip(" .")
    if type(error) is KeyError and len(error.args) == 1:  # whose text is the key alone
        text = f"{str(error.args[0])!r} is looked up and is not there"
    return (re.sub(r"\. (?=[A-Z])", "; ", text) or type(error).__name__) + "."


def nearest(name, known: Iterable, most=1) -> str:
    """The names that are like one that does not exist, best first, as the end of a sentence; "" where none is like it."""
    spelled = {str(each).lower(): str(each) for each in known}
    found = difflib.get_close_matches(str(name).lower(), spelled, n=most, cutoff=0.6)
    near = [repr(spelled[each]) for each in found]
    if len(near) < 2:
        return "".join(f"; the nearest is {each}" for each in near)
    return f"; the nearest are {', '.join(near[:-1])} and {near[-1]}"


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
