"""A serving model and its settings -> an engine: batch in, scores out; synchronous, one vendor a file."""

from typing import Protocol

import numpy as np

from service.config import Config
from service.errors import ConfigError, ModelError
from service.ops.model import Model


class Engine(Protocol):
    """A loaded model on one device. Not thread-safe; one process drives one engine."""

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Scores (n, classes) float32 of a batch (n, 3, height, width) float32, C-contiguous."""
        ...


def open_engine(config: Config, model: Model, *, instance: int = 0, threads: int | None = None) -> Engine:
    """Load ``model`` with the engine that the configuration names; only that vendor's package is imported.

    ``instance`` counts engine processes and chooses among ``devices``; ``threads``: CPU threads of one run, by default
    ``thread_num`` of the configuration. Raises ConfigError for a package that is missing and for a device or precision
    that this build cannot do, ModelError for a model that does not load.
    """
    try:
        from service.engines.paddle_inference import PaddleEngine
    except ImportError as error:
        raise ConfigError(
            f"native.engine: paddle cannot be imported: {error}; accepted: paddlepaddle of requirements/native.txt"
            " (on a bare Debian or Ubuntu with the system package libgomp1)"
        ) from None
    settings = config.regnet.local_service_conf
    return PaddleEngine(settings, model, instance=instance, threads=threads or settings.thread_num)


def warm_up(engine: Engine, model: Model, *, batch_size: int) -> None:
    """Run every batch size once, largest first, so that no request pays for the choice of kernels or for memory.

    Raises ModelError if the scores are not what the model promises: their shape, and finite.
    """
    largest = np.zeros((batch_size, 3, model.height, model.width), np.float32)
    for size in range(batch_size, 0, -1):
        scores = engine.run(largest[:size])
        if scores.shape != (size, model.classes):
            raise ModelError(f"{model.program}: answers {scores.shape}, expected {(size, model.classes)} by its labels")
        if not np.isfinite(scores).all():
            raise ModelError(f"{model.program}: scores of an empty image are not finite")
