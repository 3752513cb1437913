"""The engine that was chosen, in a file beside the model or in the cache; good only where nothing has changed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from service import __version__
from service.config import Config
from service.engines import VENDORS
from service.engines.engine_cache import user_cache
from service.engines.gpu import driver_version, visible_gpus
from service.engines.precision import CPU_FACTS, cpu_flags
from service.ops.model import CHOICE_FILE, Model, expected_sha256

OF_SETTINGS = (
    "precision", "on_gpu", "on_tensorrt", "use_mkldnn", "ir_optim", "mem_optim", "use_calib", "min_subgraph_size",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """An engine, and what it was chosen for."""

    engine: str
    images: int  # in one run
    rates: dict[str, float]  # by engine, images a second
    differences: dict[str, float]  # by engine, max abs, of scores to Paddle's


def circumstances(config: Config, model: Model, threads: int) -> dict[str, Any]:
    """All that a measurement depends on; JSON."""
    settings = config.regnet.local_service_conf
    sha256 = expected_sha256(model)
    return {
        "model": dict(sha256.values) if sha256 else None,
        "batch_size": config.regnet.batch_size,
        "threads": threads,
        **{key: getattr(settings, key) for key in OF_SETTINGS},
        "gpu": _gpu(config) if settings.on_gpu else None,
        "machine": {
            "cpu": _cpu(),
            "flags": hashlib.sha256(" ".join(sorted(cpu_flags())).encode()).hexdigest(),
            "cores": len(os.sched_getaffinity(0)),
        },
        "versions": {"regnetx-serving": __version__, **dict(_installed())},
    }


def kept(model: Model, here: dict[str, Any]) -> Choice | None:
    """The choice that was made under the same circumstances; None where there is none, or none that can be read."""
    for file in _files(model, here):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if found.pop("measured_with") == here:
                return _choice(**found)
        # Whatever else stands there, it is measured again and replaced.
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return None


def keep(model: Model, here: dict[str, Any], choice: Choice) -> Path | None:
    """Write it into the first place that can be written; which one, or None."""
    text = json.dumps(asdict(choice) | {"measured_with": here}, indent=2) + "\n"
    for file in _files(model, here):
        try:
            _write(file, text)
        except OSError:
            continue
        return file
    return None


def _files(model: Model, here: dict[str, Any]) -> Iterator[Path]:
    yield model.program.parent.parent / CHOICE_FILE
    name = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()
    cache = user_cache()
    if cache is not None:
        yield cache / f"engine-{name[:16]}.json"


def _choice(engine: str, images: int, rates: dict[str, float], differences: dict[str, float]) -> Choice:
    if engine not in VENDORS or engine not in rates or rates.keys() != differences.keys():
        raise LookupError(engine)
    rates, differences = ({str(name): float(value) for name, value in of.items()} for of in (rates, differences))
    return Choice(engine, int(images), rates, differences)


def _write(file: Path, text: str) -> None:
    """Whole or not at all, also when two services start at once."""
    if file.name != CHOICE_FILE:
        file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(dir=file.parent, prefix=".engine-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(unfinished).chmod(0o644)  # another user may serve the model
        os.replace(unfinished, file)
    except OSError:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _cpu() -> str:
    try:
        lines = CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _gpu(config: Config) -> dict[str, Any]:
    listed, visible = config.regnet.local_service_conf.gpus, visible_gpus()
    return {
        "tf32": config.native.tf32,
        "gpu_memory_mb": config.native.gpu_memory_mb,
        "driver": driver_version(),
        "cards": [asdict(visible[number]) if number < len(visible) else None for number in listed],
    }


def _installed() -> Iterator[tuple[str, str]]:
    for vendor in VENDORS.values():
        for package in vendor.packages:
            try:
                yield package, version(package)
            except PackageNotFoundError:
                continue
