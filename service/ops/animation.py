"""bytes and their header -> whether OpenCV composes the image: it keeps several canvases of an animated WebP."""

from __future__ import annotations

from service.ops.header import ImageHeader


def is_composed(data: bytes, header: ImageHeader) -> bool:
    """True for an animated WebP, also of one frame.

    Never for a GIF, of which Pillow reads the first frame alone, nor for a PNG, whose animation ``still`` leaves out.
    ``data`` has passed ``check_complete``.
    """
    return header.format == "WebP" and data[12:16] == b"VP8X" and data[20] & 0x02 != 0
