"""Protobuf messages -> other messages by their schema, and bytes that break the wire format on purpose."""

from __future__ import annotations

from random import Random
from typing import Any

from fuzz.mutation import EDGES, TEXTS
from google.protobuf.descriptor import FieldDescriptor

_NUMBERS = (*EDGES, -1, -(2**31), 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.5, float("nan"), float("inf"), 1e38)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def change(message: Any, random: Random) -> None:
    """One field of the message, or of one inside it, is set, cleared, doubled or grown."""
    present = [field for field, _ in message.ListFields()]
    inner = [field for field in present if field.message_type is not None]
    if inner and random.random() < 0.7:
        value = getattr(message, random.choice(inner).name)
        if not _repeated(value):
            return change(value, random)
        if len(value) and random.random() < 0.8:
            return change(random.choice(value), random)
    field = random.choice(present or message.DESCRIPTOR.fields)
    if random.random() < 0.3:
        field = random.choice(message.DESCRIPTOR.fields)
    if random.random() < 0.2:
        return message.ClearField(field.name)
    return _set(message, field, random)


def _repeated(value: Any) -> bool:
    return hasattr(value, "extend")


def _set(message: Any, field: FieldDescriptor, random: Random) -> None:
    value = getattr(message, field.name)
    if field.message_type is not None:
        if not _repeated(value):
            value.SetInParent()
        elif len(value) and random.random() < 0.5:
            value.add().CopyFrom(random.choice(value))
        else:
            value.add()
    elif not _repeated(value):
        setattr(message, field.name, _scalar(field, random))
    elif len(value) and random.random() < 0.5:
        value[random.randrange(len(value))] = _scalar(field, random)
    else:
        value.extend(_scalar(field, random) for _ in range(random.choice((1, 1, 2, 100))))


def _scalar(field: FieldDescriptor, random: Random) -> Any:
    kind = field.cpp_type
    if kind in _RANGES:
        low, high = _RANGES[kind]
        return max(low, min(high, random.choice(_NUMBERS)))
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return random.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return random.choice(field.enum_type.values).number
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random.randbytes(random.choice((0, 1, 10, 1000)))
    return random.choice([text for text in TEXTS if "\ud800" not in text])


def varint(value: int) -> bytes:
    """As the wire format has it; never too long by itself."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def odd_field(random: Random) -> bytes:
    """An unknown field, a group (open, closed or deep), a known field of another wire type, or a length that lies."""
    number = random.choice((1, 2, 3, 4, 5, 6, 7, 20, 99, 2**29 - 1, 0))
    way = random.randrange(7)
    if way == 0:
        return varint(number << 3) + varint(random.choice(EDGES))
    if way == 1:
        return varint(number << 3 | 3) * random.choice((1, 99, 101, 5000))
    if way == 2:
        depth = random.choice((1, 50, 99, 101))
        return varint(number << 3 | 3) * depth + varint(number << 3 | 4) * depth
    if way == 3:
        return varint(number << 3 | 2) + varint(random.choice(EDGES)) + random.randbytes(random.randrange(20))
    if way == 4:
        return varint(number << 3 | random.choice((1, 5))) + random.randbytes(random.choice((3, 4, 7, 8)))
    if way == 5:
        return varint(number << 3) + b"\xff" * random.choice((9, 10, 11))
    return varint(number << 3 | random.choice((6, 7))) + random.randbytes(4)
