"""A question -> an HTTP request's content and headers; an HTTP response -> an answer, or the error it stands for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from regnetx_client.errors import BadRequest, ProtocolError, RegnetError, TooLarge
from regnetx_client.predictions import excerpt
from regnetx_client.protocol import (
    DEADLINE_EXCEEDED,
    RESOURCE_EXHAUSTED,
    TOP_K,
    UNAVAILABLE,
    Answer,
    Question,
    Refusal,
    refused,
)

_INTERNAL = 13
# Statuses with a meaning of their own; the other 4xx are final, the other 5xx are the server's failures.
_CODES = {429: RESOURCE_EXHAUSTED, 502: UNAVAILABLE, 503: UNAVAILABLE, 504: DEADLINE_EXCEEDED}
_MOST_MILLISECONDS = 99_999_999  # gRPC allows eight digits
_FILE = "application/octet-stream"
_LONGEST_WAIT = 86_400.0  # seconds; sleep() refuses what a server could ask for


@dataclass(frozen=True)
class Reply:
    """An HTTP response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def base_url(url: str) -> str:
    """The URL without a closing slash; raises ValueError for what is none."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"url {url!r} is not like http://localhost:18080")
    return url.rstrip("/")


def path_of(service: str, method: str) -> str:
    """``/{service}/{method}``, the only route of the protocol."""
    for name, segment in (("service", service), ("method", method)):
        if not segment:
            raise ValueError(f"{name} is empty")
    return f"/{quote(service, safe='')}/{quote(method, safe='')}"


def content_of(question: Question, *, binary: bool) -> dict[str, Any]:
    """The body, in the words of httpx: JSON of base64; or as they are one file, or several in a form.

    The JSON is ``{"key": [...], "value": [...]}``: value i is the image named key i, which is also its field's name.
    """
    if not binary:
        text = json.dumps({"key": question.keys, "value": question.values}, separators=(",", ":"))
        return {"content": text.encode("ascii")}
    if len(question.files) == 1:
        return {"content": question.files[0]}
    return {"files": [(key, (key, file, _FILE)) for key, file in zip(question.keys, question.files)]}


def headers_for(question: Question, left: float | None, *, binary: bool) -> dict[str, str]:
    """The headers of a question when so many seconds are left for it; httpx adds the type of a form itself."""
    headers = {TOP_K: str(question.top_k)}
    if not binary or len(question.files) == 1:
        headers["content-type"] = _FILE if binary else "application/json"
    if left is not None:
        headers["grpc-timeout"] = grpc_timeout(left)
    return headers


def grpc_timeout(left: float) -> str:
    """Seconds as the gRPC over HTTP/2 specification writes a Timeout: at most eight digits and a unit."""
    milliseconds = max(1, math.ceil(left * 1000))
    if milliseconds <= _MOST_MILLISECONDS:
        return f"{milliseconds}m"
    return f"{min(math.ceil(left), _MOST_MILLISECONDS)}S"


def offers_bytes(reply: Reply) -> bool:
    """Whether the server says that it takes images as they are (Accept-Post: Linked Data Platform 1.0, 7.1.2)."""
    return _FILE in reply.headers.get("accept-post", "")


def is_unread(reply: Reply) -> bool:
    """Whether this is how a server which takes JSON alone answers anything else."""
    return reply.status in (400, 415)


def answer_from(reply: Reply) -> Answer:
    """The pipeline's answer (its ``err_no`` may still be an error); raises what any other reply stands for."""
    raise_for(reply)
    try:
        fields = json.loads(reply.body)
        keys, values = fields["key"], fields["value"]
        return Answer(int(fields["err_no"]), str(fields["err_msg"]), dict(zip(map(str, keys), map(str, values))))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"the answer is none of the pipeline's: {_text(reply.body)}") from error


def raise_for(reply: Reply) -> None:
    """Raises the error of any status but 200."""
    if reply.status != 200:
        raise _error_of(reply)


def _error_of(reply: Reply) -> RegnetError:
    message = _message(reply)
    if reply.status in _CODES:
        return refused(Refusal(_CODES[reply.status], message, retry_after(reply.headers.get("retry-after"))))
    if reply.status == 413:
        return TooLarge(message)
    # 408 is the gateway's word for a call that was cancelled inside the server.
    if 400 <= reply.status < 500 and reply.status != 408:
        return BadRequest(message)
    if reply.status >= 500 or reply.status == 408:
        return refused(Refusal(_INTERNAL, message))
    target = reply.headers.get("location")
    return ProtocolError(f"{message}, it points to {target}" if target else message)


def _message(reply: Reply) -> str:
    """``HTTP 429 Too Many Requests: ...``, with the message of the gateway's JSON or the text of the body."""
    known = reply.status in HTTPStatus._value2member_map_
    name = f"HTTP {reply.status} {HTTPStatus(reply.status).phrase}" if known else f"HTTP {reply.status}"
    try:
        said: Any = json.loads(reply.body)["message"]
    except (ValueError, TypeError, KeyError, RecursionError):
        said = _text(reply.body) if reply.body.strip() else ""
    return f"{name}: {said}" if said else name


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After (RFC 9110, 10.2.3: seconds or a date), None when there is none that can be read."""
    if value is None:
        return None
    try:
        pause = float(value) if value.strip().replace(".", "", 1).isdigit() else _until(parsedate_to_datetime(value))
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, pause), _LONGEST_WAIT)


def _until(date: datetime) -> float:
    aware = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return (aware - datetime.now(timezone.utc)).total_seconds()


def _text(body: bytes) -> str:
    return excerpt(body[:1000].decode("utf-8", "replace").strip())
