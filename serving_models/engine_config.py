"""What a person asks of an engine, in words -> the configuration under which a service would run it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from service.config import Config, LocalService, Native
from service.errors import ConfigError

ENGINES: tuple[str, ...] = get_args(Native.model_fields["engine"].annotation)
PRECISIONS: tuple[str, ...] = get_args(LocalService.model_fields["precision"].annotation)
JPEG_DECODES: tuple[str, ...] = get_args(Native.model_fields["jpeg_decode"].annotation)
MOST_THREADS = 256  # of config.Processors
DEVICE_TYPES = {"cpu": 0, "gpu": 1, "tensorrt": 2}  # of config.yml


@dataclass(frozen=True)
class Device:
    """Where an engine runs: ``cpu``, ``gpu:0`` and so on, or through TensorRT on such a GPU."""

    kind: str = "cpu"
    number: int | None = None  # of the GPU

    def __str__(self) -> str:
        return self.kind if self.number is None else f"{self.kind}:{self.number}"


def read_device(text: str) -> Device:
    """``cpu``, ``gpu:N`` or ``tensorrt:N``; without N the first GPU. Raises ConfigError for anything else."""
    if text == "cpu":
        return Device()
    match = re.fullmatch(r"(gpu|tensorrt)(?::([0-9]{1,3}))?", text)
    if not match:
        raise ConfigError(f"--device {text}: accepted are cpu, gpu:N and tensorrt:N, N counted from 0")
    return Device(match[1], int(match[2] or 0))


def read_engines(text: str) -> list[str]:
    """One engine or several, separated by commas. Raises ConfigError for one that there is not."""
    return _chosen("--engine", text, ENGINES)


def read_precisions(text: str) -> list[str]:
    """One precision or several, separated by commas. Raises ConfigError for one that there is not."""
    return _chosen("--precision", text, PRECISIONS)


def read_jpeg_decode(text: str) -> str:
    """How JPEGs are decoded. Raises ConfigError for a way that there is not."""
    return read_one(_chosen("--jpeg-decode", text, JPEG_DECODES), "--jpeg-decode")


def read_one(names: list[str], option: str) -> str:
    """The only one of several. Raises ConfigError where there are more."""
    if len(names) != 1:
        raise ConfigError(f"{option} {','.join(names)}: accepted is one")
    return names[0]


def usable_cores() -> int:
    """As many threads as this process has cores, within what the configuration accepts."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0)))


def engine_config(
    model_config: Path,
    *,
    engine: str,
    precision: str,
    device: Device,
    threads: int,
    batch_size: int,
    **native: str,
) -> Config:
    """A configuration with one engine, all of whose threads serve one run; ``native``: keys of that section."""
    local = {
        "model_config": str(model_config),
        "thread_num": threads,
        "device_type": DEVICE_TYPES[device.kind],
        "devices": "" if device.number is None else str(device.number),
        "precision": precision,
    }
    op = {"batch_size": batch_size, "local_service_conf": local}
    return Config.model_validate({"http_port": 0, "op": {"regnet": op}, "native": {"engine": engine, **native}})


def _chosen(option: str, text: str, accepted: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in accepted:
            raise ConfigError(f"{option} {name or repr(name)}: accepted are {', '.join(accepted)}")
    return list(dict.fromkeys(names))
