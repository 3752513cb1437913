"""``native.engine: auto`` -> the engine that is fastest for this model on this machine, measured once and kept."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from service.config import Config
from service.engines import REFERENCE
from service.engines.kept_choice import Choice, circumstances, keep, kept
from service.errors import ConfigError
from service.ops.model import Model

log = logging.getLogger("regnetx.engine")

TIMEOUT_SECONDS = 120  # RegNetX_32GF on one core takes some 20
TIE = 0.05  # within it the reference is taken
# Of scores to those of Paddle in the same precision. bfloat16 has 8 bits, and each vendor rounds where it likes.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
LEAST_TOLD = TOLERANCE["fp32"]
ROOT = str(Path(__file__).parents[2])


def in_force(config: Config, model: Model) -> Config:
    """The configuration with ``auto`` replaced by the engine to use; any other is returned as it is.

    Raises ConfigError where not even Paddle can serve the model as configured.
    """
    if config.native.engine != "auto":
        return config
    native = config.native.model_copy(update={"engine": _choose(config, model)})
    return config.model_copy(update={"native": native})


def fastest(found: dict[str, Any], precision: str) -> str:
    """The name of the engine with the highest rate, among those whose scores are Paddle's.

    ``found``: measure.Measurements as a mapping. Raises ConfigError where Paddle cannot serve the model as configured.
    """
    rates, differences = found["rates"], found["differences"]
    if REFERENCE not in rates:
        raise ConfigError(found["refused"][REFERENCE])
    able = {name: rate for name, rate in rates.items() if differences[name] <= TOLERANCE[precision]}
    best = max(able, key=lambda name: able[name], default=REFERENCE)
    return REFERENCE if rates[REFERENCE] >= (1 - TIE) * rates[best] else best


def _choose(config: Config, model: Model) -> str:
    if model.onnx is None:
        log.info("native.engine: auto takes %s: %s has no ONNX file for another", REFERENCE, model.name)
        return REFERENCE
    threads = config.threads_under_load
    here = circumstances(config, model, threads)
    choice = kept(model, here)
    if choice is not None:
        log.info("native.engine: auto takes %s: %s, as measured before", choice.engine, _figures(choice))
        return choice.engine
    began = time.monotonic()
    found = _measure(config, threads)
    if found is None:
        return REFERENCE
    engine = fastest(found, config.regnet.local_service_conf.precision)
    choice = Choice(engine, found["images"], found["rates"], found["differences"])
    where = keep(model, here, choice)
    told = f"measured in {time.monotonic() - began:.1f} s, {f'kept in {where}' if where else 'kept nowhere'}"
    log.info("native.engine: auto takes %s: %s, %s", engine, _figures(choice), told)
    return engine


def _measure(config: Config, threads: int) -> dict[str, Any] | None:
    """None where the measuring process did not come to its end."""
    command = [sys.executable, "-m", "service.engines.measure", str(threads)]
    order = config.model_dump_json(by_alias=True).encode()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))}
    try:
        done = subprocess.run(
            command,
            input=order,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=TIMEOUT_SECONDS,
            check=True,
            process_group=0,  # Ctrl-C is for this process, which then ends the other
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("native.engine: auto takes %s, because measuring failed: %s", REFERENCE, error)
        return None
    return found


def _figures(choice: Choice) -> str:
    told = []
    for name, rate in choice.rates.items():
        difference = choice.differences[name]
        differs = "" if difference < LEAST_TOLD else f" (scores differ by {difference:.2g})"
        told.append(f"{name} {rate:.{0 if rate >= 100 else 1}f}{differs}")
    return f"{', '.join(told)} images/s in batches of {choice.images}"
