"""Whatever holds an image -> the bytes of an image file."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Union

from regnetx_client.errors import BadImage
from regnetx_client.png import png

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import PIL.Image

ImageLike = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], "PIL.Image.Image", "npt.NDArray[np.uint8]"
]

_ACCEPTED = "a path, bytes, an open binary file, a Pillow image, or a uint8 array"
_ARRAYS = "an image array is uint8 of shape (height, width, 3), RGB, or (height, width)"
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
# Pillow knows how these become RGB; "I" and "F" have no agreed range, so they are refused.
_RGB_MODES = {"CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La", "PA"}


def encoded(image: ImageLike) -> bytes:
    """The bytes of an image file: those given, or a PNG of the pixels given.

    Arrays are uint8, (height, width, 3) in RGB order (OpenCV's are BGR: flip them) or (height, width) grey; a
    one-dimensional one holds the bytes of a file. A Pillow image is sent as it is seen: its EXIF orientation is
    applied, as the server does for files. Raises BadImage, TypeError, or OSError when a file cannot be read.
    """
    data = _bytes_of(image)
    if not data:
        raise BadImage("0 bytes, not an image")
    return data


def all_encoded(images: Iterable[ImageLike]) -> list[bytes]:
    """Each image's bytes, in order; a BadImage says which one it is when there are several."""
    given = _several(images)
    if len(given) == 1:
        return [encoded(given[0])]
    return [_encoded_at(index, image) for index, image in enumerate(given)]


def _encoded_at(index: int, image: ImageLike) -> bytes:
    try:
        return encoded(image)
    except BadImage as error:
        raise BadImage(f"image {index}: {error}") from error


def _several(images: Iterable[ImageLike]) -> list[ImageLike]:
    if isinstance(images, (str, bytes, bytearray, os.PathLike)) or hasattr(images, "read"):
        raise TypeError(f"{type(images).__name__} is one image: pass a list, or call classify")
    # Iterating over one (height, width, 3) array would send its rows as images.
    if getattr(images, "ndim", 4) < 4:
        raise TypeError("this array is one image, a batch has the shape (count, height, width, 3): call classify")
    return list(images)


def _bytes_of(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if hasattr(image, "read"):
        return _content(image)
    # Whoever holds a Pillow image has imported Pillow; nobody else pays for it.
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return _from_pillow(image)
    return _from_buffer(image)


def _content(file: IO[bytes]) -> bytes:
    data = file.read()
    if not isinstance(data, bytes):
        raise TypeError(f"the file reads as {type(data).__name__}: open it with mode 'rb'")
    return data


def _from_pillow(image: PIL.Image.Image) -> bytes:
    from PIL import ImageOps

    if image.mode not in _PNG_MODES | _RGB_MODES:
        raise BadImage(f"a Pillow image of mode {image.mode!r}, convert it to 'RGB' or 'L' first")
    file = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        (upright if upright.mode in _PNG_MODES else upright.convert("RGB")).save(file, "PNG", compress_level=1)
    except OSError as error:
        raise BadImage(f"Pillow cannot read it: {error}") from error
    return file.getvalue()


def _from_buffer(image: Any) -> bytes:
    try:
        pixels = memoryview(image)
    except (TypeError, ValueError, BufferError):
        raise TypeError(f"{type(image).__name__} is no image: pass {_ACCEPTED}") from None
    if pixels.format != "B":
        raise BadImage(f"an array of {getattr(image, 'dtype', pixels.format)}: {_ARRAYS}")
    if pixels.ndim == 1:
        return pixels.tobytes()
    return _from_pixels(pixels)


def _from_pixels(pixels: memoryview) -> bytes:
    shape = tuple(pixels.shape or ())
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3) or 0 in shape:
        raise BadImage(f"an array of shape {shape}: {_ARRAYS}")
    return png(pixels.tobytes(), height=shape[0], width=shape[1], channels=channels)
