"""The digits of scikit-learn -> encoded PNGs, split for ever into what is trained on and what is held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

HELD_OUT_EVERY = 4
# The data set counts ink in 0..16.
_FULL_INK = 16


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: 8x8 greyscale PNGs, ink white, and the digit that each of them shows."""

    images: tuple[bytes, ...]
    labels: tuple[int, ...]


def training() -> Digits:
    """What the bundled model is trained on: 1352 digits."""
    return _select(held_out=False)


def held_out() -> Digits:
    """What it is measured on and never trained on: of each digit every fourth image, 445 in all."""
    return _select(held_out=True)


@cache
def _select(*, held_out: bool) -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    chosen = np.flatnonzero(_is_held_out(labels) == held_out)
    images = tuple(_encode(pixels[index].reshape(8, 8)) for index in chosen)
    return Digits(images, tuple(int(label) for label in labels[chosen]))


def _is_held_out(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """By position among the images of the same digit, so that every digit is held out in the same proportion."""
    positions = np.zeros(len(labels), np.int64)
    for digit in np.unique(labels):
        same = labels == digit
        positions[same] = np.arange(np.count_nonzero(same))
    chosen: npt.NDArray[np.bool_] = positions % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return chosen


def _encode(ink: npt.NDArray[np.float64]) -> bytes:
    """(8, 8) ink counts -> PNG."""
    stream = BytesIO()
    Image.fromarray(np.rint(ink * 255 / _FULL_INK).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
