"""bytes and their header -> whether OpenCV composes the image: it keeps several canvases of an animated PNG or WebP."""

from __future__ import annotations

from service.ops.completeness import MAX_CHUNKS
from service.ops.header import ImageHeader


def is_composed(data: bytes, header: ImageHeader) -> bool:
    """True for an animation, also of one frame; never for a GIF, of which Pillow reads the first frame alone.

    ``data`` has passed ``check_complete``.
    """
    if header.format == "PNG":
        return _has_animation_control(data)
    return header.format == "WebP" and data[12:16] == b"VP8X" and data[20] & 0x02 != 0


def _has_animation_control(data: bytes) -> bool:
    position = 8
    for _ in range(MAX_CHUNKS):
        kind = data[position + 4 : position + 8]
        if kind in (b"acTL", b"IDAT", b"IEND"):  # behind the image data the control chunk is ignored
            return kind == b"acTL"
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False
