"""bytes -> an (H, W, 3) uint8 image, RGB, within the limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from service.errors import ConfigError, ImageError
from service.ops.completeness import check_complete
from service.ops.header import ImageHeader, read_header
from service.ops.opencv import MAX_PIXELS, cv2

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Our own limits come first; Pillow would only warn between its own and twice its own.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


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


def decode(data: bytes | bytearray | memoryview, limits: Limits) -> NDArray[np.uint8]:
    """The image as PaddleClas sees it: OpenCV's colour decoding, EXIF orientation applied, but RGB.

    Greyscale and palette become RGB, alpha is dropped, CMYK converted, 16 bits cut to their upper 8, ICC profiles
    ignored; of an animation the first frame. The array is C-contiguous and the caller's own.
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
    return _decode_gif(encoded) if header.format == "GIF" else _decode_opencv(encoded, header)


def _check_size(header: ImageHeader, limits: Limits) -> None:
    size = f"{header.width}x{header.height} pixels"
    if max(header.width, header.height) > limits.max_side:
        raise ImageError(f"{size}, at most {limits.max_side} a side accepted")
    if header.width * header.height > limits.max_pixels:
        raise ImageError(f"{size}, at most {limits.max_pixels} accepted")


def _decode_opencv(encoded: bytes, header: ImageHeader) -> NDArray[np.uint8]:
    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise _damaged(encoded, header.format) from error
    if image is None:
        raise _damaged(encoded, header.format)
    return image


def _decode_gif(encoded: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(BytesIO(encoded), formats=("GIF",)) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # on damaged files Pillow raises whatever its parser stumbled over
        raise _damaged(encoded, "GIF truncated or") from error


def _damaged(encoded: bytes, what: str) -> ImageError:
    return ImageError(f"{what} damaged: {len(encoded)} bytes that cannot be decoded")
