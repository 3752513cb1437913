"""An (H, W, 3) uint8 image, RGB -> the model's input, (3, height, width) float32, in place."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from service.errors import ImageError
from service.ops.model import Model
from service.ops.opencv import cv2
from service.ops.scaled import MAX_ASPECT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Triple = tuple[float, float, float]


def preprocess(image: NDArray[np.uint8], model: Model, out: NDArray[np.float32]) -> None:
    """Writes the model's input into ``out``, a C-contiguous float32 array or view of (3, height, width).

    The numerics of PaddleClas 2.6.0, deploy/python/preprocess.py: ResizeImage (short side, bilinear, not antialiased),
    CropImage (centre), NormalizeImage in float32, ToCHWImage. Bit-equal to them.
    Raises ImageError: not an RGB image, or one side more than MAX_ASPECT times the other.
    """
    if out.shape != (3, model.height, model.width) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}, not contiguous float32 (3, {model.height}, {model.width})")
    crop = center_crop(resize_short(image, model.resize_short), model.height, model.width)
    tables = _normalisation_tables(model.scale, model.mean, model.std)
    for plane, table, target in zip(cv2.split(crop), tables, out):
        cv2.LUT(plane, table, dst=target)


def resize_short(image: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """The image with its shorter side at ``length`` pixels; the other side is rounded half to even."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"{image.dtype} {image.shape}, but an image is uint8 (height, width, 3)")
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    if long > MAX_ASPECT * short:
        raise ImageError(f"{width}x{height} pixels, but one side may be at most {MAX_ASPECT} times the other")
    ratio = length / short
    size = round(width * ratio), round(height * ratio)
    resized: NDArray[np.uint8] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return resized


def center_crop(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle ``height`` x ``width`` pixels, a view; an odd rest leaves its extra pixel below and to the right.

    Raises ImageError where the image is smaller than that.
    """
    if image.shape[0] < height or image.shape[1] < width:
        raise ImageError(
            f"{image.shape[1]}x{image.shape[0]} pixels after resizing, but the model takes {width}x{height}"
        )
    top = (image.shape[0] - height) // 2
    left = (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


@lru_cache(maxsize=8)
def _normalisation_tables(scale: float, mean: Triple, std: Triple) -> tuple[NDArray[np.float32], ...]:
    """A table a channel: what NormalizeImage makes of each of the 256 values, so that looking up is exact."""
    scaled = np.arange(256).astype(np.float32) * np.float32(scale)
    return tuple((scaled - np.float32(m)) / np.float32(s) for m, s in zip(mean, std))
