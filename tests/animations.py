"""Animated PNGs of every kind of pixel; Pillow writes those of 8 bits only, and none with a hidden still image."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from image_files import png


def animated_png(array: np.ndarray, *, blend: int = 0, still_is_hidden: bool = False) -> bytes:
    """A PNG of two frames with those pixels; with ``still_is_hidden`` what readers of stills see is a third image."""
    chunks = dict(chunks_of(png(array)))
    height, width = array.shape[:2]

    def control(number: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 10, 0, blend))

    def frame(number: int) -> bytes:
        return chunk(b"fdAT", struct.pack(">I", number) + chunks[b"IDAT"])

    before = b"" if still_is_hidden else control(0)
    after = control(1) + frame(2) + (control(3) + frame(4) if still_is_hidden else b"")
    control_of_all = chunk(b"acTL", struct.pack(">II", 2, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", chunks[b"IHDR"]) + control_of_all + before
        + chunk(b"IDAT", chunks[b"IDAT"]) + after + chunk(b"IEND", b"")
    )  # fmt: skip


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk of a PNG; the pixels as one."""
    position, pixels = 8, b""
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + length]
        pixels += content if kind == b"IDAT" else b""
        yield kind, pixels if kind == b"IDAT" else content
        position += 12 + length
