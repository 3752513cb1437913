"""What one image costs, from a service under load: CPU time by process, memory, start; and what that adds up to.

    python -m benchmarks.cost [--seconds 5] [--models RegNetX_200MF,RegNetX_4GF,RegNetX_32GF] [--config config.yml]

Models have random weights at 224x224, images are JPEGs of 500x375 and 4000x3000, base64 over HTTP. CPU time is the
kernel's count for the service's own processes, so the load generator beside it is not in it. Writes
benchmarks/COST.md, whose last table is arithmetic on the first.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.processes import children, memory, used
from benchmarks.results import machine, versions
from benchmarks.subjects import export_random_model, write_photograph
from benchmarks.throughput import ROOT, configuration, run, serving

FILE = Path(__file__).parent / "COST.md"
MODELS = "RegNetX_200MF,RegNetX_4GF,RegNetX_32GF"
PHOTOGRAPHS = {"500x375": (500, 375), "4000x3000": (4000, 3000)}
CONCURRENCY = 32
ROUNDS = 3
RATES = (1_000, 10_000, 100_000)  # images a second
LOAD = 0.7  # of what the cores can do: above it, waiting grows faster than the rate
GPU_RATES = (2_000, 3_500, 6_000)  # assumed images a second of one GPU: none was measured
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Of one image: CPU seconds by process."""

    photograph: str
    frontend: float
    loop: float  # of the frontend's: the event loop's thread, of which there is one in a frontend
    engine: float
    rate: float  # images a second while it was measured


@dataclass(frozen=True)
class Measured:
    """One model."""

    model: str
    start: float  # seconds from the command to the first answer
    frontend_bytes: int
    engine_bytes: int
    costs: list[Cost]


def main() -> None:
    """Measure, print and write down."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        images = {
            name: write_photograph(Path(folder) / f"{name}.jpg", width=width, height=height)
            for name, (width, height) in PHOTOGRAPHS.items()
        }
        measured = [
            _measure(variant, Path(folder) / variant, arguments.config, images, arguments.seconds)
            for variant in arguments.models.split(",")
        ]
    text = _page(measured, command=sys.argv[1:])
    FILE.write_text(text)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement; default: 5")
    parser.add_argument("--models", default=MODELS, help=f"default: {MODELS}")
    parser.add_argument("--config", type=Path, default=ROOT / "config.yml", help="default: config.yml")
    return parser.parse_args()


def _measure(variant: str, folder: Path, config: Path, images: dict[str, Path], seconds: float) -> Measured:
    folder.mkdir()
    model = export_random_model(folder, variant, image_size=224)
    with _serving(configuration(folder, config, model)) as (service, address, start):
        costs = [_cost(service, address, name, image, seconds) for name, image in images.items()]
        pids = children(service.pid)
        return Measured(
            variant,
            start,
            max(memory(pid) for pid in pids["frontend"]),
            max(memory(pid) for pid in pids["engine"]),
            costs,
        )


@contextmanager
def _serving(config: Path) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """A service, its HTTP address, and the seconds until it said ready."""
    started = time.perf_counter()
    with serving(config) as (service, ready):
        yield service, ready["http"], time.perf_counter() - started


def _cost(service: subprocess.Popen[str], address: str, name: str, image: Path, seconds: float) -> Cost:
    """The median round, by what the whole service used."""
    rounds = [_one_round(service, address, name, image, seconds) for _ in range(ROUNDS)]
    return sorted(rounds, key=lambda cost: cost.frontend + cost.engine)[ROUNDS // 2]


def _one_round(service: subprocess.Popen[str], address: str, name: str, image: Path, seconds: float) -> Cost:
    before = used(service.pid)
    result = run("load", "http", address, str(image), str(CONCURRENCY), str(seconds))
    spent = used(service.pid).since(before)
    images = result.images
    return Cost(name, spent.frontend / images, spent.loop / images, spent.engine / images, result.images_per_second)


def _page(measured: list[Measured], *, command: list[str]) -> str:
    smallest = measured[0]
    photograph = smallest.costs[0]
    return "\n".join(
        [
            "# Cost", "",
            f"`{' '.join(['python -m benchmarks.cost', *command])}`, {date.today()}, on {machine()}.",
            f"Random weights, 224x224; {versions()}.",
            f"HTTP, base64, concurrency {CONCURRENCY}; the load generator shares the cores, its time is not counted.",
            "CPU time of an image by process: the frontends' (parsing, decoding, resizing, labels) includes that of",
            "the event loop, of which each has one. Memory is PSS after the load.", "",
            *_costs(measured), "",
            f"## Arithmetic: cores for a rate, {smallest.model}, {photograph.photograph}", "",
            f"rate x CPU time of an image / {LOAD}, so that the cores are {LOAD:.0%} busy. Frontend processes: rate x",
            f"CPU time of the event loop / {LOAD}. Not measured at these rates.", "",
            *_cores(photograph), "",
            "## Arithmetic: CPU cores beside a GPU", "",
            "The engine's work moves to the GPU; decoding stays. The rates of a GPU are assumptions, because none was",
            "measured; put your own in their place.", "",
            *_beside_a_gpu(smallest.costs), "",
        ]
    )  # fmt: skip


def _costs(measured: list[Measured]) -> list[str]:
    lines = [
        "| model | JPEG | frontend ms | event loop ms | engine ms | images/s | start s | frontend MiB | engine MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for model in measured:
        for cost in model.costs:
            times = " | ".join(f"{seconds * 1e3:.2f}" for seconds in (cost.frontend, cost.loop, cost.engine))
            sizes = f"{model.frontend_bytes / MIB:.0f} | {model.engine_bytes / MIB:.0f}"
            lines.append(
                f"| {model.model} | {cost.photograph} | {times} | {cost.rate:.0f} | {model.start:.1f} | {sizes} |"
            )
    return lines


def _cores(cost: Cost) -> list[str]:
    lines = ["| images/s | cores | of them for frontends | frontend processes |", "|--:|--:|--:|--:|"]
    for rate in RATES:
        cores = [
            math.ceil(rate * seconds / LOAD) for seconds in (cost.frontend + cost.engine, cost.frontend, cost.loop)
        ]
        lines.append(f"| {rate:,} | {' | '.join(f'{count:,}' for count in cores)} |")
    return lines


def _beside_a_gpu(costs: list[Cost]) -> list[str]:
    names = " | ".join(f"cores, {cost.photograph}" for cost in costs)
    lines = [f"| images/s of one GPU (assumed) | {names} | frontend processes |", f"|--:|{'--:|' * len(costs)}--:|"]
    for rate in GPU_RATES:
        cores = " | ".join(str(math.ceil(rate * cost.frontend / LOAD)) for cost in costs)
        lines.append(f"| {rate:,} | {cores} | {math.ceil(rate * costs[0].loop / LOAD)} |")
    return lines


if __name__ == "__main__":
    main()
