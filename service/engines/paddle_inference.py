"""Paddle Inference: CPU with oneDNN, or CUDA."""

import warnings

import numpy as np

with warnings.catch_warnings():
    # It misses a compiler cache, which nobody needs to run a model.
    warnings.simplefilter("ignore")
    import paddle.inference as paddle_inference

from service.config import LocalService
from service.engines.precision import gpu_of, require_device, require_precision
from service.errors import ConfigError, ModelError
from service.ops.model import Model

GPU_MEMORY_MB = 500  # what Paddle takes at first; it grows beyond when a batch needs it


class PaddleEngine:
    """One ``paddle.inference`` predictor. ``run`` holds the GIL from begin to end, so it lives in its own process."""

    def __init__(self, settings: LocalService, model: Model, *, instance: int, threads: int) -> None:
        try:
            predictor = paddle_inference.create_predictor(_predictor_config(settings, model, instance, threads))
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{model.program}: Paddle cannot load it: {_first_line(error)}") from None
        if model.input_name not in predictor.get_input_names():
            raise ModelError(f"{model.program}: no input {model.input_name}; found: {predictor.get_input_names()}")
        self._predictor = predictor
        self._input = predictor.get_input_handle(model.input_name)
        self._output = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Scores (n, classes) float32 of a batch (n, 3, height, width) float32."""
        self._input.copy_from_cpu(batch)
        self._predictor.run()
        scores: np.ndarray = self._output.copy_to_cpu()
        return scores


def _predictor_config(settings: LocalService, model: Model, instance: int, threads: int) -> paddle_inference.Config:
    require_device(settings, engine="paddle", gpu=True)
    require_precision(settings, engine="paddle", cpu_bf16=True)
    config = paddle_inference.Config(str(model.program), str(model.params))
    config.disable_glog_info()
    config.switch_ir_optim(settings.ir_optim)
    if settings.mem_optim:
        config.enable_memory_optim()
    if settings.on_gpu:
        _on_gpu(config, settings, instance)
    else:
        _on_cpu(config, settings, threads)
    return config


def _on_cpu(config: paddle_inference.Config, settings: LocalService, threads: int) -> None:
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    if settings.use_mkldnn:
        config.enable_mkldnn()
        if settings.mkldnn_cache_capacity:
            config.set_mkldnn_cache_capacity(settings.mkldnn_cache_capacity)
    else:
        config.disable_mkldnn()
    if settings.precision == "bf16":
        _in_bf16(config, settings)


def _in_bf16(config: paddle_inference.Config, settings: LocalService) -> None:
    """Of oneDNN, by a pass over the program; without either Paddle would compute in float32 and say nothing."""
    if not (settings.use_mkldnn and settings.ir_optim):
        raise ConfigError(
            "op.*.local_service_conf.precision: bf16 needs use_mkldnn: true and ir_optim: true with native.engine:"
            " paddle; accepted: fp32"
        )
    config.enable_mkldnn_bfloat16()


def _on_gpu(config: paddle_inference.Config, settings: LocalService, instance: int) -> None:
    import paddle

    if not paddle.device.is_compiled_with_cuda():
        raise ConfigError(
            f"op.*.local_service_conf.device_type: 1 (GPU), but the installed paddlepaddle {paddle.__version__} is the"
            " CPU build; accepted: 0, or install paddlepaddle-gpu"
        )
    if not paddle.device.cuda.device_count():
        raise ConfigError(
            "op.*.local_service_conf.device_type: 1 (GPU), but no GPU is visible; accepted: 0, or 1 where the NVIDIA"
            " driver shows one (in a container: docker run --gpus all)"
        )
    config.enable_use_gpu(GPU_MEMORY_MB, gpu_of(settings, instance))


def _first_line(error: Exception) -> str:
    """The line of a Paddle error that says what happened; the rest is a C++ stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line and "---" not in line), lines[0] if lines else repr(error))
