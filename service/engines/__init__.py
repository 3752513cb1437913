"""A serving model and its settings -> an engine: batch in, scores out; synchronous, one vendor a file."""

from typing import Protocol

import numpy as np

from service.config import Config
from service.ops.model import Model


class Engine(Protocol):
    """A loaded model on one device. Not thread-safe; one process drives one engine."""

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Scores (n, classes) float32 of a batch (n, 3, height, width) float32, C-contiguous."""
        ...


def open_engine(config: Config, model: Model, *, instance: int = 0) -> Engine:
    """Load ``model`` with the engine that the configuration names; only that vendor's package is imported.

    ``instance`` counts engine processes and chooses among ``devices``. Raises ConfigError for a device or precision
    that this build cannot do, ModelError for a model that does not load.
    """
    from service.engines.paddle_inference import PaddleEngine

    return PaddleEngine(config.regnet.local_service_conf, model, instance=instance)


def warm_up(engine: Engine, model: Model, *, batch_size: int) -> None:
    """Run every batch size once, largest first, so that no request pays for the choice of kernels or for memory.

    Raises ModelError if the scores are not what the model promises: their shape, and finite.
    """
    from service.errors import ModelError

    largest = np.zeros((batch_size, 3, model.height, model.width), np.float32)
    for size in range(batch_size, 0, -1):
        scores = engine.run(largest[:size])
        if scores.shape != (size, model.classes):
            raise ModelError(f"{model.program}: answers {scores.shape}, expected {(size, model.classes)} by its labels")
        if not np.isfinite(scores).all():
            raise ModelError(f"{model.program}: scores of an empty image are not finite")
