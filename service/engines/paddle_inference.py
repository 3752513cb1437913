"""Paddle Inference: CPU with oneDNN, or CUDA, or TensorRT."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

with warnings.catch_warnings():
    # It misses a compiler cache, which nobody needs to run a model.
    warnings.simplefilter("ignore")
    import paddle.inference as paddle_inference

from service.config import Config, LocalService
from service.engines import first_line
from service.engines.engine_cache import cached, made_for, places
from service.engines.gpu import device_type, gpu_of, require_gpu
from service.engines.precision import require_device, require_precision
from service.errors import ConfigError, ModelError
from service.ops.model import Model

POOL_MB = 500  # what Paddle takes at first; it grows beyond when a batch needs it
WORKSPACE_MB = 1024  # what TensorRT may use to try its kernels, where native.gpu_memory_mb is not less
# Of a calibration run, in the folder where Paddle leaves it: beside the program.
CALIBRATION_FOLDER, CALIBRATION_TABLES = "_opt_cache", "trt_calib_*"
BUILT = "trt_serialized_*"  # which it does not leave while it calibrates, in float32
# An operator of a program that is quantised: OpDesc.type of framework.proto, its tag and length before its text.
QUANTISED = re.compile(rb"\x1a[\x00-\x7f](?:fake_[a-z_]*quantize|(?:de)?quantize_linear)")
PRECISIONS = {
    "fp32": paddle_inference.PrecisionType.Float32,
    "fp16": paddle_inference.PrecisionType.Half,
    "bf16": paddle_inference.PrecisionType.Bfloat16,
    "int8": paddle_inference.PrecisionType.Int8,
}


class PaddleEngine:
    """One ``paddle.inference`` predictor. ``run`` holds the GIL from begin to end, so it lives in its own process."""

    def __init__(self, config: Config, model: Model, *, instance: int, threads: int) -> None:
        settings = config.regnet.local_service_conf
        require_device(settings, engine="paddle", gpu=True)
        require_precision(
            settings, engine="paddle", cpu=["fp32", "bf16"], gpu=["fp32", "fp16", "bf16"],
            tensorrt=["fp32", "fp16", "int8"],
        )  # fmt: skip
        if settings.on_gpu:
            predictor = _open_on_gpu(config, model, instance)
        else:
            predictor = _open(_cpu_config(settings, model, threads), model)
        self._predictor = predictor
        self._input = predictor.get_input_handle(model.input_name)
        self._output = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Scores (n, classes) float32 of a batch (n, 3, height, width) float32."""
        self._input.copy_from_cpu(batch)
        self._predictor.run()
        scores: np.ndarray = self._output.copy_to_cpu()
        return scores


def _open(options: paddle_inference.Config, model: Model) -> paddle_inference.Predictor:
    try:
        predictor = paddle_inference.create_predictor(options)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{model.program}: Paddle cannot load it: {first_line(error)}") from None
    if model.input_name not in predictor.get_input_names():
        raise ModelError(f"{model.program}: no input {model.input_name}; found: {predictor.get_input_names()}")
    return predictor


def _any_config(settings: LocalService, model: Model) -> paddle_inference.Config:
    try:
        options = paddle_inference.Config(str(model.program), str(model.params))
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{model.program}: Paddle cannot load it: {first_line(error)}") from None
    options.disable_glog_info()
    options.switch_ir_optim(settings.ir_optim)
    if settings.mem_optim:
        options.enable_memory_optim()
    return options


# --- CPU -----------------------------------------------------------------------------------------


def _cpu_config(settings: LocalService, model: Model, threads: int) -> paddle_inference.Config:
    options = _any_config(settings, model)
    options.disable_gpu()
    options.set_cpu_math_library_num_threads(threads)
    if settings.use_mkldnn:
        options.enable_mkldnn()
        if settings.mkldnn_cache_capacity:
            options.set_mkldnn_cache_capacity(settings.mkldnn_cache_capacity)
    else:
        options.disable_mkldnn()
    if settings.precision == "bf16":
        _in_bf16(options, settings)
    return options


