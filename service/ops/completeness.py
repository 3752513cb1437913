"""bytes and their header -> nothing, or the error that says where the file ends too early.

Decoders differ, by format and by version, in whether they refuse half an image or return it half grey.
"""

from __future__ import annotations

import struct

from service.errors import ImageError
from service.ops.header import EOI, SOS, ImageHeader, jpeg_segments

# The encoders we know of write up to about 20; each costs a pass over all blocks, however few bytes it has.
MAX_SCANS = 50
MAX_CHUNKS = 65536


def check_complete(data: bytes, header: ImageHeader) -> None:
    """Raises ImageError where the file is cut off, or where decoding it would take passes without bound."""
    check = {"JPEG": _check_jpeg, "PNG": _check_png, "WebP": _check_webp, "BMP": _check_bmp}.get(header.format)
    if check is None:  # Pillow itself refuses half a GIF frame
        return
    try:
        check(data)
    except struct.error:
        raise ImageError(f"{header.format} truncated: {len(data)} bytes end inside a header") from None


def _check_jpeg(data: bytes) -> None:
    scans, last = 0, SOS
    for marker, _ in jpeg_segments(data):
        scans += marker == SOS
        last = marker
    if last != EOI:
        raise ImageError(f"JPEG truncated: {len(data)} bytes end in scan {scans}, before the end-of-image marker")
    if scans > MAX_SCANS:
        raise ImageError(f"JPEG with {scans} scans, at most {MAX_SCANS} accepted")


def _check_png(data: bytes) -> None:
    position = 8
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if position > len(data):
            raise ImageError(f"PNG truncated: {len(data)} bytes end in the chunk {_printable(kind)} of {length} bytes")
        if kind == b"IEND":
            return
    raise ImageError(f"PNG damaged: more than {MAX_CHUNKS} chunks")


def _printable(kind: bytes) -> str:
    return ascii(kind.decode("latin-1"))


def _check_webp(data: bytes) -> None:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise ImageError(f"WebP truncated: {len(data)} of {size + 8} bytes")


def _check_bmp(data: bytes) -> None:
    pixels_offset, header_size = struct.unpack_from("<4xI", data, 6) + struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height, _, depth = struct.unpack_from("<4H", data, 18)
        compression = 0
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (1, 2):  # run lengths: no size to expect, and OpenCV refuses where the bytes end
        return
    needed = pixels_offset + (width * depth + 31) // 32 * 4 * abs(height)
    if needed > len(data):
        raise ImageError(f"BMP truncated: {len(data)} of {needed} bytes")
