"""What a span says of a request: OpenTelemetry's semantic conventions (1.45, HTTP and RPC are stable), and our own.

Nothing of an image, of an answer or of a header that holds a secret; what callers may choose is cut.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from service.errors import GrpcCode
from service.native.metrics import Outcome

if TYPE_CHECKING:
    from service.native.request_meter import Exchange

Attributes = dict[str, str | int]

ROUTE = "/{name}/{method}"
METHODS = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
LONGEST = 256  # characters of what a caller chose
# Of a failure that is answered with HTTP 200 or gRPC OK: those that are the service's fault
FAULTS = {Outcome.DRAINING, Outcome.OP_TIMEOUT, Outcome.ENGINE_FAILED, Outcome.INTERNAL_ERROR}
OK, UNKNOWN = 0, 2
GRPC_NAMES = {OK: "OK", UNKNOWN: "UNKNOWN", **{int(code): code.name for code in GrpcCode}}
# gRPC's convention for servers; the other codes are the caller's business
GRPC_ERRORS = {UNKNOWN, GrpcCode.DEADLINE_EXCEEDED, GrpcCode.INTERNAL, GrpcCode.UNAVAILABLE}
SERVER_ERROR = 500

_PEER = re.compile(r"ipv[46]:(?:%5B|\[)?(?P<address>.*?)(?:%5D|\])?:(?P<port>\d+)")


@dataclass(frozen=True)
class Ending:
    """What is known of a request when it has ended. ``error``: its ``error.type``, if it counts as one."""

    attributes: Attributes = field(default_factory=dict)
    name: str | None = None  # of the span, where it is another one now
    error: str | None = None


def http_request(scope: Mapping[str, Any]) -> tuple[str, Attributes]:
    """Name and attributes of a span that begins with an HTTP request; ``scope`` is that of ASGI."""
    method = scope["method"] if scope["method"] in METHODS else "_OTHER"
    attributes: Attributes = {
        "http.request.method": method,
        "url.scheme": scope["scheme"],
        "url.path": scope["raw_path"].decode("latin-1")[:LONGEST],
        "network.protocol.version": scope["http_version"],
    }
    if method == "_OTHER":
        attributes["http.request.method_original"] = scope["method"][:LONGEST]
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), None)
    if agent is not None:
        attributes["user_agent.original"] = agent.decode("latin-1")[:LONGEST]
    if scope.get("client"):
        attributes |= _peer(*scope["client"])
    return ("HTTP" if method == "_OTHER" else method), attributes


def http_ending(exchange: "Exchange") -> Ending:
    """What an HTTP request's span says at its end."""
    attributes, error = _own(exchange), _fault(exchange)
    if exchange.status is not None:
        attributes["http.response.status_code"] = exchange.status
        if exchange.status >= SERVER_ERROR:
            error = str(exchange.status)
    if not exchange.is_routed:
        return Ending(attributes, error=error)
    attributes["http.route"] = ROUTE
    return Ending(attributes, f"POST {ROUTE}", error)


def grpc_call(method: str, peer: str) -> tuple[str, Attributes]:
    """Name and attributes of a span that begins with a call. ``method``: ``/package.Service/method``."""
    name = method.removeprefix("/")
    attributes: Attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "network.protocol.name": "http",
        "network.protocol.version": "2",
        "network.transport": "tcp",
    }
    if match := _PEER.fullmatch(peer):
        attributes |= _peer(match["address"], int(match["port"]))
    return name, attributes


def grpc_ending(exchange: "Exchange") -> Ending:
    """What a call's span says at its end."""
    code = UNKNOWN if exchange.status is None else exchange.status
    attributes, error = _own(exchange), _fault(exchange)
    attributes["rpc.response.status_code"] = GRPC_NAMES[code]
    return Ending(attributes, error=GRPC_NAMES[code] if code in GRPC_ERRORS else error)


def _peer(address: str, port: int) -> Attributes:
    return {"client.address": address, "network.peer.address": address, "network.peer.port": port}


def _own(exchange: "Exchange") -> Attributes:
    """The words of the access log."""
    told: dict[str, str | int | None] = {
        "regnetx.outcome": str(exchange.outcome),
        "regnetx.images": exchange.images,
        "regnetx.bytes": exchange.size,
        "regnetx.err_no": exchange.err_no,
        "regnetx.request_id": exchange.request_id,
        "regnetx.model_version": exchange.model_version or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _fault(exchange: "Exchange") -> str | None:
    return str(exchange.outcome) if exchange.outcome in FAULTS else None
