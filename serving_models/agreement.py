"""A model in float32 and in int8 -> how far their answers are the same, with the engines that will serve them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.engines import Engine, open_engine
from service.engines.measure import random_images
from service.ops.int8 import Agreement
from service.ops.model import Model
from serving_models.engine_config import Device, engine_config, usable_cores
from serving_models.sample_images import Inputs

ENGINES = ("openvino", "onnxruntime")
RUN_AT_ONCE = 4  # as elsewhere: large models take their memory by the image
RANDOM_IMAGES = 32
LEAST_OF_A_CLASS = 5  # images; one of one would always be the worst class or the best

Scores = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]  # (classes,)


@dataclass(frozen=True)
class Compared:
    """What was counted with one engine."""

    engine: str
    agreement: Agreement
    mean_abs_diff: float  # of scores
    of_class: Counts  # images by their best class in float32
    same_of_class: Counts  # those of them that have the same in int8

    @property
    def worst_class(self) -> int | None:
        """The class whose images are most often answered otherwise; None where none is, or none has enough images."""
        enough = np.flatnonzero((self.of_class >= LEAST_OF_A_CLASS) & (self.same_of_class < self.of_class))
        if not len(enough):
            return None
        return int(enough[np.argmin(self.same_of_class[enough] / self.of_class[enough])])


class _Counter:
    """Sums over batches; no scores are kept."""

    def __init__(self, classes: int) -> None:
        self.images = 0
        self.max_abs_diff = 0.0
        self._sum = 0.0
        self.of_class: Counts = np.zeros(classes, np.int64)
        self.same_of_class: Counts = np.zeros(classes, np.int64)

    @property
    def mean_abs_diff(self) -> float:
        return self._sum / (self.images * len(self.of_class))

    def add(self, expected: Scores, found: Scores) -> None:
        difference = np.abs(found.astype(np.float64) - expected)
        best = expected.argmax(axis=1)
        same = best[found.argmax(axis=1) == best]
        self.images += len(expected)
        self.max_abs_diff = float(np.maximum(self.max_abs_diff, difference.max()))  # of NaN it makes NaN
        self._sum += float(difference.sum())
        self.of_class += np.bincount(best, minlength=len(self.of_class))
        self.same_of_class += np.bincount(same, minlength=len(self.of_class))


def compare(engine: str, model: Model, int8_file: Path, batches: Iterable[Inputs]) -> Compared:
    """Run images with one engine in float32 and in int8. Raises ConfigError where the engine is not there."""
    plain = _open(engine, model)
    # To an engine the file is a graph like any other: what it does in int8, the graph says.
    int8 = _open(engine, dataclasses.replace(model, onnx=int8_file))
    images, noise = _Counter(model.classes), _Counter(model.classes)
    for batch in batches:
        images.add(plain.run(batch), int8.run(batch))
    random = random_images(RANDOM_IMAGES, model)
    for first in range(0, RANDOM_IMAGES, RUN_AT_ONCE):
        part = random[first : first + RUN_AT_ONCE]
        noise.add(plain.run(part), int8.run(part))
    agreement = Agreement(
        images=images.images,
        same=int(images.same_of_class.sum()),
        max_abs_diff=images.max_abs_diff,
        random_max_abs_diff=noise.max_abs_diff,
    )
    return Compared(engine, agreement, images.mean_abs_diff, images.of_class, images.same_of_class)


def _open(engine: str, model: Model) -> Engine:
    config = engine_config(
        model.program.parent,
        engine=engine,
        precision="fp32",
        device=Device(),
        threads=usable_cores(),
        batch_size=RUN_AT_ONCE,
    )
    return open_engine(config, model)
