"""The one exception that stands for a mistake of the user: its text is one sentence that says what to do."""

import re


class UserError(ValueError):
    """A mistake of the user. The command line prints the text without a traceback and ends with status 2."""


def one_sentence(error: BaseException) -> str:
    """The text of somebody else's error as the end of a sentence of ours."""
    text = " ".join(str(error).split()).strip(" .'\"")
    return (re.sub(r"\. (?=[A-Z])", "; ", text) or type(error).__name__) + "."
