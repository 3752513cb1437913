"""The fields of the protocol's messages, with the names that the gateway's Go gives to their types."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from regnetx_client.wire import pipeline_service_pb2 as wire

MESSAGE = "map[string]json.RawMessage"
_GO_TYPES = {
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_FLOAT: "float32",
    FieldDescriptor.TYPE_DOUBLE: "float64",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "[]uint8",
    FieldDescriptor.TYPE_MESSAGE: MESSAGE,
}
INTEGER_RANGES = {
    "int64": range(-(2**63), 2**63),
    "int32": range(-(2**31), 2**31),
    "uint32": range(2**32),
    "uint8": range(2**8),
}
# Within these a number certainly fits; outside, rounding decides
FLOAT_RANGES = {"float32": 3.4e38, "float64": 1.7e308}


@dataclass(frozen=True)
class Field:
    """One field of a message, with its name in the Go program's type system."""

    name: str
    json_name: str
    go_type: str
    repeated: bool


def _fields_of(message: type[Message]) -> tuple[Field, ...]:
    fields = message.DESCRIPTOR.fields
    return tuple(Field(field.name, field.camelcase_name, _GO_TYPES[field.type], field.is_repeated) for field in fields)


REQUEST_FIELDS = _fields_of(wire.Request)
TENSOR_FIELDS = _fields_of(wire.Tensor)
