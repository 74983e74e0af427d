"""A language model behind an OpenAI-compatible endpoint: llama.cpp's server, Ollama, vLLM, a hosted one.

What it is asked leaves the computer, if it is not on this one.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from unflinch.errors import ConfigError, EndpointError

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

MAX_REPLY_BYTES: Final = 1_000_000
"""Longer replies are not read."""


LONGEST_WAIT: Final = 60.0
"""Most seconds of a pause that the endpoint itself asks for."""


LONGEST_TIMEOUT: Final = 86_400.0
"""Most seconds that one request may be waited for."""


class UnusableReplyError(Exception):
    """A failure that another try may not have; its text continues "the endpoint ..."."""

    def __init__(self, failure: str, wait: float = 0.0) -> None:
        super().__init__(failure)
        self.wait = wait
        """Seconds that the endpoint asks to be left alone."""


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: the key would go along."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


class ChatEndpoint:
    """Asks a language model over HTTP.

    Args:
        url: Base of the interface, such as `http://localhost:11434/v1`; `/chat/completions` is added.
        model: Name of the model there.
        key: Sent as bearer token if not empty; it never stands in an error or a log line.
        timeout: Most seconds for one request, however slowly the reply drips.
        tries: How often a request is made before it is given up.
        pause: Seconds before the second try; doubled before each further one. Longer where the endpoint says so.

    Raises:
        ConfigError: if the URL is none, or a number is out of range.
    """

    def __init__(
        self, url: str, model: str, *, key: str = "", timeout: float = 60.0, tries: int = 3, pause: float = 1.0
    ) -> None:
        host = _host_of(url)
        if not model.strip() or not 0 < timeout <= LONGEST_TIMEOUT or tries < 1 or pause < 0:
            raise ConfigError(
                "an endpoint needs the name of a model, a timeout above 0 and up to a day, and at least one try"
            )
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError("the endpoint's key holds characters that a key cannot have; check how it was set")
        self._url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._model, self._timeout, self._tries, self._pause = model, timeout, tries, pause
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._opener = _opener(host)

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        read: Callable[[str], Read],
        *,
        temperature: float,
        max_tokens: int,
    ) -> Read:
        """Return what `read` makes of the content of the model's reply.

        Args:
            messages: the conversation, as `{"role": ..., "content": ...}`.
            read: raises `UnusableReplyError` for a content that is worth another try.
            temperature: of sampling; 0 is greedy.
            max_tokens: most tokens of the reply.

        Raises:
            EndpointError: if the endpoint cannot be asked, or gave nothing usable in all tries.
        """
        asked = {"model": self._model, "messages": messages, "temperature": temperature, "max_tokens": max_tokens}
        body = json.dumps(asked).encode()
        for turn in range(1, self._tries + 1):
            try:
                return read(_content(self._post(body)))
            except UnusableReplyError as error:
                if turn == self._tries:
                    raise EndpointError(f"the endpoint {self._url} {error}; {turn} tries were made") from None
                logger.info("the endpoint %s %s; trying again", self._url, error)
                time.sleep(max(self._pause * 2 ** (turn - 1), error.wait))
        raise AssertionError("the last try returns or raises")

    def _post(self, body: bytes) -> bytes:
        """Return the reply's body.

        Raises:
            EndpointError: for a status that another try would not change.
            UnusableReplyError: for one that may pass, no reply in time, or too long a one.
        """
        until = time.monotonic() + self._timeout
        request = Request(self._url, data=body, headers=self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as reply:
                return _read(reply, until)
        except HTTPError as error:
            with error:
                if error.code in (408, 409, 425, 429) or error.code >= 500:
                    asked = error.headers.get("Retry-After", "")  # seconds; as a date it is not heeded
                    wait = min(float(asked), LONGEST_WAIT) if asked.isdecimal() else 0.0
                    raise UnusableReplyError(f"answered with HTTP status {error.code}", wait) from None
                hint = {401: ": check the key", 403: ": check the key", 404: ": check URL and model"}
                found = f"HTTP status {error.code}{hint.get(error.code, '')}"
            raise EndpointError(f"the endpoint {self._url} answered with {found}") from None
        except TimeoutError:
            raise UnusableReplyError(f"did not answer within {self._timeout:g} seconds") from None
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise UnusableReplyError(f"did not answer within {self._timeout:g} seconds") from None
            raise UnusableReplyError(f"cannot be reached ({error.reason})") from None
        except (OSError, http.client.HTTPException) as error:
            raise UnusableReplyError(f"broke off ({type(error).__name__})") from None


def _host_of(url: str) -> str:
    """Return the host of an endpoint's URL.

    Raises:
        ConfigError: if it is none that can be asked.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # the second raises for one that is no number
        host.encode("idna")
    except ValueError:
        host = ""
    readable = url.isascii() and url.isprintable() and " " not in url
    if not (host and readable) or parts.scheme not in ("http", "https") or parts.username or parts.query:
        raise ConfigError("the endpoint's URL was not understood; expected something like http://localhost:8080/v1")
    return host


def _opener(host: str) -> OpenerDirector:
    """Return what makes requests: past any proxy where the endpoint is on this computer."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    return build_opener(_NoRedirect, ProxyHandler({})) if local else build_opener(_NoRedirect)


def _read(reply: Any, until: float) -> bytes:
    """Return the whole body, piece by piece, so that a reply that drips forever is left in time."""
    parts: list[bytes] = []
    size = 0
    while piece := reply.read1(65_536):
        parts.append(piece)
        size += len(piece)
        if size > MAX_REPLY_BYTES:
            raise UnusableReplyError(f"answered with more than {MAX_REPLY_BYTES:,} bytes")
        if time.monotonic() > until:
            raise TimeoutError
    return b"".join(parts)


def _content(body: bytes) -> str:
    """Return the text of a chat completion.

    Raises:
        UnusableReplyError: if the body is none, or holds no text.
    """
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        raise UnusableReplyError("answered with something that is no chat completion")
    return content
