"""Values -> JSON, to the byte as Go's encoding/json writes it."""

from __future__ import annotations

import re
from typing import Any

import orjson

_ESCAPE = re.compile(rb"\\(.)")
_LONG_ESCAPES = {b"b": rb"\u0008", b"f": rb"\u000c"}
# Go's HTML-safe escapes, and the two line separators that JavaScript takes for line ends
_REPLACED = (
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    (b"&", rb"\u0026"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


def go_json(value: Any) -> bytes:
    """Compact JSON of dicts, lists, texts and int32 numbers. Texts must be valid Unicode."""
    written = orjson.dumps(value)
    for character, escape in _REPLACED:
        if character in written:
            written = written.replace(character, escape)
    if rb"\b" in written or rb"\f" in written:
        written = _ESCAPE.sub(lambda match: _LONG_ESCAPES.get(match[1], match[0]), written)
    return written


def valid_text(text: str) -> str:
    """The text with anything that UTF-8 cannot carry (lone surrogates) as U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
