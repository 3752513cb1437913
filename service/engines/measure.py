"""Every engine that can serve a model -> its speed here, and how near its scores are to Paddle's.

    python -m service.engines.measure THREADS < CONFIG.json     one line of JSON: Measurements

A process of its own: it loads what only one engine will need, and what crashes here crashes no service.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from service.config import Config
from service.engines import REFERENCE, VENDORS, Engine, open_engine
from service.errors import StartupError
from service.ops.model import Model, load_model

ROUNDS = 7
LEAST_ROUNDS = 2
SECONDS = 1.5  # of all rounds; a large model takes longer for the least of them
RUN_SECONDS = 0.2  # of one run: a large model is measured with fewer images than a batch has


@dataclass
class Measurements:
    """What was measured, by engine. Of each the best round: other work on the machine only ever adds to a run."""

    images: int  # in one run
    rates: dict[str, float] = field(default_factory=dict)  # images a second
    differences: dict[str, float] = field(default_factory=dict)  # max abs, of scores to Paddle's (_expected)
    refused: dict[str, str] = field(default_factory=dict)  # why an engine cannot serve this


def measure(config: Config, model: Model, *, threads: int) -> Measurements:
    """Run all engines in turn. One that cannot be opened or fails is in ``refused``."""
    engines, refused = _open(config, model, threads)
    images = random_images(config.regnet.batch_size, model)
    batch = images[: _images_of_a_run(list(engines.values()), len(images), model)]
    scores = {name: engine.run(batch) for name, engine in engines.items()}
    found = Measurements(len(batch), refused=refused)
    expected = _expected(config, model, batch, scores)
    if expected is not None:
        found.differences = {name: float(np.abs(scores[name] - expected).max()) for name in scores}
    found.rates = {name: len(batch) / seconds for name, seconds in _best_rounds(engines, batch).items()}
    return found


def random_images(count: int, model: Model) -> np.ndarray:
    """Normalised noise (count, 3, height, width) float32; fewer are the first of more."""
    return np.random.default_rng(0).normal(size=(count, 3, model.height, model.width)).astype(np.float32)


def _expected(config: Config, model: Model, batch: np.ndarray, scores: dict[str, np.ndarray]) -> np.ndarray | None:
    """Paddle's scores: as configured, or else in float32 on the CPU, which it always has; None where it fails too."""
    if REFERENCE in scores or not scores:
        return scores.get(REFERENCE)
    plain = {"device_type": 0, "devices": "", "precision": "fp32"}
    (name, op), native = next(iter(config.op.items())), config.native.model_copy(update={"engine": REFERENCE})
    op = op.model_copy(update={"local_service_conf": op.local_service_conf.model_copy(update=plain)})
    try:
        return open_engine(config.model_copy(update={"native": native, "op": {name: op}}), model).run(batch)
    except StartupError:
        return None


def _open(config: Config, model: Model, threads: int) -> tuple[dict[str, Engine], dict[str, str]]:
    engines, refused = {}, {}
    for name in VENDORS:
        native = config.native.model_copy(update={"engine": name})
        try:
            engine = open_engine(config.model_copy(update={"native": native}), model, threads=threads)
            engine.run(np.zeros((1, 3, model.height, model.width), np.float32))
        except StartupError as error:
            refused[name] = str(error)
        except Exception as error:  # of a vendor that loads the model and cannot run it
            refused[name] = f"{name}: {' '.join(str(error).split())}"
        else:
            engines[name] = engine
    return engines, refused


def _images_of_a_run(engines: list[Engine], batch_size: int, model: Model) -> int:
    one = np.zeros((1, 3, model.height, model.width), np.float32)
    slowest = max((_seconds(engine, one) for engine in engines), default=RUN_SECONDS)
    return max(1, min(batch_size, int(RUN_SECONDS / slowest)))


def _best_rounds(engines: dict[str, Engine], batch: np.ndarray) -> dict[str, float]:
    """Seconds of the fastest of several rounds, in which the engines take turns."""
    best = dict.fromkeys(engines, float("inf"))
    give_up = time.perf_counter() + SECONDS
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() > give_up:
            break
        for name, engine in engines.items():
            best[name] = min(best[name], _seconds(engine, batch))
    return best


def _seconds(engine: Engine, batch: np.ndarray) -> float:
    began = time.perf_counter()
    engine.run(batch)
    return time.perf_counter() - began


def main(threads: str) -> None:
    """Measure for the configuration on standard input."""
    config = Config.model_validate_json(sys.stdin.buffer.read())
    answer = sys.stdout.fileno()
    # What a vendor's library prints must not mix with the answer.
    with os.fdopen(os.dup(answer), "w", encoding="utf-8") as pipe:
        os.dup2(sys.stderr.fileno(), answer)
        model = load_model(Path(config.regnet.local_service_conf.model_config_))
        json.dump(asdict(measure(config, model, threads=int(threads))), pipe)


if __name__ == "__main__":
    main(*sys.argv[1:])
