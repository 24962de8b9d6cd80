"""A language model as judge, behind an endpoint that speaks OpenAI's protocol: how well a text stands for the user's own, 0-10.

The scale is that of Qiu et al., Measuring What Makes You Unique, Findings of ACL 2025 (DPL), whose prompt is not this one.
Texts leave the machine: the metric runs only where ``judge_url`` is set.
"""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger

import numpy as np

from recbole_persona.errors import UserError, one_sentence

KEY = "RECBOLE_PERSONA_JUDGE_KEY"  # environment variable; sent as a bearer token where it is set
AT_ONCE, TIMEOUT = 8, 120  # requests; seconds
PROMPT = """A recommender wrote an explanation for one user. Compare it with what this user really wrote about the same item.

What the user wrote: {reference}
What the recommender wrote: {generated}

Give a whole number from 0 to 10: 10 means the same points, opinion and manner; 5 means that about half of it agrees; 0 means \
that it has nothing to do with what the user wrote. Answer with the number alone."""


def judged(url: str, model: str, hypotheses, references) -> np.ndarray:
    """Ask the judge about every pair.

    Args:
        url: of the endpoint, to which ``/chat/completions`` is added, such as ``http://localhost:8000/v1``.
        model: name that the endpoint knows.

    Returns:
        (n,) float64 in 0-10, NaN where the answer begins with no number from 0 to 10.

    Raises:
        UserError: the endpoint cannot be reached, or refuses.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda pair: _answer(url, model, *pair), zip(hypotheses, references)))
    values = np.array([number(answer) for answer in answers], dtype=float)
    if unclear := int(np.isnan(values).sum()):
        getLogger().warning("The judge gave no number for %d of %d texts; they are left out.", unclear, len(values))
    return values


def number(answer: str) -> float:
    """The number at the beginning of an answer such as ``8``, ``8/10`` or ``**8**``; NaN for any other."""
    found = re.match(r"\W*(\d+(?:\.\d+)?)", answer)
    return float(found[1]) if found and float(found[1]) <= 10 else float("nan")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: followed, it would carry the key and the users' texts to another host."""

    def redirect_request(self, request, *args):
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _answer(url, model, generated, reference) -> str:
    question = PROMPT.format(reference=reference, generated=generated or "(nothing)")
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 8}
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with _OPENER.open(request, timeout=TIMEOUT) as response:
            return json.load(response)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError, TypeError) as error:  # urllib's errors are OSErrors
        if isinstance(error, urllib.error.HTTPError) and 300 <= error.code < 400:
            raise UserError(
                f"The judge at {_shown(url)} (judge_url) redirects to another address, which is not followed, since texts and "
                "key would go with it; write the final address as judge_url."
            ) from None
        reason = one_sentence(error)
        if key := os.environ.get(KEY):
            reason = reason.replace(key, "…").replace(repr(key)[1:-1], "…")
        raise UserError(f"The judge at {_shown(url)} (judge_url) does not answer as it should: {reason}") from None


def _shown(url) -> str:
    """An address without user name, password and query."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
