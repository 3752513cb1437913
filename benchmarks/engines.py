"""The engines side by side: one model, one core or more, every engine and precision in a process of its own.

    python -m benchmarks.engines [--models RegNetX_200MF,RegNetX_4GF] [--batch 1,8] [--threads 1,2] [--seconds 1]

Models have random weights at 224x224. In each round every engine runs for so many seconds, one after the other; a ratio
is to Paddle's fp32 in the same round, figures are medians over the rounds. Writes benchmarks/ENGINES.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.processes import memory
from benchmarks.results import machine, versions
from benchmarks.subjects import ROOT, export_random_model, quantise_with_noise
from service.config import Config
from service.engines import VENDORS, open_engine, warm_up
from service.errors import StartupError
from service.ops.model import load_model

FILE = Path(__file__).parent / "ENGINES.md"
MODELS = "RegNetX_200MF,RegNetX_4GF"
SUBJECTS = [
    (engine, precision) for precision in ("fp32", "bf16", "int8") for engine in VENDORS
]  # the first is the reference
ROUNDS = 5
MIB = 2**20


@dataclass
class Row:
    """One engine in one situation, a figure a round."""

    model: str
    threads: int
    batch: int
    engine: str
    precision: str
    rates: list[float] = field(default_factory=list)  # images a second
    cpu: list[float] = field(default_factory=list)  # CPU seconds an image
    ratios: list[float] = field(default_factory=list)
    bytes: int = 0  # of the process


def main() -> None:
    """Measure, print and write down."""
    arguments = _arguments()
    before = os.getloadavg()[0]
    rows: list[Row] = []
    refused: dict[str, str] = {}
    for variant in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            model = export_random_model(Path(folder), variant, image_size=224)
            quantise_with_noise(model)
            for threads in _numbers(arguments.threads):
                batches = _numbers(arguments.batch)
                rows += _measure(variant, model, threads, batches, arguments.seconds, refused)
    text = _page(rows, refused, command=sys.argv[1:], load=before)
    FILE.write_text(text)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--models", default=MODELS, help=f"default: {MODELS}")
    parser.add_argument("--batch", default="1,8", help="images in one run; default: 1,8")
    parser.add_argument("--threads", default="1,2", help="CPU threads of one run; default: 1,2")
    parser.add_argument("--seconds", type=float, default=1, help="of one engine in one round; default: 1")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _measure(
    variant: str, model: Path, threads: int, batches: list[int], seconds: float, refused: dict[str, str]
) -> list[Row]:
    rows = []
    with ExitStack() as stack:
        workers = {}
        for engine, precision in SUBJECTS:
            worker = stack.enter_context(_worker(model, engine, precision, threads, max(batches)))
            told = json.loads(worker.stdout.readline())
            if "refused" in told:
                refused[f"{engine} {precision}"] = told["refused"]
            else:
                workers[engine, precision] = worker
        for batch in batches:
            rows += _rounds(workers, [Row(variant, threads, batch, *subject) for subject in workers], seconds)
    return rows


def _rounds(workers: dict[tuple[str, str], Any], rows: list[Row], seconds: float) -> list[Row]:
    for _ in range(ROUNDS):
        for row in rows:
            worker = workers[row.engine, row.precision]
            print(row.batch, seconds, file=worker.stdin, flush=True)
            told = json.loads(worker.stdout.readline())
            row.rates.append(told["rate"])
            row.cpu.append(told["cpu"])
            row.ratios.append(told["rate"] / rows[0].rates[-1])
            row.bytes = memory(worker.pid)
    return rows


@contextmanager
def _worker(model: Path, engine: str, precision: str, threads: int, batch: int) -> Iterator[Any]:
    command = [sys.executable, "-m", "benchmarks.engines", "--worker"]
    words = [str(model), engine, precision, str(threads), str(batch)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, *words], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process  # the end of its standard input, which Popen closes, ends it


def _work(model_config: str, engine_name: str, precision: str, threads: str, batch_size: str) -> None:
    """One engine: answers each line ``BATCH SECONDS`` with one of JSON."""
    local = {"model_config": model_config, "precision": precision, "thread_num": int(threads)}
    op = {"batch_size": int(batch_size), "local_service_conf": local}
    config = Config.model_validate({"http_port": 0, "op": {"regnet": op}, "native": {"engine": engine_name}})
    model = load_model(Path(model_config))
    try:
        engine = open_engine(config, model)
    except StartupError as error:
        print(json.dumps({"refused": str(error)}), flush=True)
        return
    warm_up(engine, model, batch_size=int(batch_size))
    print(json.dumps({"ready": True}), flush=True)
    images = np.random.default_rng(0).normal(size=(int(batch_size), 3, model.height, model.width)).astype(np.float32)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(json.dumps(_run(engine.run, images[: int(batch)], float(seconds))), flush=True)


def _run(run: Any, batch: np.ndarray, seconds: float) -> dict[str, float]:
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < began + seconds:
        run(batch)
        count += len(batch)
    return {"rate": count / (time.perf_counter() - began), "cpu": (time.process_time() - cpu) / count}


def _page(rows: list[Row], refused: dict[str, str], *, command: list[str], load: float) -> str:
    packages = ", ".join(f"{package} {version(package)}" for package in ("onnxruntime", "openvino"))
    return "\n".join(
        [
            "# Engines", "",
            f"`{' '.join(['python -m benchmarks.engines', *command])}`, {date.today()}, on {machine()}.",
            f"Random weights, 224x224; {versions()}, {packages}. Load average of other work when it began: {load:.1f}.",
            f"Engines take turns in {ROUNDS} rounds; medians. The ratio is to Paddle's fp32 in the same round. CPU ms",
            "are of one image, by the kernel's count; memory is the PSS of a process with this one engine.", "",
            "| model | threads | batch | engine | precision | images/s | CPU ms | to paddle fp32 | MiB |",
            "|---|--:|--:|---|---|--:|--:|--:|--:|",
            *map(_line, rows), "",
            *(f"Not measured: {name}: {why}.\n" for name, why in refused.items()),
        ]
    )  # fmt: skip


def _line(row: Row) -> str:
    rate = median(row.rates)
    figures = f"{rate:.{0 if rate >= 100 else 1}f} | {median(row.cpu) * 1e3:.2f} | {median(row.ratios):.2f}"
    what = f"{row.model} | {row.threads} | {row.batch} | {row.engine} | {row.precision}"
    return f"| {what} | {figures} | {row.bytes / MIB:.0f} |"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _work(*sys.argv[2:])
    else:
        main()
