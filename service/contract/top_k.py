"""Query string, header or gRPC metadata -> how many classes the caller wants; an extension that stock ignores."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from service.errors import MalformedRequestError

_NUMBER = re.compile("0*([0-9]{1,9})")


def top_k_of(value: str | None, classes: int) -> int | None:
    """The number in an ``X-Top-K`` header or ``x-top-k`` metadata, at most ``classes``; None if there is none.

    Raises MalformedRequestError for anything but a whole number from 1.
    """
    if value is None:
        return None
    match = _NUMBER.fullmatch(value.strip())
    if match is None or not int(match[1]):
        raise MalformedRequestError(f"top_k {value[:40]!r} is not a whole number from 1")
    return min(int(match[1]), classes)


def top_k_of_http(query: bytes, header: bytes | None, classes: int) -> int | None:
    """The number asked for by ``?top_k=``, or else by the ``X-Top-K`` header; errors as ``top_k_of``."""
    if b"top_k" in query:
        for name, value in reversed(parse_qsl(query.decode("latin-1"), keep_blank_values=True)):
            if name == "top_k":
                return top_k_of(value, classes)
    return None if header is None else top_k_of(header.decode("latin-1"), classes)
