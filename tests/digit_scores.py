"""The held-out digits as a batch, and what an engine makes of them."""

from __future__ import annotations

import numpy as np

from service.engines import Engine
from service.ops.decode import Limits, decode
from service.ops.model import Model
from service.ops.preprocess import preprocess
from serving_models.bundled.digits.held_out import held_out


def digits_for(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The digits as one array (445, 3, height, width) float32, and what they show."""
    found = held_out()
    images = np.empty((len(found.images), 3, model.height, model.width), np.float32)
    for row, image in zip(images, found.images, strict=True):
        preprocess(decode(image, Limits()), model, row)
    return images, np.array(found.labels)


def scores_by(engine: Engine, images: np.ndarray) -> np.ndarray:
    """(n, classes) float32, in batches of 8."""
    return np.concatenate([engine.run(images[first : first + 8]).copy() for first in range(0, len(images), 8)])
