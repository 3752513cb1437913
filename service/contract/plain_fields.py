"""A parsed JSON object -> the fields of a message, fast, if every one is plainly what its type holds."""

from __future__ import annotations

import re
from typing import Any

import pybase64

from service.contract.fields import FLOAT_RANGES, INTEGER_RANGES, MESSAGE, TENSOR_FIELDS, Field

_ABSENT = object()
_MINUS_ZERO = re.compile(rb"-0[^.eE]")
_TYPES = {"string": str, "bool": bool}


def read_plain(document: Any, fields: tuple[Field, ...]) -> dict[str, Any] | None:
    """The fields that are present, a nested message as a dict; None if any of them needs a closer look.

    NOTE an integer -0 has become 0 in parsed JSON; the caller looks for it with ``has_minus_zero``.
    """
    if type(document) is not dict:
        return None
    found = {}
    for field in fields:
        value = document.get(field.json_name, _ABSENT)
        if value is _ABSENT and (value := document.get(field.name, _ABSENT)) is _ABSENT:
            continue
        taken = _plain_list(value, field.go_type) if field.repeated else _plain_value(value, field.go_type)
        if taken is None:
            return None
        found[field.name] = taken
    return found


def has_minus_zero(text: bytes) -> bool:
    """Whether JSON text may hold an integer -0: to Go no unsigned number, and a float of its own."""
    return _MINUS_ZERO.search(text) is not None


def is_plain(values: list[Any], go_type: str) -> bool:
    """Whether every element of a list that is not empty is already what a field of that type holds."""
    types = set(map(type, values))
    if go_type in INTEGER_RANGES and types == {int}:
        return min(values) in INTEGER_RANGES[go_type] and max(values) in INTEGER_RANGES[go_type]
    if go_type in FLOAT_RANGES and types <= {int, float}:
        return bool(FLOAT_RANGES[go_type] > max(values) and min(values) > -FLOAT_RANGES[go_type])
    return types == {_TYPES.get(go_type)}


def _plain_list(values: Any, go_type: str) -> list[Any] | None:
    if type(values) is not list:
        return None
    if go_type == MESSAGE:
        messages = [read_plain(value, TENSOR_FIELDS) for value in values]
        return None if None in messages else messages
    return values if not values or is_plain(values, go_type) else None


def _plain_value(value: Any, go_type: str) -> Any:
    if go_type == "[]uint8":
        return _plain_bytes(value)
    return value if is_plain([value], go_type) else None


def _plain_bytes(text: Any) -> bytes | None:
    if type(text) is not str:
        return None
    try:
        content: bytes = pybase64.b64decode(text, validate=True)
    except ValueError:
        return None
    return content
