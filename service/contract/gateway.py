"""Verb, target and headers of an HTTP request -> the service it names; failures -> HTTP answers.

What grpc-gateway v1.16 does in front of a stock Paddle Serving pipeline, as observed on the 0.9.0 gateway itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from service.contract.json_text import go_json, valid_text
from service.errors import (
    GrpcCode,
    MalformedRequestError,
    OverloadedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)

Headers = tuple[tuple[bytes, bytes], ...]

_TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)
_JSON: Headers = ((b"content-type", b"application/json"),)
_SUCCESS: Headers = (
    *_JSON,
    (b"grpc-metadata-content-type", b"application/grpc"),
    (b"grpc-metadata-grpc-accept-encoding", b"identity, deflate, gzip"),
)
_RETRY: Headers = ((b"retry-after", b"1"),)
_CHALLENGE: Headers = ((b"www-authenticate", b"Bearer"),)

_ORIGIN = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_BAD_TARGET = re.compile(rb"[\x00-\x20\x7f]|%(?![0-9A-Fa-f]{2})")
_TIMEOUT = re.compile(rb"([+-]?)0*([0-9]{1,19})([HMSmun])")
_NANOSECONDS = {b"H": 3600 * 10**9, b"M": 60 * 10**9, b"S": 10**9, b"m": 10**6, b"u": 10**3, b"n": 1}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. To HEAD it goes out without its body, with the Content-Length of that body."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """What the target of a request names. Stock ignores the query."""

    name: str
    method: str
    query: bytes = b""


@lru_cache(maxsize=256)
def route(verb: str, target: bytes) -> Route | Answer:
    """``POST /{name}/{method}`` and nothing else: the rest is answered 400, 404 or 405, and 500 for names of bad UTF-8.

    ``target`` is the request target as sent: not percent-decoded, with its query.
    """
    path, _, query = target.partition(b"?")
    if origin := _ORIGIN.match(path):
        path = path[origin.end() :]
    elif path[:1] not in (b"/", b"*"):
        return _bad_request()
    if _BAD_TARGET.search(path):
        return _bad_request()
    if not path.startswith(b"/"):
        return _plain(HTTPStatus.BAD_REQUEST)
    # NOTE the gateway decodes before it splits: %2F separates segments, too
    segments = unquote_to_bytes(path[1:]).split(b"/")
    # NOTE what follows a last colon is a "custom verb" to the gateway, which has none
    method, colon, custom_verb = segments[-1].rpartition(b":")
    if len(segments) != 2 or (colon and (custom_verb or not method)):
        return _plain(HTTPStatus.NOT_FOUND)
    if verb != "POST":
        return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
    return _named(segments[0], method if colon else segments[1], query)


def _named(name: bytes, method: bytes, query: bytes) -> Route | Answer:
    try:
        return Route(name.decode(), method.decode(), query)
    except UnicodeDecodeError:
        message = "grpc: error while marshaling: string field contains invalid UTF-8"
        return Answer(500, _JSON, error_body(GrpcCode.INTERNAL, message))


def _plain(status: HTTPStatus) -> Answer:
    return Answer(status, (*_TEXT, (b"x-content-type-options", b"nosniff")), f"{status.phrase}\n".encode())


def _bad_request() -> Answer:
    # Go's HTTP server says this itself, before the gateway sees the request
    return Answer(400, (*_TEXT, (b"connection", b"close")), b"400 Bad Request")


def timeout_of(header: bytes | None) -> float | None:
    """Seconds of a ``Grpc-Timeout`` header; None if there is none or it is 0. Not positive: has passed already.

    Raises MalformedRequestError for anything but digits and a unit of H, M, S, m, u, n.
    """
    if not header:
        return None
    match = _TIMEOUT.fullmatch(header)
    value = int(match[1] + match[2]) if match else 2**63
    if match is None or not -(2**63) <= value < 2**63:
        raise MalformedRequestError(f"invalid grpc-timeout: {header.decode(errors='replace')}")
    # Go multiplies in int64, which wraps
    nanoseconds = (value * _NANOSECONDS[match[3]] + 2**63) % 2**64 - 2**63
    return nanoseconds / 1e9 if nanoseconds else None


def success(body: bytes) -> Answer:
    """The answer of a call that went through, whatever its ``err_no``."""
    return Answer(200, _SUCCESS, body)


def status_of(error: Exception) -> tuple[GrpcCode, str]:
    """The gRPC status of a failure that is not answered in band; the unexpected is not told to callers."""
    if isinstance(error, ServiceError):
        return error.grpc_code, valid_text(str(error))
    return GrpcCode.INTERNAL, "internal error"


def failure(error: Exception) -> Answer:
    """The HTTP answer of a failure that is not answered in band."""
    code, message = status_of(error)
    status = error.http_status if isinstance(error, ServiceError) else 500
    retry = _RETRY if isinstance(error, OverloadedError | UnavailableError) else ()
    challenge = _CHALLENGE if isinstance(error, UnauthenticatedError) else ()
    return Answer(status, (*_JSON, *retry, *challenge), error_body(code, message))


def error_body(code: GrpcCode, message: str) -> bytes:
    """The gateway's JSON of a failed call."""
    return go_json({"error": message, "code": int(code), "message": message, "details": []})
