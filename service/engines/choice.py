"""``native.engine: auto`` -> the engine that is fastest for this model on this machine, measured once and kept."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from service.config import Config
from service.engines import REFERENCE
from service.engines.gpu import require_engines
from service.engines.kept_choice import Choice, circumstances, keep, kept
from service.engines.precision import require_precision
from service.errors import ConfigError
from service.ops.int8 import Int8, load_int8
from service.ops.model import Model

log = logging.getLogger("regnetx.engine")

TIMEOUT_SECONDS = 120  # RegNetX_32GF on one core takes some 20
TENSORRT_SECONDS = 1200  # more, where engines are built first
TIE = 0.05  # within it the reference is taken
# Of scores to those of Paddle, in the same precision where it has it, else in float32. bfloat16 has 8 bits, float16 and
# TF32 have 11, and each vendor rounds where it likes. int8 on a CPU may differ by so much more than on record.
TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.25}
INT8_SLACK = 0.1  # noise is no image, and a step of rounding goes a long way
LEAST_TOLD = TOLERANCE["fp32"]
ROOT = str(Path(__file__).parents[2])


def in_force(config: Config, model: Model) -> Config:
    """The configuration with ``auto`` replaced by the engine to use; any other is returned as it is.

    Raises ConfigError where no engine can serve the model as configured, or a GPU would be without an engine.
    """
    require_engines(config)
    if config.native.engine != "auto":
        return config
    native = config.native.model_copy(update={"engine": _choose(config, model)})
    return config.model_copy(update={"native": native})


def fastest(found: dict[str, Any], precision: str, recorded: Mapping[str, float] = MappingProxyType({})) -> str:
    """The name of the engine with the highest rate, among those whose scores are Paddle's.

    ``found``: measure.Measurements as a mapping; ``recorded``: by engine, the difference of scores that is on record
    for the quantised model. Raises ConfigError where there is none, with what Paddle said or how far they differ.
    """
    rates, differences = found["rates"], found["differences"]
    tolerated = dict.fromkeys(rates, TOLERANCE[precision]) | {
        name: difference + INT8_SLACK for name, difference in recorded.items()
    }
    able = {name: rate for name, rate in rates.items() if differences.get(name, math.nan) <= tolerated[name]}
    if REFERENCE in rates:
        able[REFERENCE] = rates[REFERENCE]
    if not able:
        raise ConfigError(_differ(rates, differences) if rates and recorded else found["refused"][REFERENCE])
    best = max(able, key=lambda name: able[name])
    return REFERENCE if able.get(REFERENCE, 0) >= (1 - TIE) * able[best] else best


def _differ(rates: dict[str, float], differences: dict[str, float]) -> str:
    by = ", ".join(f"{name} {differences.get(name, math.nan):.2g}" for name in rates)
    return (
        "op.*.local_service_conf.precision: int8, but on this machine scores of random images differ from Paddle's in"
        f" float32 by more than is on record ({by}); accepted: fp32, or quantise the model on this machine"
    )


def _int8(config: Config, model: Model) -> Int8 | None:
    """The quantised form, where that is what the CPU runs. Raises ConfigError where there is none."""
    settings = config.regnet.local_service_conf
    if settings.precision != "int8" or settings.on_gpu:
        return None
    require_precision(settings, engine="auto", cpu=["fp32", "bf16", "int8"])
    return load_int8(model)


def _choose(config: Config, model: Model) -> str:
    int8 = _int8(config, model)
    if model.onnx is None:
        log.info("native.engine: auto takes %s: %s has no ONNX file for another", REFERENCE, model.name)
        return REFERENCE
    threads = config.threads_under_load
    here = circumstances(config, model, threads) | ({"int8": int8.sha256} if int8 else {})
    choice = kept(model, here)
    if choice is not None:
        log.info("native.engine: auto takes %s: %s, as measured before", choice.engine, _figures(choice))
        return choice.engine
    began = time.monotonic()
    found = _measure(config, threads)
    if found is None:
        return REFERENCE
    recorded = {name: one.random_max_abs_diff for name, one in int8.agreements.items()} if int8 else {}
    engine = fastest(found, _tolerated(config), recorded)
    choice = Choice(engine, found["images"], found["rates"], found["differences"])
    where = keep(model, here, choice)
    told = f"measured in {time.monotonic() - began:.1f} s, {f'kept in {where}' if where else 'kept nowhere'}"
    log.info("native.engine: auto takes %s: %s, %s", engine, _figures(choice), told)
    return engine


def _tolerated(config: Config) -> str:
    settings = config.regnet.local_service_conf
    with_tf32 = settings.on_gpu and settings.precision == "fp32" and config.native.tf32
    return "tf32" if with_tf32 else settings.precision


def _measure(config: Config, threads: int) -> dict[str, Any] | None:
    """None where the measuring process did not come to its end."""
    # Tied: where this process has ended, nobody waits for the answer.
    command = [sys.executable, "-m", "service.tied", str(os.getpid()), "service.engines.measure", str(threads)]
    order = config.model_dump_json(by_alias=True).encode()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))}
    try:
        done = subprocess.run(
            command,
            input=order,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=TIMEOUT_SECONDS + (TENSORRT_SECONDS if config.regnet.local_service_conf.on_tensorrt else 0),
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
