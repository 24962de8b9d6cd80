"""The one exception that stands for a mistake of the user: its text is one sentence that says what to do."""


class UserError(ValueError):
    """A mistake of the user. The command line prints the text without a traceback and ends with status 2."""
