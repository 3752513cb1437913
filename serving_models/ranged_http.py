"""An address and the bytes that are here already -> the rest of the file, from the server."""

from __future__ import annotations

import http.client
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_CHUNK = 1 << 18


class MissingError(Exception):
    """The server answers, and has no such file."""


class NetworkError(Exception):
    """No server can be reached, or it answers with a failure."""


class CutError(Exception):
    """The answer ended before the file did."""


@dataclass(frozen=True)
class Here:
    """What of a file is here: its first ``size`` bytes, of the ``version`` (ETag or date) that the server named."""

    size: int = 0
    version: str | None = None


@dataclass(frozen=True)
class Answer:
    """The rest of a file: ``chunks`` belong at ``offset``; None where the server does not tell size or version."""

    offset: int
    size: int | None
    version: str | None
    chunks: Iterator[bytes]


def request_rest(url: str, here: Here, patience: float, token: str | None = None) -> Answer:
    """Ask for what is missing; for the whole file where the server's version is another one by now.

    ``patience`` in seconds: for the answer's head, and then for each piece of it. ``token`` is a bearer token for this
    server alone. Raises MissingError, NetworkError; reading the chunks raises CutError.
    """
    headers = {"User-Agent": "regnetx-serving"}
    if here.size and here.version:
        headers |= {"Range": f"bytes={here.size}-", "If-Range": here.version}
    request = urllib.request.Request(url, headers=headers)
    if token is not None:
        # Not a header like the others: those would follow a redirect to whatever server it names.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        response = _open(request, patience)
    except urllib.error.HTTPError as error:
        with error:
            return _refused(url, here, error, patience, token)
    except urllib.error.URLError as error:
        raise NetworkError(f"no connection to {request.host} ({error.reason})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NetworkError(f"no connection to {request.host} ({_text(error)})") from None
    if response.status == 206 and not _continues(response, here):
        response.close()
        return request_rest(url, Here(), patience, token)
    return _answer(response)


def _open(request: urllib.request.Request, patience: float) -> Any:
    """The response to a request, or TimeoutError: the name's resolution, which no socket timeout bounds, included."""
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def call() -> None:
        try:
            results.put(urllib.request.urlopen(request, timeout=patience))
        except Exception as error:
            results.put(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        result = results.get(timeout=patience)
    except queue.Empty:
        raise TimeoutError(f"no answer within {patience:g} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def _answer(response: Any) -> Answer:
    offset, size = 0, _number(response.headers.get("Content-Length"))
    if response.status == 206:
        offset, size = _content_range(response)
    return Answer(offset, size, _version(response.headers), _chunks(response))


def _continues(response: Any, here: Here) -> bool:
    """Whether a partial answer begins where we are, in the version we have: not every server minds If-Range."""
    return _content_range(response)[0] == here.size and _version(response.headers) in (None, here.version)


def shown(url: str) -> str:
    """An address as messages may show it: a query can hold a signature."""
    return url.partition("?")[0]


def _refused(url: str, here: Here, error: urllib.error.HTTPError, patience: float, token: str | None) -> Answer:
    if error.code in (403, 404, 410):
        raise MissingError(f"{shown(url)} ({error.code})")
    if error.code == 416 and here.size:
        if error.headers.get("Content-Range") == f"bytes */{here.size}":
            return Answer(here.size, here.size, here.version, iter(()))
        return request_rest(url, Here(), patience, token)
    raise NetworkError(f"{shown(url)}: the server answered {error.code} {error.reason}")


def _chunks(response: Any) -> Iterator[bytes]:
    with response:
        try:
            while chunk := response.read1(_CHUNK):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise CutError(_text(error)) from None


def _content_range(response: Any) -> tuple[int, int | None]:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None:
        raise NetworkError(f"{shown(response.url)}: a partial answer without a Content-Range")
    return int(found[1]), _number(found[2])


def _version(headers: Any) -> str | None:
    """A strong ETag, else the date: what If-Range accepts (RFC 9110, 13.1.5)."""
    tag: str | None = headers.get("ETag")
    date: str | None = headers.get("Last-Modified")
    return tag if tag and not tag.startswith("W/") else date


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
