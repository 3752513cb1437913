"""bytes -> an (H, W, 3) uint8 image, RGB, within the limits; large JPEGs reduced where that is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from service.errors import ConfigError, ImageError
from service.ops.animation import is_composed
from service.ops.completeness import check_complete
from service.ops.header import ImageHeader, read_header
from service.ops.memory import LARGE, give_back
from service.ops.opencv import MAX_PIXELS, cv2
from service.ops.scaled import reduction
from service.ops.still import still

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Our own limits come first; Pillow would only warn between its own and twice its own.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# The bit of a reduction alone is named GRAYSCALE; IMREAD_REDUCED_COLOR_* has that of BGR with it, which excludes RGB.
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

BAND = 250_000  # pixels of a GIF that are converted at a time
# An animated WebP may have this part of the accepted pixels: OpenCV's canvases take up to 15 bytes a pixel, where no
# other image takes more than 11.
COMPOSED = 4


@dataclass(frozen=True)
class Limits:
    """What an encoded image may be; all of it is checked before any pixel is decoded."""

    max_bytes: int = 20_000_000  # as encoded
    max_pixels: int = 50_000_000
    max_side: int = 16_384  # pixels, of the longer side

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{field.name} is {value!r}, accepted: whole numbers from 1")
        if self.max_pixels > MAX_PIXELS:
            raise ConfigError(f"max_pixels is {self.max_pixels}, accepted: 1 to {MAX_PIXELS}")


def decode(data: bytes | bytearray | memoryview, limits: Limits, resize_short: int | None = None) -> NDArray[np.uint8]:
    """The image as PaddleClas sees it: OpenCV's colour decoding, EXIF orientation applied, but RGB.

    Greyscale and palette become RGB, alpha is dropped, CMYK converted, 16 bits cut to their upper 8, ICC profiles
    ignored; of an animation the first frame, of an animated PNG its default image, as a rule the same. The array is
    C-contiguous and the caller's own.
    ``resize_short``, the pixels that the shorter side will be resized to, allows a JPEG to come out reduced to 1/2, 1/4
    or 1/8 (``service.ops.scaled``); everything else, its limits too, is as without.
    Raises ImageError: empty, not an accepted format, beyond the limits, truncated, or refused by the decoder.
    """
    size = memoryview(data).nbytes
    if size == 0:
        raise ImageError("empty")
    if size > limits.max_bytes:
        raise ImageError(f"{size} bytes, at most {limits.max_bytes} accepted")
    encoded = bytes(data)
    header = read_header(encoded)
    _check_size(header, limits)
    check_complete(encoded, header)
    composed = is_composed(encoded, header)
    if composed and _pixels(header) > limits.max_pixels // COMPOSED:
        raise ImageError(f"{_size(header)} of an animation, at most {limits.max_pixels // COMPOSED} accepted")
    try:
        if header.format == "GIF":
            return _decode_gif(encoded)
        denominator = reduction(header, resize_short) if resize_short else 1
        # Of an animation OpenCV's reader of files makes other pixels than its reader of memory, which is the reference.
        in_place = _pixels(header) >= LARGE * denominator**2 and not composed
        return _decode_opencv(encoded, header, denominator, in_place=in_place)
    finally:
        give_back(_pixels(header) * (COMPOSED if composed else 1))


def _pixels(header: ImageHeader) -> int:
    return header.width * header.height


def _size(header: ImageHeader) -> str:
    return f"{header.width}x{header.height} pixels"


def _check_size(header: ImageHeader, limits: Limits) -> None:
    if max(header.width, header.height) > limits.max_side:
        raise ImageError(f"{_size(header)}, at most {limits.max_side} a side accepted")
    if _pixels(header) > limits.max_pixels:
        raise ImageError(f"{_size(header)}, at most {limits.max_pixels} accepted")


def _decode_opencv(encoded: bytes, header: ImageHeader, denominator: int, *, in_place: bool) -> NDArray[np.uint8]:
    flags = cv2.IMREAD_COLOR_RGB | _REDUCED[denominator]
    file = still(encoded, header)
    try:
        image = _read_in_place(file, flags) if in_place else None
        if image is None:
            image = cv2.imdecode(np.frombuffer(file, np.uint8), flags)
    except cv2.error as error:
        raise _damaged(encoded, header.format) from error
    if image is None:
        raise _damaged(encoded, header.format)
    return image


def _read_in_place(encoded: bytes, flags: int) -> NDArray[np.uint8] | None:
    """The image, decoded into the array that is returned; None where that fails, for whatever reason.

    ``cv2.imdecode`` decodes into memory of OpenCV's and copies that, while no other thread of Python runs. Only the
    reader of files decodes into an array, so the bytes become a file that has no name.
    """
    try:
        with os.fdopen(os.memfd_create("regnetx-image", os.MFD_CLOEXEC), "wb") as file:
            file.write(encoded)
            file.flush()
            image: NDArray[np.uint8] | None = cv2.imread(f"/proc/self/fd/{file.fileno()}", None, flags)
            return image
    except OSError:  # no descriptor left
        return None


def _decode_gif(encoded: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(BytesIO(encoded), formats=("GIF",)) as image:
            return _rgb(image)
    except Exception as error:  # on damaged files Pillow raises whatever its parser stumbled over
        raise _damaged(encoded, "GIF truncated or") from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a Pillow image, some rows at a time: in between they take 4 bytes a pixel and twice 3."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(band.convert("RGB"))
    return pixels


def _damaged(encoded: bytes, what: str) -> ImageError:
    return ImageError(f"{what} damaged: {len(encoded)} bytes that cannot be decoded")
