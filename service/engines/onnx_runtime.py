"""ONNX Runtime: CPU, or CUDA or TensorRT with the package that is built for them."""

import contextlib
import ctypes
import logging
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from service.config import Config, LocalService
from service.engines.engine_cache import cached, made_for, places
from service.engines.gpu import device_type, gpu_of, require_gpu
from service.engines.graph import graph_file
from service.engines.precision import require_device, require_precision
from service.errors import ConfigError, ModelError
from service.ops.model import Model

log = logging.getLogger("regnetx.engine")

ERRORS_ONLY = 3
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
TENSORRT_PROVIDER = Path(onnxruntime.__file__).parent / "capi/libonnxruntime_providers_tensorrt.so"
WORKSPACE_MB = 1024  # what TensorRT may use to try its kernels, where native.gpu_memory_mb is not less

Provider = tuple[str, dict[str, Any]]


class OnnxRuntimeEngine:
    """One ``onnxruntime.InferenceSession`` of the model's ONNX file."""

    def __init__(self, config: Config, model: Model, *, instance: int, threads: int) -> None:
        settings = config.regnet.local_service_conf
        require_device(settings, engine="onnxruntime", gpu=True)
        require_precision(
            settings, engine="onnxruntime", cpu=["fp32", "int8"], gpu=["fp32"],
            tensorrt=["fp32", "fp16", "int8"],
        )  # fmt: skip
        file = graph_file(model, engine="onnxruntime", precision=settings.precision)
        if settings.on_gpu:
            self._session = _on_gpu(config, model, file, instance, threads)
        else:
            self._session = _session(file, _options(threads), [(CPU, {})])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Scores (n, classes) float32 of a batch (n, 3, height, width) float32."""
        scores: np.ndarray = self._session.run(self._outputs, {self._input: batch})[0]
        return scores


def gpu_providers(config: Config, image: str, number: int, cache: Path | None) -> list[Provider]:
    """The providers for GPU ``number``, best first, with their options.

    ``image``: name and shape of the model's input, ``x:{}x3x224x224`` with ``{}`` for the batch; ``cache``: the folder
    where TensorRT finds and leaves what it builds, None for none.
    """
    cuda = (CUDA, _cuda_options(config, number))
    if not config.regnet.local_service_conf.on_tensorrt:
        return [cuda]
    return [(TENSORRT, _tensorrt_options(config, image, number, cache)), cuda]


def _cuda_options(config: Config, number: int) -> dict[str, Any]:
    # An exhaustive search of convolutions would be made again for each batch size, in each process and at each start.
    options = {"device_id": number, "use_tf32": int(config.native.tf32), "cudnn_conv_algo_search": "HEURISTIC"}
    if config.native.gpu_memory_mb:
        # The other strategy doubles what it takes and so cannot come near the bound.
        bound = config.native.gpu_memory_mb << 20
        options |= {"gpu_mem_limit": bound, "arena_extend_strategy": "kSameAsRequested"}
    return options


def _tensorrt_options(config: Config, image: str, number: int, cache: Path | None) -> dict[str, Any]:
    settings = config.regnet.local_service_conf
    least, most = image.format(1), image.format(config.regnet.batch_size)
    options = {
        "device_id": number,
        "trt_fp16_enable": settings.precision == "fp16",
        "trt_int8_enable": settings.precision == "int8",
        "trt_min_subgraph_size": settings.min_subgraph_size,
        "trt_max_workspace_size": min(WORKSPACE_MB, config.native.gpu_memory_mb or WORKSPACE_MB) << 20,
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": most,
        "trt_profile_max_shapes": most,
        "trt_engine_cache_enable": cache is not None,
        "trt_timing_cache_enable": cache is not None,
    }
    if cache is not None:
        options |= {"trt_engine_cache_path": str(cache), "trt_timing_cache_path": str(cache)}
    return options


def _on_gpu(config: Config, model: Model, file: Path, instance: int, threads: int) -> onnxruntime.InferenceSession:
    settings = config.regnet.local_service_conf
    _require_provider(settings)
    gpu, number = require_gpu(config, instance), gpu_of(settings, instance)
    options = _options(threads)
    # Otherwise a layer that the GPU has no kernel for would run on the CPU, and nobody would be told.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", str(int(settings.on_tensorrt)))
    image = f"{_input_name(file)}:{{}}x3x{model.height}x{model.width}" if settings.on_tensorrt else ""

    def opened(cache: Path | None) -> onnxruntime.InferenceSession:
        session = _session(file, options, gpu_providers(config, image, number, cache))
        one = np.zeros((1, 3, model.height, model.width), np.float32)
        try:
            # Whatever a library leaves for the first run is then in the cache too.
            session.run(None, {session.get_inputs()[0].name: one})
        except Exception as error:
            raise ModelError(f"{file}: ONNX Runtime cannot run it: {' '.join(str(error).split())}") from None
        return session

    if not settings.on_tensorrt:
        return opened(None)
    asked = _tensorrt_options(config, image, 0, None) | {"tf32": config.native.tf32}
    circumstances = made_for("onnxruntime", gpu, [file], asked, tensorrt=str(_tensorrt_version()))
    session = cached(places(config, model), circumstances, opened)
    _look_what_is_left(session, settings)
    return session


def _look_what_is_left(session: onnxruntime.InferenceSession, settings: LocalService) -> None:
    """What TensorRT does not take, CUDA computes, in another precision than was asked for.

    For fp16 that is only slower. Raises ConfigError for int8, of which scores and speed would be those of neither.
    """
    parts: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()  # not in older ones
    left = Counter(node.op_type for part in parts if part.ep_name != TENSORRT for node in part.get_nodes())
    if left:
        operators = ", ".join(f"{count} {name}" for name, count in left.items())
        if settings.precision == "int8":
            raise ConfigError(
                f"op.*.local_service_conf.precision: int8, but TensorRT does not take {operators} of the model;"
                " accepted: fp32, fp16, or a model with symmetric int8 (signed, zero points 0)"
            )
        log.warning("TensorRT has not taken the whole model: %s are computed by CUDA in float32", operators)


def _input_name(file: Path) -> str:
    """That of the ONNX file, which need not be the one of Paddle's program."""
    options = _options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return str(_session(file, options, [(CPU, {})]).get_inputs()[0].name)


