"""The precision and the device that the configuration asks for, against what an engine has; never silently another."""

from __future__ import annotations

from pathlib import Path

from service.config import LocalService
from service.errors import ConfigError

CPU_FACTS = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def cpu_flags() -> set[str]:
    """What the kernel says that the CPU can do; empty where it says nothing."""
    try:
        lines = CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), []))


def require_precision(settings: LocalService, *, engine: str, cpu_bf16: bool) -> None:
    """Raises ConfigError for a precision that the engine does not have here.

    ``cpu_bf16``: the engine computes in bfloat16 on a CPU that has instructions for it. (On one that has not, vendors
    emulate it, which is slower than float32 and no more exact.)
    """
    here = cpu_bf16 and not settings.on_gpu and bool(BF16_FLAGS & cpu_flags())
    accepted = ["fp32", "bf16"] if here else ["fp32"]
    if settings.precision in accepted:
        return
    why = f"is not built in with native.engine: {engine}"
    if settings.precision == "bf16" and cpu_bf16:
        why = f"needs device_type: 0 and a CPU with {' or '.join(sorted(BF16_FLAGS))}"
    raise ConfigError(f"op.*.local_service_conf.precision: {settings.precision} {why}; accepted: {', '.join(accepted)}")


def require_device(settings: LocalService, *, engine: str, gpu: bool) -> None:
    """Raises ConfigError for a ``device_type`` that the engine cannot run on."""
    if settings.device_type > 1 or (settings.on_gpu and not gpu):
        found = 1 if settings.on_gpu else settings.device_type
        accepted = "0 (CPU), 1 (GPU)" if gpu else "0 (CPU)"
        raise ConfigError(
            f"op.*.local_service_conf.device_type: {found} is not built in with native.engine: {engine};"
            f" accepted: {accepted}"
        )


def gpu_of(settings: LocalService, instance: int) -> int:
    """The number of the GPU of an engine process: ``devices`` in turn."""
    devices = [int(device) for device in settings.devices.split(",") if device] or [0]
    return devices[instance % len(devices)]
