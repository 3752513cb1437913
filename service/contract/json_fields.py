"""A checked JSON object -> the fields of a message, as golang/protobuf's jsonpb 1.5 reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from math import isinf
from typing import Any

import orjson

from service.contract import go_base64
from service.contract.fields import FLOAT_RANGES, INTEGER_RANGES, MESSAGE, REQUEST_FIELDS, TENSOR_FIELDS, Field
from service.contract.json_syntax import Value, elements, members, read_only_value
from service.contract.plain_fields import has_minus_zero, is_plain
from service.errors import MalformedRequestError

_NOT_FINITE = {b'"NaN"': float("nan"), b'"Infinity"': float("inf"), b'"-Infinity"': float("-inf")}
_ZEROS = {"float32": 0.0, "float64": 0.0, "bool": False, "string": "", "[]uint8": b""}
_KINDS = {ord('"'): "string", ord("["): "array", ord("{"): "object", ord("t"): "bool", ord("f"): "bool"}
_LARGEST_FLOAT32 = float(2**128 - 2**104)
# Half a step above the largest float32: from here on rounding to float32 overflows
_FLOAT32_END = Decimal(2**128 - 2**103)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_message(message: Value, fields: tuple[Field, ...] = REQUEST_FIELDS) -> dict[str, Any]:
    """The fields that are present; a nested message is a dict again.

    Unknown names are ignored, null is absence, of a name given twice the last counts and of a field's two names
    (snake_case, camelCase) the second. Raises MalformedRequestError with Go's message for the first field, in the
    order of the .proto, whose value is of the wrong type.
    """
    if message.text == b"null":
        return {}
    if message.first != ord("{"):
        raise _mismatch(message.first, MESSAGE)
    written = {unquoted(key): value for key, value in members(message)}
    return {field.name: _read(value, field) for field in fields if (value := _of_field(written, field)) is not None}


def _of_field(written: Mapping[str, Value], field: Field) -> Value | None:
    value = written.get(field.json_name, written.get(field.name))
    return None if value is None or value.text == b"null" else value


def _read(value: Value, field: Field) -> Any:
    if not field.repeated:
        return _read_value(value, field.go_type)
    if value.first != ord("["):
        raise _mismatch(value.first, "[]json.RawMessage")
    if (plain := _plain_list(value.text, field.go_type)) is not None:
        return plain
    return [_read_value(element, field.go_type) for element in elements(value)]


def _plain_list(raw: bytes, go_type: str) -> list[Any] | None:
    """The list of numbers or texts that ``raw`` plainly is, fast; None if it needs a closer look."""
    if has_minus_zero(raw):
        return None
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return values if not values or is_plain(values, go_type) else None


def _read_value(value: Value, go_type: str) -> Any:
    if go_type == MESSAGE:
        return read_message(value, TENSOR_FIELDS)
    raw = value.text
    if go_type in INTEGER_RANGES or go_type in FLOAT_RANGES:
        return _read_number(raw, go_type)
    if raw == b"null":
        return _ZEROS[go_type]
    if go_type == "bool" and raw in (b"true", b"false"):
        return raw == b"true"
    if go_type != "bool" and value.first == ord('"'):
        text = unquoted(raw)
        return text if go_type == "string" else go_base64.decode(text)
    if go_type == "[]uint8" and value.first == ord("["):
        return bytes(_integer(element.text, "uint8") for element in elements(value))
    raise _mismatch(value.first, go_type)


def _read_number(raw: bytes, go_type: str) -> int | float:
    """A number, or one in quotes: jsonpb takes the quotes off and reads what is between them."""
    if go_type in FLOAT_RANGES and raw in _NOT_FINITE:
        return _NOT_FINITE[raw]
    if raw[:1] == b'"':
        raw = read_only_value(raw[1:-1]).text
    return _integer(raw, go_type) if go_type in INTEGER_RANGES else _float(raw, go_type)


def _integer(raw: bytes, go_type: str) -> int:
    if raw == b"null":
        return 0
    _must_be_number(raw, go_type)
    digits = raw.removeprefix(b"-")
    # Go's ParseUint takes no sign, not even that of -0; 20 digits are beyond every range
    if not digits.isdigit() or len(digits) > 19 or (go_type[0] == "u" and digits != raw):
        raise _out_of_range(raw, go_type)
    value = int(raw)
    if value not in INTEGER_RANGES[go_type]:
        raise _out_of_range(raw, go_type)
    return value


def _float(raw: bytes, go_type: str) -> float:
    if raw == b"null":
        return 0.0
    _must_be_number(raw, go_type)
    value = float(raw)
    if isinf(value) or (go_type == "float32" and _overflows_float32(value, raw)):
        raise _out_of_range(raw, go_type)
    return value if go_type == "float64" else max(-_LARGEST_FLOAT32, min(_LARGEST_FLOAT32, value))


def _overflows_float32(value: float, raw: bytes) -> bool:
    # The decimal digits decide: a float64 of them may already have been rounded up to the limit
    return abs(value) > _LARGEST_FLOAT32 and abs(Decimal(raw.decode())) >= _FLOAT32_END


def _must_be_number(raw: bytes, go_type: str) -> None:
    if raw[0] in _KINDS:
        raise _mismatch(raw[0], go_type)


def _mismatch(first: int, go_type: str) -> MalformedRequestError:
    kind = _KINDS.get(first, "number")
    return MalformedRequestError(f"json: cannot unmarshal {kind} into Go value of type {go_type}")


def _out_of_range(raw: bytes, go_type: str) -> MalformedRequestError:
    return MalformedRequestError(f"json: cannot unmarshal number {raw.decode()} into Go value of type {go_type}")


def unquoted(raw: bytes) -> str:
    """The text of a checked JSON string; what is no Unicode (bad UTF-8, half a surrogate pair) is U+FFFD."""
    # A surrogate, and so a U+FFFD, for every single bad byte, as in Go; Python's own "replace" joins some
    text: str = json.loads(raw.decode(errors="surrogateescape"))
    return _LONE_SURROGATE.sub("\ufffd", text)
