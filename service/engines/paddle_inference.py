"""Paddle Inference: CPU with oneDNN, or CUDA."""

import warnings

import numpy as np

with warnings.catch_warnings():
    # It misses a compiler cache, which nobody needs to run a model.
    warnings.simplefilter("ignore")
    import paddle.inference as paddle_inference

from service.config import LocalService
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
    if settings.device_type > 1:
        raise ConfigError(
            f"op.*.local_service_conf.device_type: {settings.device_type} is not built in; accepted: 0 (CPU), 1 (GPU)"
        )
    if settings.precision != "fp32":
        raise ConfigError(f"op.*.local_service_conf.precision: {settings.precision} is not built in; accepted: fp32")
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
    if not settings.use_mkldnn:
        config.disable_mkldnn()
        return
    config.enable_mkldnn()
    if settings.mkldnn_cache_capacity:
        config.set_mkldnn_cache_capacity(settings.mkldnn_cache_capacity)


def _on_gpu(config: paddle_inference.Config, settings: LocalService, instance: int) -> None:
    import paddle

    if not paddle.device.is_compiled_with_cuda():
        raise ConfigError(
            f"op.*.local_service_conf.device_type: 1 (GPU), but the installed paddlepaddle {paddle.__version__} is the"
            " CPU build; accepted: 0, or install paddlepaddle-gpu"
        )
    devices = [int(device) for device in settings.devices.split(",") if device] or [0]
    config.enable_use_gpu(GPU_MEMORY_MB, devices[instance % len(devices)])


def _first_line(error: Exception) -> str:
    """The line of a Paddle error that says what happened; the rest is a C++ stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line and "---" not in line), lines[0] if lines else repr(error))
