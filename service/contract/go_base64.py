"""Base64 text of a JSON ``bytes`` field -> bytes, as Go's encoding/base64.StdEncoding takes it."""

from __future__ import annotations

import re

import pybase64

from service.errors import MalformedRequestError

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PLAIN = re.compile(rb"[A-Za-z0-9+/\r\n]*")
_LINE_BREAKS = re.compile(rb"[\r\n]*")


def decode(text: str) -> bytes:
    """The bytes; line breaks are skipped, padding is needed. Raises MalformedRequestError with Go's offset."""
    written = text.encode()
    try:
        content: bytes = pybase64.b64decode(written.replace(b"\r", b"").replace(b"\n", b""), validate=True)
    except ValueError:
        offset = _corrupt_at(written)
        message = f"illegal base64 data at input byte {len(written) if offset is None else offset}"
        raise MalformedRequestError(message) from None
    return content


def _corrupt_at(text: bytes) -> int | None:
    """The offset Go names: decodeQuantum of Go 1.17, followed from the first group that is not plain."""
    position, digits = _whole_groups_end(text), 0
    while digits < 4:
        position = _skip_breaks(text, position)
        if position == len(text):
            return position - digits
        if text[position] == ord("="):
            return _bad_padding_at(text, position, digits)
        if text[position] not in _ALPHABET:
            return position
        position, digits = position + 1, digits + 1
    return None


def _whole_groups_end(text: bytes) -> int:
    """Where the last group of four plain digits ends, before the first byte that is neither digit nor line break."""
    match = _PLAIN.match(text)
    plain = text[: match.end() if match else 0].rstrip(b"\r\n")
    digits = len(plain) - plain.count(b"\r") - plain.count(b"\n")
    for _ in range(digits % 4):
        plain = plain[:-1].rstrip(b"\r\n")
    return len(plain)


def _bad_padding_at(text: bytes, position: int, digits: int) -> int | None:
    if digits < 2:
        return position
    position += 1
    if digits == 2:
        position = _skip_breaks(text, position)
        if position == len(text):
            return position
        if text[position] != ord("="):
            return position - 1
        position += 1
    position = _skip_breaks(text, position)
    return position if position < len(text) else None


def _skip_breaks(text: bytes, position: int) -> int:
    match = _LINE_BREAKS.match(text, position)
    return match.end() if match else position
