"""One small file of every kind the service reads, made when imported."""

import struct

import cv2
import numpy as np
from photographs import encode, picture
from PIL import Image

GENERATOR = np.random.default_rng(20)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return GENERATOR.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def translucent() -> Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(noise(37, 61)))
    return image


def run_length_bmp(indices: np.ndarray) -> bytes:
    """A BMP with RLE8 compression, which Pillow does not write; index i is the colour (i, 255 - i, 0) in BGR."""
    rows = [b"".join(bytes((1, int(index))) for index in row) + b"\0\0" for row in indices[::-1]]
    palette = b"".join(bytes((i, 255 - i, 0, 0)) for i in range(256))
    pixels = b"".join(rows)[:-2] + b"\0\1"
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, *indices.shape[::-1], 1, 8, 1, len(pixels), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + info + palette + pixels


FILES = {
    "JPEG": encode(picture(), "JPEG"),
    "JPEG progressive": encode(picture(), "JPEG", progressive=True),
    "JPEG with restarts": encode(picture(), "JPEG", restart_marker_blocks=2),
    "JPEG greyscale": encode(picture().convert("L"), "JPEG"),
    "JPEG CMYK": encode(picture().convert("CMYK"), "JPEG"),
    "PNG": encode(picture(), "PNG"),
    "PNG greyscale": encode(picture().convert("L"), "PNG"),
    "PNG palette": encode(picture().convert("P"), "PNG"),
    "PNG palette with transparency": encode(picture().convert("P"), "PNG", transparency=3),
    "PNG 1 bit": encode(picture().convert("1"), "PNG"),
    "PNG alpha": encode(translucent(), "PNG"),
    "PNG greyscale with alpha": encode(translucent().convert("LA"), "PNG"),
    "PNG 16 bits": png(noise(37, 61, 3, dtype=np.uint16)),
    "PNG animated": encode(picture(), "PNG", save_all=True, append_images=[picture().rotate(90)]),
    "WebP lossy": encode(picture(), "WebP"),
    "WebP lossless": encode(picture(), "WebP", lossless=True),
    "WebP alpha": encode(translucent(), "WebP"),
    "WebP animated": encode(picture(), "WebP", save_all=True, append_images=[picture().rotate(90)]),
    "BMP": encode(picture(), "BMP"),
    "BMP palette": encode(picture().convert("P"), "BMP"),
    "BMP 1 bit": encode(picture().convert("1"), "BMP"),
    "BMP alpha": encode(translucent(), "BMP"),
    "BMP run lengths": run_length_bmp(noise(9, 13)),
    "GIF": encode(picture(), "GIF"),
    "GIF animated": encode(picture(), "GIF", save_all=True, append_images=[picture().rotate(90)]),
}
