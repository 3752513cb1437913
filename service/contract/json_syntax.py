"""JSON text -> its values and where they stand, or the complaint of Go's encoding/json about it.

The gateway of stock Paddle Serving is a Go program (1.17); clients see its messages. Everything works on bytes, in one
pass and without recursion: nesting is bounded as Go bounds it, and so is the number of steps one body may cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import MalformedRequestError

_MAX_DEPTH = 10_000  # encoding/json, scanner.go, maxNestingDepth
_MAX_STEPS = 50_000  # a step is a container, a member, or a run of plain array elements

# No possessive quantifiers: those of Python 3.11.0 to 3.11.4 match wrongly. Counted repetitions bound the memory that a
# pattern keeps for going back; what is longer is matched in several goes, or element by element.
_TEXT = rb'[^"\\\x00-\x1f]*'
_ESCAPED = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})%s' % _TEXT
_NUMBER_TEXT = rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING_HEAD = re.compile(rb'"%s' % _TEXT)
_STRING_MORE = re.compile(rb"(?:%s){1,256}" % _ESCAPED)
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_SCALAR = rb'(?:"%s(?:%s){0,16}"|%s|true|false|null)' % (_TEXT, _ESCAPED, _NUMBER_TEXT)
_PLAIN_ELEMENTS = re.compile(rb"(?:[ \t\r\n]*%s[ \t\r\n]*,)+" % _SCALAR)
_LITERALS = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}
_CLOSERS = {ord("{"): ord("}"), ord("["): ord("]")}
_OBJECT, _ARRAY, _COMMA, _COLON, _QUOTE = b"}],:" + b'"'
_QUOTED = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 39: r"\'", 92: r"\\"}


class EndOfText(Exception):
    """The text ended within a value."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a checked JSON text: where it stands, and where the text's containers end, by where they start."""

    document: bytes
    start: int
    end: int
    container_ends: dict[int, int]

    @property
    def text(self) -> bytes:
        """The value as it is written."""
        return self.document[self.start : self.end]

    @property
    def first(self) -> int:
        """Its first byte, which tells its kind."""
        return self.document[self.start]


def read_value(text: bytes) -> Value:
    """The first JSON value of the text, its syntax checked; what follows it is not looked at.

    Raises MalformedRequestError with Go's message, EndOfText if there is no value or it is cut off.
    """
    start = position = _next(text, 0)
    open_starts: list[int] = []  # of the containers we are in, innermost last
    ends: dict[int, int] = {}
    complete = False
    for _ in range(_MAX_STEPS):
        if complete and not open_starts:
            return Value(text, start, position, ends)
        if complete:
            position, complete = _after_value(text, position, open_starts, ends)
        else:
            position, complete = _begin_value(text, position, open_starts, ends)
    raise MalformedRequestError(f"json: more than {_MAX_STEPS} nested values")


def read_only_value(text: bytes) -> Value:
    """The one JSON value that the text is; errors as Go's json.Unmarshal."""
    # Go steps its scanner once more with a space at the end of the text; its messages show it
    spaced = text + b" "
    try:
        value = read_value(spaced)
    except EndOfText:
        raise MalformedRequestError("unexpected end of JSON input") from None
    match = _SPACE.match(spaced, value.end)
    if match and match.end() < len(spaced):
        raise _invalid(spaced, match.end(), "after top-level value")
    return value


def members(value: Value) -> Iterator[tuple[bytes, Value]]:
    """The (key, value) pairs of an object, keys as they are written, in order."""
    text, position = value.document, _next(value.document, value.start + 1)
    while text[position] != _OBJECT:
        end = _string_end(text, position)
        inner = _value_at(value, _next(text, _next(text, end) + 1))
        yield text[position:end], inner
        position = _next(text, inner.end)
        position = _next(text, position + 1) if text[position] == _COMMA else position


def elements(value: Value) -> Iterator[Value]:
    """The values of an array, in order."""
    text, position = value.document, _next(value.document, value.start + 1)
    for _ in range(_MAX_STEPS):
        if text[position] == _ARRAY:
            return
        inner = _value_at(value, position)
        yield inner
        position = _next(text, inner.end)
        position = _next(text, position + 1) if text[position] == _COMMA else position
    raise MalformedRequestError(f"json: more than {_MAX_STEPS} values in one list")


def _value_at(container: Value, position: int) -> Value:
    text, ends = container.document, container.container_ends
    return Value(text, position, ends.get(position) or _scalar_end(text, position), ends)


