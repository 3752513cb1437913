"""``Grpc-Timeout``, which stock knows, and ``X-Request-Timeout``, which is ours -> how long an HTTP caller waits."""

from __future__ import annotations

import re
from collections.abc import Mapping

from service.contract.gateway import timeout_of
from service.errors import MalformedRequestError

# The unit of HTTP's own times, Retry-After and Keep-Alive
_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def timeout_of_http(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds from a request's head until its caller has no use for the answer; None: no such header.

    ``headers``: by name in lower case. Of both headers the shorter time counts; not positive: has passed already.
    Raises MalformedRequestError for what is no time.
    """
    given = (timeout_of(headers.get(b"grpc-timeout")), _seconds_of(headers.get(b"x-request-timeout")))
    return min((seconds for seconds in given if seconds is not None), default=None)


def _seconds_of(header: bytes | None) -> float | None:
    if header is None:
        return None
    seconds = float(header) if _SECONDS.fullmatch(header) else 0.0
    if not seconds:
        shown = header[:40].decode(errors="replace")
        raise MalformedRequestError(f"invalid x-request-timeout: {shown}, accepted: seconds above 0, as 0.5 or 30")
    return seconds