def _require_provider(settings: LocalService) -> None:
    available = onnxruntime.get_available_providers()
    if (TENSORRT if settings.on_tensorrt else CUDA) not in available:
        raise ConfigError(
            f"op.*.local_service_conf.device_type: {device_type(settings)}, but the installed onnxruntime"
            f" {onnxruntime.__version__} has {', '.join(available)}; accepted: 0, or install onnxruntime-gpu"
            f"{' and TensorRT' if settings.on_tensorrt else ''}"
        )


def _tensorrt_version() -> int:
    """That of the library which the provider is linked with, in its own words (100900 is 10.9.0).

    Raises ConfigError where the loader does not find it.
    """
    linked = re.search(rb"libnvinfer\.so\.\d+", TENSORRT_PROVIDER.read_bytes()) if TENSORRT_PROVIDER.exists() else None
    if linked is None:
        return 0  # another build than that of onnxruntime-gpu
    try:
        return int(ctypes.CDLL(linked[0].decode()).getInferLibVersion())
    except OSError:
        raise ConfigError(
            "op.*.local_service_conf.device_type: 2 (GPU with TensorRT), but the loader does not find"
            f" {linked[0].decode()}; accepted: 1, or install that TensorRT and name its folder in LD_LIBRARY_PATH"
        ) from None


def _session(
    file: Path, options: onnxruntime.SessionOptions, providers: list[Provider]
) -> onnxruntime.InferenceSession:
    if providers[0][0] != CPU:
        # CUDA and cuDNN of NVIDIA's own wheels are not where the loader looks. What it prints is no answer of ours.
        with contextlib.redirect_stdout(sys.stderr):
            getattr(onnxruntime, "preload_dlls", lambda: None)()
    try:
        # Its fallback is the CPU, at the start and in every run that fails.
        session = onnxruntime.InferenceSession(str(file), options, providers=providers, enable_fallback=0)
    # Its errors have no class in common but this.
    except Exception as error:
        raise ModelError(f"{file}: ONNX Runtime cannot load it: {' '.join(str(error).split())}") from None
    if session.get_providers()[0] != providers[0][0]:
        raise ConfigError(
            f"op.*.local_service_conf.device_type: ONNX Runtime could not open {providers[0][0]} (its own message is"
            " above); accepted: 0, or the CUDA, cuDNN and TensorRT that its package asks for, where the loader finds"
            " them (LD_LIBRARY_PATH)"
        )
    return session


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
