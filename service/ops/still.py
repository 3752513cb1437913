"""An animated PNG -> the PNG that a reader without animations sees: its image data, and no frame beside it."""

from __future__ import annotations

from service.ops.completeness import MAX_CHUNKS
from service.ops.header import ImageHeader

_OF_ANIMATION = (b"acTL", b"fcTL")


def still(data: bytes, header: ImageHeader) -> bytes:
    """``data`` itself, or a copy without the chunks by which OpenCV takes a PNG for an animation.

    OpenCV's reader of animated PNGs, from 4.11 to 4.14 at least, ends the process where a frame is damaged: libpng's
    error jumps into a function that has returned (opencv/opencv#27744). ``data`` has passed ``check_complete``.
    """
    if header.format != "PNG":
        return data
    kept, begin, position = [], 0, 8
    for _ in range(MAX_CHUNKS):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind in (b"IDAT", b"IEND"):  # behind the first image data OpenCV looks for no animation
            break
        if kind in _OF_ANIMATION:
            kept.append(data[begin:position])
            begin = position + 12 + length
        position += 12 + length
    return b"".join((*kept, data[begin:])) if kept else data
