"""One model in a process of its own: what crashes here, or takes all memory, costs one row of a table.

    python -m serving_models.latency_process < ORDER.json     lines of JSON: signs of life, then what was found

``{"refused": why}``: this machine, engine or model cannot do what was asked. ``{"broke": why}``: it should have, and
failed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.config import Config
from service.engines import Engine, open_engine, warm_up
from service.errors import StartupError
from service.ops.model import load_model

FIRST_TO_BE_KILLED = "1000"
LEAST_RUNS = 10
UNMEASURED_RUNS = 2  # of a batch size that comes after another
BEAT_SECONDS = 0.5
REASON_LENGTH = 300

Say = Callable[[dict[str, Any]], None]


def export_random(say: Say, *, name: str, folder: str, image_size: int, resize_short: int) -> None:
    """A serving model of an official architecture with 1000 classes and random weights, as ``export`` writes it."""
    import paddle

    from serving_models import network
    from serving_models.export import Options, export
    from serving_models.variants import IMAGENET_CLASSES

    weights = Path(folder) / f"{name}.pdparams"
    say({"doing": "making random weights"})
    paddle.seed(0)
    paddle.save(network.build(name, IMAGENET_CLASSES).state_dict(), str(weights))
    options = Options(root=Path(folder), image_size=image_size, resize_short=resize_short)
    exported = export(str(weights), options, report=lambda text: say({"doing": text}), progress=lambda *_: None)
    weights.unlink()
    say({"folder": str(exported.folder)})


def choose(say: Say, *, config: str) -> None:
    """The engine that ``native.engine: auto`` would take. It keeps its choice with the model; nothing is kept here."""
    from service.engines.choice import fastest
    from service.engines.measure import measure

    asked = Config.model_validate_json(config)
    local = asked.regnet.local_service_conf
    say({"doing": "measuring all engines"})
    found = measure(asked, load_model(Path(local.model_config_)), threads=asked.threads_under_load)
    say({"engine": fastest(asdict(found), local.precision)})


def measure_batches(say: Say, *, config: str, batches: list[int], seconds: float, repeats: int | None) -> None:
    """Milliseconds of one run for each batch size, from a tensor in memory to scores in memory."""
    from service.engines.kept_choice import circumstances

    asked = Config.model_validate_json(config)
    model = load_model(Path(asked.regnet.local_service_conf.model_config_))
    here = circumstances(asked, model, asked.threads_under_load)
    card = next(iter((here["gpu"] or {}).get("cards", [])), None)
    say({"machine": here["machine"] | {"gpu": card and card["name"]}, "versions": here["versions"]})
    engine = open_engine(asked, model)
    say({"doing": "warming up"})
    warm_up(engine, model, batch_size=max(batches))
    shape = (max(batches), 3, model.height, model.width)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for batch in batches:
        milliseconds = 1e3 * np.array(_runs(engine, images[:batch], say, seconds=seconds, repeats=repeats))
        # The nearest rank: of fewer than 100 runs it is the slowest.
        p99 = np.quantile(milliseconds, 0.99, method="inverted_cdf")
        figures = {"median_ms": float(np.median(milliseconds)), "p99_ms": float(p99)}
        say({"batch": batch, "runs": len(milliseconds), **figures})


def _runs(
    engine: Engine, batch: npt.NDArray[np.float32], say: Say, *, seconds: float, repeats: int | None
) -> list[float]:
    """Seconds of each run: as many as asked for, or else at least LEAST_RUNS and for so many seconds."""
    for _ in range(UNMEASURED_RUNS):
        engine.run(batch)
    took: list[float] = []
    began = told = time.perf_counter()
    while len(took) < (repeats or LEAST_RUNS) or (repeats is None and time.perf_counter() - began < seconds):
        start = time.perf_counter()
        engine.run(batch)
        end = time.perf_counter()
        took.append(end - start)
        if end - told > BEAT_SECONDS:
            told = end
            say({"doing": f"batch size {len(batch)}, {len(took)} runs"})
    return took


ORDERS: dict[str, Callable[..., None]] = {
    "export_random": export_random,
    "choose": choose,
    "measure_batches": measure_batches,
}


def main() -> None:
    """Do what the order on standard input says."""
    with suppress(OSError):
        # Where memory ends, the kernel takes this process and not the one that holds the table.
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_BE_KILLED)
    order = json.load(sys.stdin.buffer)
    with _answers() as say:
        try:
            ORDERS[order.pop("do")](say, **order)
        except StartupError as error:
            say({"refused": _one_line(error)})
        except Exception as error:  # of a vendor, the disk or the memory
            say({"broke": f"{type(error).__name__}: {_one_line(error)}"})


@contextmanager
def _answers() -> Iterator[Say]:
    answer = sys.stdout.fileno()
    # What a vendor's library prints must not mix with the answers.
    with os.fdopen(os.dup(answer), "w", encoding="utf-8") as pipe:
        os.dup2(sys.stderr.fileno(), answer)
        yield lambda line: print(json.dumps(line), file=pipe, flush=True)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # Paddle's reasons come last, after a stack of C++.
    return text if len(text) <= REASON_LENGTH else f"… {text[-REASON_LENGTH:]}"


if __name__ == "__main__":
    main()
