"""A multipart/form-data body (RFC 7578) -> the image files in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from service.contract.encoded_image import EncodedImage, shown
from service.errors import MalformedRequestError

MOST_PARTS = 4096  # as many as there can be slots
MOST_HEADERS = 8  # of a part
MOST_HEADER_BYTES = 4096
_MOST_BOUNDARY = 70  # RFC 2046, 5.1.1
_LIMITS = f"at most {MOST_PARTS} parts, {MOST_HEADERS} headers a part and {MOST_HEADER_BYTES} bytes a header accepted"
_UNENCODED = ("binary", "8bit", "7bit")

Part = tuple[MultipartSegment, bytes]


def read_form(body: bytes, content_type: str) -> list[EncodedImage]:
    """Every part is an image file, in order; its key is its field's name, or which of several of that name it is.

    Each file is copied once out of the body, and nothing is written to disk.
    Raises MalformedRequestError: no form, a form cut off, too many parts or headers, a part that is no file.
    """
    try:
        parts = _parts_of(body, _boundary_of(content_type))
    except MultipartError as error:
        # The parser keeps its error, whose traceback would keep the parser and the body until a collection
        error.__traceback__ = None
        limits = f" ({_LIMITS})" if isinstance(error, ParserLimitReached) else ""
        raise MalformedRequestError(f"multipart/form-data: {error.args[0]}{limits}") from None
    if not parts:
        raise MalformedRequestError("multipart/form-data: no part in it; each part must be an image file")
    files = [file for _, file in parts]
    return [EncodedImage(key, file, is_base64=False) for key, file in zip(_keys_of(parts), files, strict=True)]


def _boundary_of(content_type: str) -> str:
    boundary: str = parse_options_header(content_type)[1].get("boundary", "")
    if not 0 < len(boundary) <= _MOST_BOUNDARY:
        raise MalformedRequestError(
            f"multipart/form-data: a boundary of 1 to {_MOST_BOUNDARY} characters must be in Content-Type, "
            f"there are {len(boundary)}"
        )
    return boundary


def _parts_of(body: bytes, boundary: str) -> list[Part]:
    parts: list[Part] = []
    with PushMultipartParser(
        boundary,
        max_segment_count=MOST_PARTS,
        max_header_count=MOST_HEADERS,
        max_header_size=MOST_HEADER_BYTES,
        strict=True,
    ) as parser:
        for event in parser.parse(body):
            if isinstance(event, MultipartSegment):
                _check(event)
                parts.append((event, b""))
            elif event is not None:
                # The whole body is one piece to the parser, so that a file is one, too
                parts[-1] = (parts[-1][0], event)
    return parts


def _check(part: MultipartSegment) -> None:
    """Raises MalformedRequestError for a part that is no file, or not its bytes as they are."""
    name = shown(part.name)
    media = part.content_type or ""
    if part.filename is None and not media.startswith("image/") and media != "application/octet-stream":
        raise MalformedRequestError(
            f"multipart/form-data: part {name!r} is no file, for it has neither a filename nor the type of one; "
            "each part must be an image file"
        )
    encoding = part.header("Content-Transfer-Encoding", "binary").strip()
    if encoding.lower() not in _UNENCODED:
        raise MalformedRequestError(
            f"multipart/form-data: part {name!r} has the Content-Transfer-Encoding {encoding[:80]!r} "
            f"(accepted: {', '.join(_UNENCODED)})"
        )


def _keys_of(parts: Sequence[Part]) -> list[str]:
    """What an error calls each part: its field's name, and where several share that, which one and its filename."""
    times = Counter(part.name for part, _ in parts)
    before: Counter[str] = Counter()
    keys = []
    for part, _ in parts:
        name = part.name
        keys.append(name if times[name] == 1 else f"{shown(name)}[{before[name]}] {part.filename or ''}".rstrip())
        before[name] += 1
    return keys