def _in_bf16(options: paddle_inference.Config, settings: LocalService) -> None:
    """Of oneDNN, by a pass over the program; without either Paddle would compute in float32 and say nothing."""
    if not (settings.use_mkldnn and settings.ir_optim):
        raise ConfigError(
            "op.*.local_service_conf.precision: bf16 needs use_mkldnn: true and ir_optim: true with native.engine:"
            " paddle; accepted: fp32"
        )
    options.enable_mkldnn_bfloat16()


# --- GPU -----------------------------------------------------------------------------------------


def _open_on_gpu(config: Config, model: Model, instance: int) -> paddle_inference.Predictor:
    settings = config.regnet.local_service_conf
    _require_build(settings)
    _require_passes(settings)
    gpu, number = require_gpu(config, instance), gpu_of(settings, instance)
    _set_process_wide(config)
    tables = _calibration_tables(settings, model) if settings.on_tensorrt and settings.precision == "int8" else []

    def opened(cache: Path | None) -> paddle_inference.Predictor:
        predictor = _open(gpu_config(config, model, number, cache, tables), model)
        one = np.zeros((1, 3, model.height, model.width), np.float32)
        predictor.get_input_handle(model.input_name).copy_from_cpu(one)
        try:
            predictor.run()  # whatever is left for the first run is then in the cache too
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{model.program}: Paddle cannot run it: {first_line(error)}") from None
        if tables and cache and not list(cache.glob(BUILT)):
            raise ModelError(
                f"{tables[0]}: is of another program or another Paddle, which calibrates anew; accepted: its own"
            )
        return predictor

    if not settings.on_tensorrt:
        return opened(None)
    files, asked = [model.program, model.params, *tables], _asked(config, model)
    version = ".".join(map(str, paddle_inference.get_trt_runtime_version()))
    return cached(places(config, model), made_for("paddle", gpu, files, asked, tensorrt=version), opened)


def gpu_config(
    config: Config, model: Model, number: int, cache: Path | None, tables: list[Path]
) -> paddle_inference.Config:
    """Paddle's configuration for GPU ``number``; with TensorRT for batches of 1 to ``batch_size`` images.

    ``cache``: the folder where TensorRT finds and leaves what it builds, None for none; ``tables``: of its calibration.
    Raises ConfigError where Paddle does not take it.
    """
    settings = config.regnet.local_service_conf
    options = _any_config(settings, model)
    pool = min(POOL_MB, config.native.gpu_memory_mb or POOL_MB)
    own_precision = "fp32" if settings.on_tensorrt else settings.precision
    options.enable_use_gpu(pool, number, PRECISIONS[own_precision])
    if settings.on_tensorrt:
        _with_tensorrt(options, config, model, cache, tables)
    # A build that cannot says so on standard error, and goes on with the CPU.
    if not options.use_gpu() or options.tensorrt_engine_enabled() != settings.on_tensorrt:
        raise ConfigError(
            f"op.*.local_service_conf.device_type: {device_type(settings)}, but Paddle did not take it (its own message"
            " is above); accepted: 0"
        )
    return options


def _with_tensorrt(
    options: paddle_inference.Config, config: Config, model: Model, cache: Path | None, tables: list[Path]
) -> None:
    settings, asked = config.regnet.local_service_conf, _asked(config, model)
    options.enable_tensorrt_engine(
        workspace_size=asked["workspace_mb"] << 20,
        max_batch_size=config.regnet.batch_size,
        min_subgraph_size=settings.min_subgraph_size,
        precision_mode=PRECISIONS[settings.precision],
        use_static=cache is not None,
        use_calib_mode=asked["use_calib"],
    )
    options.set_trt_dynamic_shape_info(*({model.input_name: asked[shape]} for shape in ("least", "most", "best")))
    if cache is not None:
        options.set_optim_cache_dir(str(cache))
        for table in tables:
            shutil.copy(table, cache)


