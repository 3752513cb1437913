"""Every failure of the service, with the code it has on each door, once.

bytes -> *gateway* -> request -> *unpack* -> images -> *decode* -> tensors -> *engine* -> scores -> answer

A failure is answered in one of two ways, as Paddle Serving 0.9.0 does:

* in band: an ordinary answer (HTTP 200, gRPC OK) whose ``err_no`` is not 0. Old clients read this field.
* at the door: an HTTP status or a gRPC status, for what never became a request or cannot be taken now.

Which of the two, and with which number, is a property of the class and stands nowhere else.
"""

from __future__ import annotations

import reprlib
from enum import IntEnum
from typing import Any, ClassVar, Optional

LONGEST = 200  # characters of foreign text in a message
MOST_BITS = 1024  # of a whole number in a message; Python does not write one of more than 4300 digits


class ErrNo(IntEnum):
    """``err_no`` of Paddle Serving 0.9.0 (CustomExceptionCode); only those a client can meet here."""

    OK = 0
    CLOSED_ERROR = 3001
    NO_SERVICE = 3002
    INPUT_PARAMS_ERROR = 5000
    TIMEOUT = 6000
    TYPE_ERROR = 7000
    RPC_PACKAGE_ERROR = 8000
    UNKNOWN = 10000


class GrpcCode(IntEnum):
    """The gRPC status codes in use, by their numbers on the wire (this module imports no gRPC)."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


# grpc-gateway v1.16, runtime/errors.go, HTTPStatusFromCode
HTTP_STATUS_FROM_GRPC = {
    GrpcCode.CANCELLED: 408,
    GrpcCode.INVALID_ARGUMENT: 400,
    GrpcCode.DEADLINE_EXCEEDED: 504,
    GrpcCode.RESOURCE_EXHAUSTED: 429,
    GrpcCode.INTERNAL: 500,
    GrpcCode.UNAVAILABLE: 503,
    GrpcCode.UNAUTHENTICATED: 401,
}


class ServiceError(Exception):
    """What a request can meet. ``err_no`` set: answered in band; otherwise ``grpc_code`` at the door."""

    err_no: ClassVar[Optional[ErrNo]] = None
    grpc_code: ClassVar[GrpcCode] = GrpcCode.INTERNAL
    # Overrides grpc-gateway's mapping where HTTP has a better word (413 for a body that is too large).
    http_override: ClassVar[Optional[int]] = None

    @property
    def http_status(self) -> int:
        """The HTTP status of this failure: 200 when it is answered in band."""
        if self.err_no is not None:
            return 200
        return self.http_override or HTTP_STATUS_FROM_GRPC[self.grpc_code]


# --- at the door ---------------------------------------------------------------------------------


class UnauthenticatedError(ServiceError):
    """The request shows no token that is accepted."""

    grpc_code = GrpcCode.UNAUTHENTICATED


# --- gateway: bytes -> request -------------------------------------------------------------------


class MalformedRequestError(ServiceError):
    """The body is not the JSON of a request, or a header is not what it must be."""

    grpc_code = GrpcCode.INVALID_ARGUMENT


class UnsupportedMediaTypeError(ServiceError):
    """The body is of a media type, or compressed, in a way that is not taken."""

    grpc_code = GrpcCode.INVALID_ARGUMENT
    http_override = 415


class RequestTooSlowError(ServiceError):
    """The request has not come whole in the time that the configuration allows."""

    grpc_code = GrpcCode.DEADLINE_EXCEEDED
    http_override = 408


class RequestTooLargeError(ServiceError):
    """The request has more bytes than the configuration allows."""

    grpc_code = GrpcCode.RESOURCE_EXHAUSTED
    http_override = 413


# --- unpack: request -> images -------------------------------------------------------------------


class ServiceNameError(ServiceError):
    """The request names another service."""

    err_no = ErrNo.NO_SERVICE


class RpcPackageError(ServiceError):
    """Keys, values or tensors of the request do not fit together."""

    err_no = ErrNo.RPC_PACKAGE_ERROR


# --- decode: image bytes -> tensor ---------------------------------------------------------------


class ImageError(ServiceError):
    """An image of the request cannot be classified; the message says which and why."""

    err_no = ErrNo.UNKNOWN


# --- engine: tensors -> scores -------------------------------------------------------------------


class EngineError(ServiceError):
    """The engine failed on this request's batch."""

    err_no = ErrNo.UNKNOWN


class OpTimeoutError(ServiceError):
    """The op's own ``timeout`` passed before the scores were there."""

    err_no = ErrNo.TIMEOUT


class DeadlineExceededError(ServiceError):
    """The caller's deadline (``Grpc-Timeout`` or the gRPC deadline) passed."""

    grpc_code = GrpcCode.DEADLINE_EXCEEDED


class OverloadedError(ServiceError):
    """All slots are taken; the request was refused before any work was done for it."""

    grpc_code = GrpcCode.RESOURCE_EXHAUSTED


class UnavailableError(ServiceError):
    """No engine can take work at the moment."""

    grpc_code = GrpcCode.UNAVAILABLE


class DrainingError(ServiceError):
    """The service is stopping."""

    err_no = ErrNo.CLOSED_ERROR


# --- before anything starts ----------------------------------------------------------------------


class StartupError(Exception):
    """Something that must be right before the service starts is not; one readable line."""


class ConfigError(StartupError):
    """The configuration: names the key, the value and what is accepted."""


class ModelError(StartupError):
    """The serving model: names the file, what was found and what is accepted."""


# --- foreign text in a message --------------------------------------------------------------------


def short(text: str) -> str:
    """Foreign text for a message: one printable line, cut where it is long."""
    line = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text[: LONGEST + 1])
    return line if len(text) <= LONGEST else f"{line[:LONGEST]}..."


def shown(value: Any) -> str:
    """Any value of YAML or JSON for a message; one whose aliases multiply is not written out first."""
    return short(_SHORT.repr(value)) if isinstance(value, (dict, list, tuple, set, int)) else short(repr(value))


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        return super().repr_int(x, level) if bits <= MOST_BITS else f"a whole number of {bits} bits"


_SHORT = _Short()
