"""bytes -> an ImageHeader: format and size as the file declares them, nothing decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

from service.errors import ImageError

ACCEPTED = "JPEG, PNG, WebP, BMP, GIF"

SOI, EOI, SOS, TEM = 0xD8, 0xD9, 0xDA, 0x01
# ITU-T T.81 table B.1: C4, C8 and CC are tables and reserved, not frames.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Not FF00 (a stuffed byte), FFFF (fill) or a restart marker: none of them ends entropy-coded data.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")

# Far above what encoders write; without a bound, 20 MB of empty segments would keep the interpreter busy for seconds.
MAX_SEGMENTS = 4096
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself. ``width`` and ``height`` are pixels as stored, before EXIF orientation."""

    format: str  # one of ACCEPTED
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """The header of an image file, told by its first bytes and never by a name or a content type.

    Raises ImageError: not an image, a format outside ACCEPTED, or a header that is damaged or cut off.
    """
    image_format, read_size = _reader(data)
    try:
        width, height = read_size(data)
    except struct.error:
        raise ImageError(f"{image_format} truncated: {len(data)} bytes end before the image size") from None
    if width < 1 or height < 1:
        raise ImageError(f"{image_format} damaged: {width}x{height} pixels")
    return ImageHeader(image_format, width, height)


def _reader(data: bytes) -> tuple[str, Callable[[bytes], tuple[int, int]]]:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", _jpeg_size
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", _png_size
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP", _webp_size
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF", _gif_size
    # "BM" alone also begins plain text; the size of the second header settles it.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP", _bmp_size
    raise ImageError(f"{len(data)} bytes, but not an image we can read (accepted: {ACCEPTED})")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, offset behind the marker) of each segment in order, up to and including EOI where there is one.

    Entropy-coded data, fill bytes and stray bytes between segments are skipped, as libjpeg does.
    Raises struct.error where the bytes end inside a segment's length, ImageError beyond MAX_SEGMENTS.
    """
    position = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None:
            return
        marker, position = data[found.start() + 1], found.end()
        yield marker, position
        if marker == EOI:
            return
        if marker not in (SOI, TEM):
            position += struct.unpack_from(">H", data, position)[0]
    raise ImageError(f"JPEG damaged: more than {MAX_SEGMENTS} segments")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for marker, offset in jpeg_segments(data):
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, offset + 3)
            return width, height
        if marker in (SOS, EOI):
            raise ImageError("JPEG damaged: no frame header before the image data")
    raise struct.error


def _png_size(data: bytes) -> tuple[int, int]:
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    if kind != b"IHDR":
        raise ImageError(f"PNG damaged: the first chunk is {kind!r}, not IHDR")
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    """The size in the first chunk: VP8 (RFC 6386 9.1), VP8L, or the canvas of VP8X (WebP container specification)."""
    (kind,) = struct.unpack_from("<4s", data, 12)
    if kind == b"VP8X":
        width_low, width_high, height_low, height_high = struct.unpack_from("<HBHB", data, 24)
        return 1 + width_low + (width_high << 16), 1 + height_low + (height_high << 16)
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature == 0x2F:
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        start_code, width, height = struct.unpack_from("<3sHH", data, 23)
        if start_code == b"\x9d\x01\x2a":
            return width & 0x3FFF, height & 0x3FFF
    raise ImageError(f"WebP damaged: the first chunk, {kind!r}, has no image size")


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # a negative height stores the rows from the top


def _gif_size(data: bytes) -> tuple[int, int]:
    """The logical screen, or the first frame where it reaches beyond: Pillow then enlarges the canvas."""
    screen_width, screen_height = struct.unpack_from("<HH", data, 6)
    left, top, width, height = struct.unpack_from("<4H", data, _gif_first_frame(data) + 1)
    if width < 1 or height < 1:
        raise ImageError(f"GIF damaged: a first frame of {width}x{height} pixels")
    return max(screen_width, left + width), max(screen_height, top + height)


def _gif_first_frame(data: bytes) -> int:
    """The offset of the first image descriptor, behind the colour table and the extensions (GIF89a, 17 to 26)."""
    (flags,) = struct.unpack_from("<B", data, 10)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for _ in range(MAX_SEGMENTS):
        (introducer,) = struct.unpack_from("<B", data, position)
        if introducer == 0x2C:
            return position
        if introducer != 0x21:
            raise ImageError("GIF damaged: no frame")
        position = _gif_sub_blocks_end(data, position + 2)
    raise ImageError(f"GIF damaged: more than {MAX_SEGMENTS} extensions before the first frame")


def _gif_sub_blocks_end(data: bytes, position: int) -> int:
    for _ in range(MAX_SEGMENTS):
        (size,) = struct.unpack_from("<B", data, position)
        position += 1 + size
        if size == 0:
            return position
    raise ImageError(f"GIF damaged: more than {MAX_SEGMENTS} blocks in one extension")
