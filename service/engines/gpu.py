"""The NVIDIA GPUs that this process sees, as the driver itself has them, and what the configuration asks of them.

The driver is asked through its own library, because not every engine can be asked, and the choice of one must not load
any. It counts as the engines do: only what CUDA_VISIBLE_DEVICES leaves, and an instance of MIG as a GPU.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from service.config import Config, LocalService
from service.errors import ConfigError

DRIVER = "libcuda.so.1"
DRIVER_VERSION = Path("/sys/module/nvidia/version")
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
# NVIDIA's libraries compute float32 with 10 bits of mantissa from Ampere on, unless this says 0 before they are loaded.
TF32_SWITCH = "NVIDIA_TF32_OVERRIDE"
# The compute capability from which a precision has instructions of its own; below, libraries take another silently.
CAPABILITIES = {"fp32": 0.0, "fp16": 7.0, "bf16": 8.0, "int8": 6.1}
FP16_BEFORE = {5.3, 6.0, 6.2}


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one instance of MIG."""

    name: str
    capability: str  # of compute, such as 8.0
    memory_mb: int


@cache
def visible_gpus() -> tuple[Gpu, ...]:
    """In the order in which ``devices`` counts them; none where there is no driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_gpu(driver, number) for number in range(count.value))


def driver_version() -> str:
    """That of the kernel's module; empty where there is none."""
    try:
        return DRIVER_VERSION.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def forbid_tf32(config: Config) -> None:
    """Unless ``native.tf32``: float32 shall be float32. To be called before a vendor's library is loaded."""
    if config.regnet.local_service_conf.on_gpu and not config.native.tf32:
        os.environ[TF32_SWITCH] = "0"


def device_type(settings: LocalService) -> str:
    """That of a GPU, for a message."""
    return "2 (GPU with TensorRT)" if settings.on_tensorrt else "1 (GPU)"


def gpu_of(settings: LocalService, instance: int) -> int:
    """The number of the GPU of an engine process: ``devices`` in turn."""
    return settings.gpus[instance % len(settings.gpus)]


def require_engines(config: Config) -> None:
    """Raises ConfigError where ``devices`` lists a GPU that no engine process would have."""
    gpus, engines = set(config.regnet.local_service_conf.gpus), config.regnet.concurrency
    if engines < len(gpus):
        raise ConfigError(
            f"op.*.concurrency: {engines} leaves a GPU idle, for devices lists {len(gpus)}; accepted: {len(gpus)} or"
            " more (one engine process has one GPU), or fewer devices"
        )


def require_gpu(config: Config, instance: int) -> Gpu:
    """The GPU of an engine process. Raises ConfigError where it is not there or cannot do what is asked of it."""
    settings, gpus = config.regnet.local_service_conf, visible_gpus()
    number = gpu_of(settings, instance)
    if not gpus:
        raise ConfigError(
            f"op.*.local_service_conf.device_type: {device_type(settings)}, but no GPU is visible; accepted: 0, or"
            f" {device_type(settings)[0]} where the NVIDIA driver shows one (in a container: docker run --gpus all)"
        )
    if number >= len(gpus):
        accepted = ", ".join(f"{one} ({gpu.name})" for one, gpu in enumerate(gpus))
        raise ConfigError(
            f"op.*.local_service_conf.devices: {settings.devices}, but there is no GPU {number}; accepted: {accepted}"
        )
    _require_capability(settings, gpus[number])
    _require_memory(config, number, gpus[number])
    return gpus[number]


def _require_capability(settings: LocalService, gpu: Gpu) -> None:
    found = float(gpu.capability)
    able = [one for one, least in CAPABILITIES.items() if found >= least or (one == "fp16" and found in FP16_BEFORE)]
    if settings.precision not in able:
        raise ConfigError(
            f"op.*.local_service_conf.precision: {settings.precision} needs a GPU of compute capability"
            f" {CAPABILITIES[settings.precision]} or more, {gpu.name} has {gpu.capability}; accepted: {', '.join(able)}"
        )


def _require_memory(config: Config, number: int, gpu: Gpu) -> None:
    """What can never fit is said at the start, not by a failed batch."""
    settings, bound = config.regnet.local_service_conf, config.native.gpu_memory_mb
    engines = [gpu_of(settings, instance) for instance in range(config.regnet.concurrency)].count(number)
    if bound is not None and bound * engines > gpu.memory_mb:
        raise ConfigError(
            f"native.gpu_memory_mb: {bound} for each of {engines} engines on GPU {number} ({gpu.name}) is more than its"
            f" {gpu.memory_mb} MiB; accepted: at most {gpu.memory_mb // engines}, less what CUDA itself takes"
        )


def _gpu(driver: ctypes.CDLL, number: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (_attribute(driver, attribute, device) for attribute in (MAJOR, MINOR))
    return Gpu(name.value.decode(errors="replace"), f"{major}.{minor}", memory.value >> 20)


def _attribute(driver: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value