def _next(text: bytes, position: int) -> int:
    """The next byte that is not white space; raises EndOfText if there is none."""
    match = _SPACE.match(text, position)
    end = match.end() if match else position
    if end == len(text):
        raise EndOfText
    return end


def _begin_value(text: bytes, position: int, open_starts: list[int], ends: dict[int, int]) -> tuple[int, bool]:
    if open_starts and text[open_starts[-1]] == ord("[") and (run := _PLAIN_ELEMENTS.match(text, position)):
        position = run.end()
    start = _next(text, position)
    closer = _CLOSERS.get(text[start])
    if closer is None:
        return _scalar_end(text, start), True
    if len(open_starts) == _MAX_DEPTH:
        raise _invalid(text, start, "exceeded max depth")
    position = _next(text, start + 1)
    if text[position] == closer:
        ends[start] = position + 1
        return position + 1, True
    open_starts.append(start)
    return (_key_end(text, position) if closer == _OBJECT else position), False


def _after_value(text: bytes, position: int, open_starts: list[int], ends: dict[int, int]) -> tuple[int, bool]:
    position = _next(text, position)
    closer = _CLOSERS[text[open_starts[-1]]]
    if text[position] == closer:
        ends[open_starts.pop()] = position + 1
        return position + 1, True
    if text[position] != _COMMA:
        raise _invalid(text, position, "after object key:value pair" if closer == _OBJECT else "after array element")
    return (_key_end(text, _next(text, position + 1)) if closer == _OBJECT else position + 1), False


def _key_end(text: bytes, position: int) -> int:
    if text[position] != _QUOTE:
        raise _invalid(text, position, "looking for beginning of object key string")
    position = _next(text, _string_end(text, position))
    if text[position] != _COLON:
        raise _invalid(text, position, "after object key")
    return position + 1


def _scalar_end(text: bytes, position: int) -> int:
    first = text[position]
    if first == _QUOTE:
        return _string_end(text, position)
    if literal := _LITERALS.get(first):
        return _literal_end(text, position, literal)
    if first in b"-0123456789":
        return _number_end(text, position)
    raise _invalid(text, position, "looking for beginning of value")


def _literal_end(text: bytes, position: int, literal: bytes) -> int:
    for offset, expected in enumerate(literal):
        if text[position + offset : position + offset + 1] != literal[offset : offset + 1]:
            context = f"in literal {literal.decode()} (expecting '{chr(expected)}')"
            raise _invalid(text, position + offset, context)
    return position + len(literal)


def _number_end(text: bytes, position: int) -> int:
    match = _NUMBER.match(text, position)
    if match is None:
        raise _invalid(text, position + 1, "in numeric literal")
    end, (fraction, exponent) = match.end(), match.groups()
    following = text[end : end + 1]
    if following == b"." and fraction is None and exponent is None:
        raise _invalid(text, end + 1, "after decimal point in numeric literal")
    if following in (b"e", b"E") and exponent is None:
        end += 2 if text[end + 1 : end + 2] in (b"+", b"-") else 1
        raise _invalid(text, end, "in exponent of numeric literal")
    return end


def _string_end(text: bytes, position: int) -> int:
    match = _STRING_HEAD.match(text, position)
    end = position
    while match:
        end = match.end()
        match = _STRING_MORE.match(text, end)
    following = text[end : end + 1]
    if following == b'"':
        return end + 1
    if following != b"\\":
        raise _invalid(text, end, "in string literal")
    if text[end + 1 : end + 2] != b"u":
        raise _invalid(text, end + 1, "in string escape code")
    digits = re.compile(rb"[0-9a-fA-F]*").match(text, end + 2)
    raise _invalid(text, digits.end() if digits else end, r"in \u hexadecimal character escape")


def _invalid(text: bytes, position: int, context: str) -> Exception:
    """What Go says of the byte at ``position``; EndOfText where there is none."""
    if position >= len(text):
        return EndOfText()
    return MalformedRequestError(f"invalid character {_quoted(text[position])} {context}")


def _quoted(byte: int) -> str:
    """A byte as scanner.go's quoteChar shows it: as the rune of that number, escaped as by strconv.Quote."""
    if byte in _QUOTED:
        return f"'{_QUOTED[byte]}'"
    if byte < 0x20:
        return rf"'\x{byte:02x}'"
    return f"'{chr(byte)}'" if chr(byte).isprintable() else rf"'\u{byte:04x}'"