def _asked(config: Config, model: Model) -> dict[str, Any]:
    """What TensorRT is told, and a built engine depends on."""
    settings = config.regnet.local_service_conf
    least, most = ([images, 3, model.height, model.width] for images in (1, config.regnet.batch_size))
    return {
        "precision": settings.precision,
        "tf32": config.native.tf32,
        "use_calib": settings.use_calib and settings.precision == "int8",
        "min_subgraph_size": settings.min_subgraph_size,
        "workspace_mb": min(WORKSPACE_MB, config.native.gpu_memory_mb or WORKSPACE_MB),
        "input": model.input_name,
        "least": least,
        "best": most,
        "most": most,
    }


def _set_process_wide(config: Config) -> None:
    import paddle
    from paddle.base import core

    if config.native.gpu_memory_mb:
        paddle.set_flags({"FLAGS_gpu_memory_limit_mb": config.native.gpu_memory_mb})
    for switch in (core.set_cublas_switch, core.set_cudnn_switch):
        switch(config.native.tf32)


def _require_build(settings: LocalService) -> None:
    import paddle

    if not paddle.device.is_compiled_with_cuda():
        raise ConfigError(
            f"op.*.local_service_conf.device_type: {device_type(settings)}, but the installed paddlepaddle"
            f" {paddle.__version__} is the CPU build; accepted: 0, or install paddlepaddle-gpu"
        )
    if settings.on_tensorrt:
        _require_tensorrt()


def _require_tensorrt() -> None:
    built_with = paddle_inference.get_trt_compile_version()
    if not any(built_with):
        raise ConfigError(
            "op.*.local_service_conf.device_type: 2 (GPU with TensorRT), but the installed paddlepaddle-gpu is built"
            " without TensorRT; accepted: 1, or native.engine: onnxruntime, or a paddlepaddle-gpu that is built with it"
        )
    try:
        found = paddle_inference.get_trt_runtime_version()
    except RuntimeError:
        found = (0, 0, 0)
    if found[0] != built_with[0]:
        wanted, there = (".".join(map(str, version)) for version in (built_with, found))
        raise ConfigError(
            "op.*.local_service_conf.device_type: 2 (GPU with TensorRT), but Paddle is built with TensorRT"
            f" {wanted} and finds {there if any(found) else 'none'}; accepted: 1, or install TensorRT {built_with[0]}"
            " where the loader finds libnvinfer (LD_LIBRARY_PATH)"
        )


def _require_passes(settings: LocalService) -> None:
    """Both are passes over the program; without Paddle would take plain kernels in float32 and say nothing."""
    if settings.ir_optim or (settings.precision == "fp32" and not settings.on_tensorrt):
        return
    asked = "device_type: 2 (GPU with TensorRT)" if settings.on_tensorrt else f"precision: {settings.precision}"
    raise ConfigError(f"op.*.local_service_conf.{asked} needs ir_optim: true with native.engine: paddle")


def _calibration_tables(settings: LocalService, model: Model) -> list[Path]:
    """Those of a calibration run, or none for a program that is quantised itself.

    Raises ConfigError where there is neither: Paddle would calibrate with what it is sent first, and answer in float32.
    """
    if not settings.use_calib:
        if QUANTISED.search(model.program.read_bytes()):
            return []
        raise ConfigError(
            f"op.*.local_service_conf.precision: int8, but {model.program} is not quantised; accepted: fp32, fp16,"
            " use_calib: true with a calibration table, or native.engine: onnxruntime"
        )
    folder = model.program.parent / CALIBRATION_FOLDER
    tables = sorted(folder.glob(CALIBRATION_TABLES))
    if not tables:
        raise ConfigError(
            f"op.*.local_service_conf.use_calib: true, but {folder} has no {CALIBRATION_TABLES}, the calibration table"
            " that Paddle writes (docs/gpu.md); accepted: precision fp32 or fp16, or native.engine: onnxruntime"
        )
    return tables
