"""A judge behind an OpenAI-compatible chat endpoint: a card goes out as text, a verdict in strict JSON comes back.

Nothing is sent unless a user names the endpoint and the model. The key is read from an environment variable at each
call, is sent to that host alone (redirects are refused), and stands in no file and no error. Property names stay
hidden: the text of a card is sent without its match.
"""

import http.client
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from shift.cards import Card
from shift.judge import JudgeError, Opinion
from shift.verdicts import VERDICTS

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST_ANSWER = 1 << 20  # bytes
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses after which the same request may succeed

INSTRUCTIONS = """A classifier reads a network's activations. It should decide by this property alone: {intended}. \
It was trained on data where other properties go along with that one. You see one feature that the classifier may use. \
Should the classifier depend on what this feature detects?
Answer with one JSON object and nothing else: {{"verdict": V, "confidence": C, "reason": R}}.
V is "keep" (it detects the property or something needed for it), "trim" (it detects something else), "mixed" (it \
detects both) or "unsure". C is a number from 0 to 1. R is one sentence."""


class EndpointError(ValueError):
    """The endpoint could not be reached, or refused."""


class AnswerError(ValueError):
    """An answer that holds no verdict in the form asked for."""


@dataclass(frozen=True)
class EndpointConfig:
    endpoint: str = ""
    """base URL, such as https://host/v1; there is no default, so nothing is sent by accident"""
    model: str = ""
    """name that the endpoint knows"""
    key_variable: str = ""
    """environment variable that holds the key; none is sent if this is empty"""
    timeout: float = 60.0
    """seconds for one answer"""
    tries: int = 4
    """requests for one card, at most: after a failure that may pass, and after an answer in another form"""
    wait: float = 1.0
    """seconds before the second try, doubled before each further one"""
    showings: int = 6
    """positions of each kind on a card"""

    def __post_init__(self) -> None:
        if not self.endpoint or not self.model:
            raise JudgeError(
                "the endpoint judge asks a server only if you name it: give --endpoint URL and --model NAME"
            )
        url = urlsplit(self.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
            raise JudgeError(f"endpoint {self.endpoint!r}: give a plain URL such as https://host/v1")
        if self.key_variable and url.scheme == "http" and url.hostname not in _LOOPBACK:
            raise JudgeError(f"endpoint {self.endpoint!r}: a key is sent to other machines by https only")
        if self.tries < 1 or self.timeout <= 0 or self.wait < 0 or self.showings < 1:
            raise JudgeError("tries and showings are at least 1, the timeout is above 0, the wait not below 0")


class EndpointJudge:
    """Asks a language model for each card; after `tries` answers in another form the verdict is unsure.

    `intended` is the property that the classifier should use, in words. The matched property is never sent, the effect
    is if not `blind`. EndpointError if the server stays silent.
    """

    def __init__(
        self,
        config: EndpointConfig,
        intended: str,
        sleep: Callable[[float], None] = time.sleep,
        *,
        blind: bool = False,
    ) -> None:
        self.name = f"model {config.model}"
        self._blind = blind
        self._config, self._intended, self._sleep = config, intended, sleep
        self._opener = build_opener(_NoRedirect)

    def __call__(self, card: Card) -> Opinion:
        wrong = ""
        for attempt in range(self._config.tries):
            if attempt:
                self._sleep(self._config.wait * 2 ** (attempt - 1))
            last = attempt + 1 == self._config.tries
            try:
                return parse_answer(self._ask(self._body(card)))
            except AnswerError as error:
                wrong = str(error)
            except _MayPassError as error:
                if last:
                    raise EndpointError(f"{self._config.endpoint}: {error}, {self._config.tries} times") from None
                wrong = str(error)
        return Opinion("unsure", f"no verdict in {self._config.tries} answers: {wrong}", 0.0)

    def _body(self, card: Card) -> dict[str, Any]:
        unnamed = replace(card, match=None)
        return {
            "model": self._config.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": INSTRUCTIONS.format(intended=self._intended)},
                {"role": "user", "content": unnamed.text(self._config.showings, blind=self._blind)},
            ],
        }

    def _ask(self, body: dict[str, Any]) -> str:
        """The text of the answer."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._config.key_variable:
            headers["Authorization"] = f"Bearer {self._key()}"
        url = self._config.endpoint.rstrip("/") + "/chat/completions"
        request = Request(url, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._config.timeout) as response:
                answer = response.read(_LONGEST_ANSWER + 1)
        except HTTPError as error:
            if error.code in _AGAIN:
                raise _MayPassError(f"answers with status {error.code}") from None
            raise EndpointError(
                f"{url}: answers with status {error.code}; check the URL, the model and the key"
            ) from None
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _MayPassError(f"no answer ({type(reason).__name__}: {reason})") from None
        if len(answer) > _LONGEST_ANSWER:
            raise AnswerError("the answer is longer than 1 MiB")
        return _content(answer)

    def _key(self) -> str:
        key = os.environ.get(self._config.key_variable, "").strip()
        if not key:
            raise JudgeError(f"the environment variable {self._config.key_variable} holds no key")
        return key


def parse_answer(text: str) -> Opinion:
    """The verdict of an answer that is exactly the JSON object asked for; AnswerError for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise AnswerError(f"the answer is no JSON: {text[:80]!r}") from None
    if not isinstance(value, dict) or value.keys() != {"verdict", "confidence", "reason"}:
        raise AnswerError(f"the answer is no object of verdict, confidence and reason: {text[:80]!r}")
    verdict, confidence, reason = value["verdict"], value["confidence"], value["reason"]
    if verdict not in VERDICTS:
        raise AnswerError(f"the verdict is {verdict!r}, not one of {', '.join(VERDICTS)}")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        raise AnswerError(f"the confidence is {confidence!r}, no number from 0 to 1")
    if not isinstance(reason, str) or not reason.strip():
        raise AnswerError(f"the reason is {reason!r}, no sentence")
    return Opinion(verdict, " ".join(reason.split()), float(confidence))


def _content(answer: bytes) -> str:
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise AnswerError(f"the response is no chat completion: {answer[:80]!r}") from None
    if not isinstance(content, str):
        raise AnswerError("the response has no text")
    return content


class _MayPassError(Exception):
    """A failure after which the same request may succeed."""


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would send the key elsewhere; without this it comes back as an HTTPError."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
