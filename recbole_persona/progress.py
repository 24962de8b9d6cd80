"""Progress of long work: a bar on a terminal, elsewhere a line now and then."""

import sys

from tqdm import tqdm

SECONDS = 30  # between two lines, and before the first
_PLURALS = {"B": "bytes", "batch": "batches"}


class _Lines:
    """The standard error as tqdm writes to it, a line for each state of the bar."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def progress(iterable=None, **options) -> tqdm:
    """As ``tqdm``; where the standard error is no terminal, one line every 30 seconds, and none of work that ends sooner."""
    if not sys.stderr.isatty():
        pace = {"delay": SECONDS, "mininterval": SECONDS, "maxinterval": SECONDS, "miniters": 1}
        unit = options.get("unit", "step")
        options |= pace | {"file": _Lines(), "leave": True, "unit": _PLURALS.get(unit, f"{unit}s")}
        options["bar_format"] = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed}{postfix}"
    return tqdm(iterable, **options)
