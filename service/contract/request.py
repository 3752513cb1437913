"""A request body -> the values of a Paddle Serving request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.contract.encoded_image import EncodedImage
from service.contract.fields import REQUEST_FIELDS
from service.contract.gateway import Route
from service.contract.json_fields import read_message
from service.contract.json_syntax import EndOfText, read_value
from service.contract.plain_fields import has_minus_zero, read_plain
from service.errors import MalformedRequestError

# One body may hold this many containers and this many strings; far beyond any request, far below exhausting memory
_MOST_VALUES = 400_000
_SMALL_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """``Tensor`` of pipeline_service.proto, as it comes by HTTP."""

    int64_data: Sequence[int] = ()
    float_data: Sequence[float] = ()
    int_data: Sequence[int] = ()
    float64_data: Sequence[float] = ()
    uint32_data: Sequence[int] = ()
    bool_data: Sequence[bool] = ()
    complex64_data: Sequence[float] = ()
    complex128_data: Sequence[float] = ()
    str_data: Sequence[str] = ()
    byte_data: bytes = b""
    elem_type: int = 0
    shape: Sequence[int] = ()
    lod: Sequence[int] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class PipelineRequest:
    """``Request`` of pipeline_service.proto, as it comes by HTTP."""

    key: Sequence[str] = ()
    value: Sequence[str] = ()
    tensors: Sequence[Tensor] = ()
    name: str = ""
    method: str = ""
    logid: int = 0
    clientip: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """A request that came as image files, by HTTP; no part of the protocol."""

    images: Sequence[EncodedImage]
    name: str = ""
    method: str = ""
    logid: int = 0


# By gRPC the protobuf message itself is the request; both have the same fields.
AnyRequest = PipelineRequest | wire.Request
AnyTensor = Tensor | wire.Tensor


def parse_body(body: bytes, route: Route) -> PipelineRequest:
    """The request that the gateway of stock Paddle Serving makes of a body; name and method are those of the path.

    Raises MalformedRequestError with the gateway's own message, and for bodies built to exhaust memory.
    """
    _check_density(body)
    fields = read_plain_body(body)
    if fields is None:
        fields = read_document(body)
    tensors = [Tensor(**tensor) for tensor in fields.get("tensors", ())]
    return PipelineRequest(**{**fields, "tensors": tensors, "name": route.name, "method": route.method})


def read_plain_body(body: bytes) -> dict[str, Any] | None:
    """The fields of an ordinary body, fast; None for anything that is not plainly right."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    fields = read_plain(document, REQUEST_FIELDS)
    return None if fields and "tensors" in fields and has_minus_zero(body) else fields


def read_document(body: bytes) -> dict[str, Any]:
    """The fields of the first JSON document of any body, exactly; what follows it is ignored, nothing means ``{}``.

    Raises MalformedRequestError with the gateway's message.
    """
    if not body.strip(b" \t\r\n"):
        return {}
    if body.count(b",") > _MOST_VALUES:
        raise MalformedRequestError(f"json: more than {_MOST_VALUES} values in a body that is not plain")
    try:
        return read_message(read_value(body))
    except EndOfText:
        raise MalformedRequestError("unexpected EOF") from None


def _check_density(body: bytes) -> None:
    if len(body) <= _SMALL_BODY:
        return
    for mark in (b"{", b"[", b'"'):
        if body.count(mark) > _MOST_VALUES:
            raise MalformedRequestError(f"json: more than {_MOST_VALUES} times {mark.decode()} in one body")
