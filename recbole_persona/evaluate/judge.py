"""A language model as judge, behind an endpoint that speaks OpenAI's protocol: how well a text stands for the user's own, 0-10.

The scale is that of Qiu et al., Measuring What Makes You Unique, Findings of ACL 2025 (DPL), whose prompt is not this one.
Texts leave the machine: the metric runs only where ``judge_url`` is set.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger

import numpy as np

from recbole_persona.errors import UserError, hidden, one_sentence
from recbole_persona.settings import JUDGE_KEY, check_judge_url

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
        UserError: the endpoint cannot be reached, or refuses; an address with a password; a key that no header can carry.
    """
    check_judge_url(url)
    if not re.fullmatch(r"[!-~]*", os.environ.get(JUDGE_KEY, "")):
        raise UserError(f"The key in {JUDGE_KEY} has blanks, line ends or letters beyond ASCII; write it without them.")
    opener = _opener()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda pair: _answer(opener, url, model, *pair), zip(hypotheses, references)))
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


def _opener() -> urllib.request.OpenerDirector:
    """What sends requests to the judge's host alone: a proxy is used over https, where it can read neither key nor texts."""
    proxies = {scheme: url for scheme, url in urllib.request.getproxies().items() if scheme == "https"}
    return urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(proxies))


def _answer(opener, url, model, generated, reference) -> str:
    question = PROMPT.format(reference=reference, generated=generated or "(nothing)")
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 8}
    headers = {"Content-Type": "application/json"}
    key = os.environ.get(JUDGE_KEY)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return json.load(response)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:  # urllib's are OSErrors
        if isinstance(error, urllib.error.HTTPError) and 300 <= error.code < 400:
            raise UserError(
                f"The judge at {url} (judge_url) redirects to another address, which is not followed, since texts and "
                "key would go with it; write the final address as judge_url."
            ) from None
        # a server may repeat the key, and urllib the address of a proxy with its password
        secrets = [proxy for proxy in urllib.request.getproxies().values() if "@" in proxy] + ([key] if key else [])
        reason = hidden(one_sentence(error), secrets)
        raise UserError(f"The judge at {url} (judge_url) does not answer as it should: {reason}") from None
