"""Bytes -> other bytes, and JSON values -> other JSON values; everything follows from one ``random.Random``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MOST_BYTES = 1 << 17  # of a case: larger ones only make a run slower
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TEXTS = (
    "",
    "\0",
    "a\nb",
    "\r\n\r\n",
    "\ud800",
    "\u202e\u0000\uffff",
    "é" * 50,
    "'\"\\",
    "../../../etc/passwd",
    "{{7*7}}%s%n",
    "9" * 400,
    "9" * 5000,
    "1e999",
    "NaN",
    "-0",
    "x" * 3000,
)
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, 1e308, -0.0),
    *(float("inf"), float("-inf"), float("nan"), True, False, None),
)


def _flip(data: bytearray, random: Random) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _replace(data: bytearray, random: Random) -> None:
    data[random.randrange(len(data))] = random.randrange(256)


def _remove(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    del data[start : start + _length(random)]


def _repeat(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    data[start:start] = data[start : start + _length(random)] * random.choice((1, 1, 2, 50))


def _insert(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    data[start:start] = random.randbytes(_length(random))


def _edge(data: bytearray, random: Random) -> None:
    """A number at its limits where there may be a length or a size."""
    start, width = random.randrange(len(data)), random.choice((1, 2, 4, 8))
    value = random.choice(EDGES) & (1 << 8 * width) - 1
    data[start : start + width] = value.to_bytes(width, random.choice(("big", "little")))


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def _swap(data: bytearray, random: Random) -> None:
    first, second, length = random.randrange(len(data)), random.randrange(len(data)), _length(random)
    data[first : first + length], data[second : second + length] = (
        data[second : second + length],
        data[first : first + length],
    )


def _digits(data: bytearray, random: Random) -> None:
    """A number in text becomes another one."""
    places = [place for place, byte in enumerate(data[:4096]) if 0x30 <= byte <= 0x39]
    if places:
        place = random.choice(places)
        data[place : place + 1] = random.choice((b"-1", b"0", b"99999999999999999999", b"1e999", b"0x10", b"007"))


_WAYS: tuple[Callable[[bytearray, Random], None], ...] = (
    *(_flip, _replace, _remove, _repeat, _insert, _edge, _edge, _truncate, _swap, _digits),
)


def _length(random: Random) -> int:
    return random.choice((1, 1, 2, 4, 8, 16, random.randrange(1, 512)))


def mutated(data: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """The bytes with one to eight changes; sometimes with the end of one of ``others``."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 5, 8))):
        if changed:
            random.choice(_WAYS)(changed, random)
    if others and random.random() < 0.1:
        other = random.choice(others)
        cut = random.randrange(len(changed) + 1)
        changed[cut:] = other[random.randrange(len(other) + 1) :]
    return bytes(changed[:MOST_BYTES])


def any_value(random: Random, depth: int = 3) -> Any:
    """A JSON value of any kind, not deep."""
    kind = random.randrange(6 if depth else 2)
    if kind == 0:
        return random.choice(TEXTS)
    if kind <= 3:
        return random.choice(NUMBERS)
    values = [any_value(random, depth - 1) for _ in range(random.randrange(4))]
    return values if kind == 4 else {random.choice(TEXTS): value for value in values}


def changed_value(value: Any, random: Random) -> Any:
    """A JSON value with one part of it replaced, left out, doubled or renamed."""
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.15:
        return any_value(random)
    if isinstance(value, list):
        place = random.randrange(len(value))
        way = random.randrange(4)
        middle = ([], [value[place]] * 2, [changed_value(value[place], random)], [any_value(random), value[place]])[way]
        return [*value[:place], *middle, *value[place + 1 :]]
    name = random.choice(list(value))
    rest = {key: one for key, one in value.items() if key != name}
    way = random.randrange(6)
    if way == 0:
        return rest
    if way == 1:
        return {**rest, random.choice((*TEXTS, str(name).upper(), f"{name} ")): value[name]}
    return {**value, name: changed_value(value[name], random)}


def json_text(value: Any, random: Random) -> bytes:
    """The value as JSON: sometimes with a key twice, deep nesting, other encodings, or not JSON at all."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    way = random.randrange(12)
    if way == 0 and text.startswith("{"):
        text = "{" + text[1:-1] + ", " + text[1:]
    elif way == 1:
        text = text.replace(":", ":" + random.choice("[{") * random.choice((10, 1000, 20000)), 1)
    elif way == 2:
        text = text.replace(" ", random.choice(("\t", "\u00a0", "\0", "//x\n")))
    encoded = text.encode(random.choice(("utf-8",) * 8 + ("utf-16", "utf-32", "cp500")), "replace")
    return mutated(encoded, random) if random.random() < 0.3 else encoded
