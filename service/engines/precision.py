"""The precision and the device that the configuration asks for, against what an engine has; never silently another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.config import LocalService
from service.engines.gpu import device_type
from service.errors import ConfigError

CPU_FACTS = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
# Of x86. Without them the sums of int8 products overflow at 16 bits, and scores are others than those on record.
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}
NEEDS = {"bf16": BF16_FLAGS, "int8": INT8_FLAGS}


def cpu_flags() -> set[str]:
    """What the kernel says that the CPU can do; empty where it says nothing."""
    try:
        lines = CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), []))


def cpu_has(precision: str) -> bool:
    """Whether the CPU has instructions for a precision."""
    return precision not in NEEDS or bool(NEEDS[precision] & cpu_flags())


def require_precision(
    settings: LocalService, *, engine: str, cpu: Sequence[str], gpu: Sequence[str] = (), tensorrt: Sequence[str] = ()
) -> None:
    """Raises ConfigError for a precision that the engine does not have here.

    ``cpu``, ``gpu``, ``tensorrt``: what it has on each. bf16 and int8 on a CPU are only what the CPU has instructions
    for: on one that has not, vendors emulate bf16, which is slower than float32 and no more exact. What a GPU can do,
    ``gpu.require_gpu`` says.
    """
    built_in = tensorrt if settings.on_tensorrt else gpu if settings.on_gpu else cpu
    accepted = [one for one in built_in if settings.on_gpu or cpu_has(one)]
    if settings.precision in accepted:
        return
    why = f"is not built in with native.engine: {engine}{_beside(settings)}"
    if settings.precision in built_in:
        why = f"needs a CPU with {' or '.join(sorted(NEEDS[settings.precision]))}"
    raise ConfigError(f"op.*.local_service_conf.precision: {settings.precision} {why}; accepted: {', '.join(accepted)}")


def require_device(settings: LocalService, *, engine: str, gpu: bool) -> None:
    """Raises ConfigError for a ``device_type`` that the engine cannot run on."""
    if settings.device_type > 2 or (settings.on_gpu and not gpu):
        found = settings.device_type if settings.device_type > 0 else 1
        accepted = "0 (CPU), 1 (GPU), 2 (GPU with TensorRT)" if gpu else "0 (CPU)"
        raise ConfigError(
            f"op.*.local_service_conf.device_type: {found} is not built in with native.engine: {engine};"
            f" accepted: {accepted}"
        )


def _beside(settings: LocalService) -> str:
    return f" and device_type: {device_type(settings)}" if settings.on_gpu else ""
