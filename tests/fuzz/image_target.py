"""Image files, good and broken -> service.ops.decode: an array within the limits, or ImageError."""

from __future__ import annotations

import struct
import zlib
from random import Random

import numpy as np
from fuzz.mutation import EDGES, mutated
from fuzz.targets import BrokenPromiseError, Target
from image_files import FILES

from service.errors import ImageError
from service.ops.decode import Limits, decode

LIMITS = Limits(max_bytes=1 << 17, max_pixels=2_000_000, max_side=4096)


class ImageTarget(Target):
    """``decode`` as the service calls it, with and without reduction."""

    name = "image"
    batch = 8

    def seeds(self) -> list[bytes]:
        return [*FILES.values()]

    def generate(self, random: Random, seeds: list[bytes]) -> bytes:
        data = random.choice(seeds)
        for _ in range(random.choice((1, 1, 2, 3))):
            data = _by_structure(data, random) if random.random() < 0.7 else mutated(data, random, seeds)
        return random.choice(seeds) + data if random.random() < 0.02 else data

    def check(self, cases: list[bytes]) -> None:
        for data in cases:
            for resize_short in (None, 36):
                try:
                    image = decode(data, LIMITS, resize_short)
                except ImageError as error:
                    _check_message(str(error))
                else:
                    _check_image(image)


def _check_message(text: str) -> None:
    if not text or "\n" in text or len(text) > 300:
        raise BrokenPromiseError(f"a message that is no short line: {text!r}")


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.flags.c_contiguous:
        raise BrokenPromiseError(f"an array of {image.dtype} {image.shape}")
    if image.shape[0] * image.shape[1] > LIMITS.max_pixels or max(image.shape) > LIMITS.max_side:
        raise BrokenPromiseError(f"{image.shape}, beyond the limits")


def _by_structure(data: bytes, random: Random) -> bytes:
    """A change that the format's own bookkeeping survives, so that the decoder gets to see it."""
    if data.startswith(b"\x89PNG"):
        return _png(data, random)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data, random)
    if data.startswith(b"RIFF"):
        return _webp(data, random)
    if data.startswith((b"GIF8", b"BM")):
        return _header(data, random)
    return mutated(data, random)


def _png(data: bytes, random: Random) -> bytes:
    """Chunks changed, doubled, moved or left out, with the right length and checksum."""
    chunks, position = [], 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    if not chunks:
        return mutated(data, random)
    place = random.randrange(len(chunks))
    kind, content = chunks[place]
    way = random.randrange(6)
    if way == 0:
        chunks.insert(random.randrange(len(chunks) + 1), chunks[place])
    elif way == 1 and len(chunks) > 1:
        del chunks[place]
    elif way == 2:
        size = struct.pack(">II", random.choice((1, 37, 61, 4096, 5000, *EDGES)), random.choice((1, 61, *EDGES)))
        chunks[0] = (chunks[0][0], size + chunks[0][1][8:])
    elif way == 3:
        kind = random.choice((b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"fdAT", b"acTL", b"zTXt", b"IEND", b"gAMA"))
        chunks.insert(random.randrange(len(chunks) + 1), (kind, random.randbytes(random.randrange(64))))
    elif kind == b"IDAT":
        chunks[place] = (kind, _deflated(content, random))
    else:
        chunks[place] = (kind, mutated(content, random))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _deflated(content: bytes, random: Random) -> bytes:
    """Other pixels, more than there should be, or a bomb, compressed as they should be."""
    try:
        pixels = zlib.decompress(content)
    except zlib.error:
        pixels = bytes(100)
    return zlib.compress(bytes(20_000_000) if random.random() < 0.05 else mutated(pixels, random))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _jpeg(data: bytes, random: Random) -> bytes:
    """A segment changed, doubled, left out or put in; sizes in the frame; EXIF that turns the image."""
    places = [at for at in range(2, len(data) - 4) if data[at] == 0xFF and 0xC0 <= data[at + 1] <= 0xFE]
    if not places:
        return mutated(data, random)
    at = random.choice(places)
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    way = random.randrange(7)
    if way == 0:
        return data[:at] + data[at : at + 2 + length] + data[at:]
    if way == 1:
        return data[:at] + data[at + 2 + length :]
    if way == 2:
        return data[: at + 2] + random.choice(EDGES[:9]).to_bytes(2, "big") + data[at + 4 :]
    if way == 3:
        return data[: at + 4] + mutated(data[at + 4 : at + 2 + length], random) + data[at + 2 + length :]
    if way == 4:
        return data[:2] + _exif(random) + data[2:]
    if way == 5:
        frame = data.find(b"\xff\xc0" if b"\xff\xc0" in data else b"\xff\xc2")
        size = struct.pack(">HH", random.choice((0, 1, 61, 1400, 65535)), random.choice((0, 1, 61, 1400, 65535)))
        return data[: frame + 5] + size + data[frame + 9 :] if frame > 0 else data
    return data[: at + 1] + bytes([random.randrange(0xC0, 0xFF)]) + data[at + 2 :]


def _exif(random: Random) -> bytes:
    order = random.choice("<>")
    entry = struct.pack(order + "HHII", 0x0112, random.choice((3, 4, 99)), random.choice((1, 0, 2**32 - 1)), 0)
    value = struct.pack(order + "H", random.randrange(12))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", random.choice((8, 8, 8, 7, 2**32 - 1)))
    block = b"Exif\0\0" + head + struct.pack(order + "H", random.choice((1, 1, 65535))) + entry[:8] + value
    block = mutated(block, random) if random.random() < 0.5 else block
    return b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block


def _webp(data: bytes, random: Random) -> bytes:
    """The sizes of the file and its first chunk, and the canvas."""
    place = random.choice((4, 16, 20, 24, 26, 27, 28, 30))
    width = random.choice((1, 2, 3, 4))
    value = random.choice(EDGES) & (1 << 8 * width) - 1
    changed = data[:place] + value.to_bytes(width, "little") + data[place + width :]
    if random.random() < 0.5:
        changed = changed[:12] + mutated(changed[12:], random)
        changed = changed[:4] + struct.pack("<I", max(0, len(changed) - 8)) + changed[8:]
    return changed


def _header(data: bytes, random: Random) -> bytes:
    """BMP and GIF: numbers at their limits where the headers are."""
    place, width = random.randrange(4, 60), random.choice((1, 2, 4))
    value = random.choice((*EDGES, 37, 61, 1400)) & (1 << 8 * width) - 1
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]
