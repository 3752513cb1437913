"""grpc's errors -> ours; imports no grpc, so that anyone may read it."""

from __future__ import annotations

from typing import Any

from regnetx_client.deadline import Deadline
from regnetx_client.errors import ConnectionFailed, RegnetError
from regnetx_client.http_messages import retry_after
from regnetx_client.protocol import UNAVAILABLE, Refusal, refused

# UNAVAILABLE is also what gRPC's own core says when there is no connection; only its words tell the two apart.
_NOT_SENT = ("failed to connect", "errors resolving", "dns resolution failed")
_BROKEN = ("socket closed", "connection reset", "broken pipe", "goaway", "endpoint closing", "transport closed")


def translate(error: Any, address: str, deadline: Deadline) -> RegnetError:
    """grpc's error -> ours."""
    code, details = error.code().value[0], error.details() or "no details"
    said = f"{address}: {error.code().name}: {details}"
    if deadline.passed():
        return deadline.exceeded()
    if code == UNAVAILABLE and any(words in details.lower() for words in _NOT_SENT):
        return ConnectionFailed(said, sent=False)
    if code == UNAVAILABLE and any(words in details.lower() for words in _BROKEN):
        return ConnectionFailed(said)
    told = {str(key): value for key, value in error.trailing_metadata() or ()}
    return refused(Refusal(code, said, retry_after(told.get("retry-after"))))
