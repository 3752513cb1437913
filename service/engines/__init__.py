"""A serving model and its settings -> an engine: batch in, scores out; synchronous, one vendor a file."""

from __future__ import annotations

import logging
import os
import time
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

from service.config import Config
from service.engines.gpu import forbid_tf32
from service.errors import ConfigError, ModelError
from service.ops.model import Model

log = logging.getLogger("regnetx.engine")

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
WARM_UP_SECONDS = 300


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
    forbid_tf32(config)
    try:
        module = import_module(vendor.module)
    except (ImportError, OSError) as error:  # OSError: Paddle's import makes a folder in /tmp
        raise ConfigError(
            f"native.engine: {name} cannot be imported: {error}; accepted: {vendor.packages[0]} of"
            " requirements/native.txt (Paddle also asks for the system package libgomp1 and a /tmp that can be written)"
        ) from None
    threads = threads or config.regnet.local_service_conf.thread_num
    engine: Engine = getattr(module, vendor.name)(config, model, instance=instance, threads=threads)
    return engine


def warm_up(engine: Engine, model: Model, *, batch_size: int) -> None:
    """Run every batch size once, so that no request pays for the choice of kernels or for memory.

    The largest goes first, for it takes the memory of all, then a lone image; after WARM_UP_SECONDS the others are left
    to the requests that are the first to need them. Raises ModelError if the scores are not what the model promises:
    their shape, and finite; and if a run fails, as for want of memory.
    """
    import numpy as np

    largest = np.zeros((batch_size, 3, model.height, model.width), np.float32)
    give_up = time.monotonic() + WARM_UP_SECONDS
    for size in dict.fromkeys((batch_size, 1, *range(batch_size - 1, 1, -1))):
        if time.monotonic() > give_up and 1 < size < batch_size:
            log.warning("batches of 2 to %d images have not been run in %d s of warming up", size, WARM_UP_SECONDS)
            return
        scores = _run(engine, largest[:size], model)
        if scores.shape != (size, model.classes):
            raise ModelError(f"{model.program}: answers {scores.shape}, expected {(size, model.classes)} by its labels")
        if not np.isfinite(scores).all():
            raise ModelError(f"{model.program}: scores of an empty image are not finite")


def _run(engine: Engine, batch: np.ndarray, model: Model) -> np.ndarray:
    try:
        return engine.run(batch)
    except Exception as error:  # vendors have no class in common
        raise ModelError(f"{model.program}: {len(batch)} images cannot be run: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The line of a vendor's error that says what happened; the rest of Paddle's is a C++ stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line and "---" not in line), lines[0] if lines else repr(error))
