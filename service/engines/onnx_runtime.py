"""ONNX Runtime: CPU, or CUDA with the package that is built for it."""

from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from service.config import LocalService
from service.engines.precision import gpu_of, require_device, require_precision
from service.errors import ConfigError, ModelError
from service.ops.model import Model, onnx_file

ERRORS_ONLY = 3
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxRuntimeEngine:
    """One ``onnxruntime.InferenceSession`` of the model's ONNX file."""

    def __init__(self, settings: LocalService, model: Model, *, instance: int, threads: int) -> None:
        require_device(settings, engine="onnxruntime", gpu=True)
        require_precision(settings, engine="onnxruntime", cpu_bf16=False)
        provider = _provider(settings, instance)
        file = onnx_file(model, engine="onnxruntime")
        try:
            self._session = onnxruntime.InferenceSession(str(file), _options(threads), providers=[provider])
        # Its errors have no class in common but this.
        except Exception as error:
            raise ModelError(f"{file}: ONNX Runtime cannot load it: {' '.join(str(error).split())}") from None
        if self._session.get_providers()[0] != provider[0]:
            raise ConfigError(
                "op.*.local_service_conf.device_type: 1 (GPU), but ONNX Runtime could not open it (its own message is"
                " above); accepted: 0, or the CUDA and cuDNN that its package asks for"
            )
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Scores (n, classes) float32 of a batch (n, 3, height, width) float32."""
        scores: np.ndarray = self._session.run(self._outputs, {self._input: batch})[0]
        return scores


def _provider(settings: LocalService, instance: int) -> tuple[str, dict[str, Any]]:
    if not settings.on_gpu:
        return CPU, {}
    available = onnxruntime.get_available_providers()
    if CUDA not in available:
        raise ConfigError(
            f"op.*.local_service_conf.device_type: 1 (GPU), but the installed onnxruntime {onnxruntime.__version__} has"
            f" {', '.join(available)}; accepted: 0, or install onnxruntime-gpu"
        )
    return CUDA, {"device_id": gpu_of(settings, instance), "use_tf32": 0}  # TF32 is another precision than fp32


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = ERRORS_ONLY
    # Its threads would wait for one another in a loop, on cores that decoding and other engines need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
