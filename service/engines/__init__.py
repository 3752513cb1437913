"""A serving model and its settings -> an engine: batch in, scores out; synchronous, one vendor a file."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

from service.config import Config
from service.errors import ConfigError, ModelError
from service.ops.model import Model

# ONNX Runtime's Linux build reports its use to its maker and keeps a database of that in the home folder. It looks at
# this when it is imported; its own disable_telemetry_events() comes too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    # Here and below late: whoever only wants to know which engine is chosen needs no NumPy for it.
    import numpy as np


class Engine(Protocol):
    """A loaded model on one device. Not thread-safe; one process drives one engine."""

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Scores (n, classes) float32 of a batch (n, 3, height, width) float32, C-contiguous."""
        ...


class Vendor(NamedTuple):
    """Where an engine is, and what it needs installed."""

    module: str
    name: str
    packages: tuple[str, ...]  # any of them, the first is that of requirements/native.txt


# By the value of ``native.engine``. The first is the reference that the others are held to.
VENDORS = {
    "paddle": Vendor("service.engines.paddle_inference", "PaddleEngine", ("paddlepaddle", "paddlepaddle-gpu")),
    "onnxruntime": Vendor("service.engines.onnx_runtime", "OnnxRuntimeEngine", ("onnxruntime", "onnxruntime-gpu")),
    "openvino": Vendor("service.engines.openvino_runtime", "OpenVinoEngine", ("openvino",)),
}
REFERENCE = "paddle"


def open_engine(config: Config, model: Model, *, instance: int = 0, threads: int | None = None) -> Engine:
    """Load ``model`` with the engine that the configuration names; only that vendor's package is imported.

    ``instance`` counts engine processes and chooses among ``devices``; ``threads``: CPU threads of one run, by default
    ``thread_num`` of the configuration. ``native.engine: auto`` is first resolved, see ``choice``. Raises ConfigError
    for a package that is missing and for a device or precision that this build cannot do, ModelError for a model that
    does not load.
    """
    if config.native.engine == "auto":
        from service.engines.choice import in_force

        config = in_force(config, model)
    name, vendor = config.native.engine, VENDORS[config.native.engine]
    try:
        module = import_module(vendor.module)
    except (ImportError, OSError) as error:  # OSError: Paddle's import makes a folder in /tmp
        raise ConfigError(
            f"native.engine: {name} cannot be imported: {error}; accepted: {vendor.packages[0]} of"
            " requirements/native.txt (Paddle also asks for the system package libgomp1 and a /tmp that can be written)"
        ) from None
    settings = config.regnet.local_service_conf
    threads = threads or settings.thread_num
    engine: Engine = getattr(module, vendor.name)(settings, model, instance=instance, threads=threads)
    return engine


def warm_up(engine: Engine, model: Model, *, batch_size: int) -> None:
    """Run every batch size once, largest first, so that no request pays for the choice of kernels or for memory.

    Raises ModelError if the scores are not what the model promises: their shape, and finite.
    """
    import numpy as np

    largest = np.zeros((batch_size, 3, model.height, model.width), np.float32)
    for size in range(batch_size, 0, -1):
        scores = engine.run(largest[:size])
        if scores.shape != (size, model.classes):
            raise ModelError(f"{model.program}: answers {scores.shape}, expected {(size, model.classes)} by its labels")
        if not np.isfinite(scores).all():
            raise ModelError(f"{model.program}: scores of an empty image are not finite")
