"""Records -> benchmarks/RESULTS.md."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks import matrix, table
from benchmarks.environments import LOCKS
from benchmarks.measure import BARE
from benchmarks.records import Record
from benchmarks.results import machine, versions
from benchmarks.servers import SERVERS
from benchmarks.table import Aim, Row

MEMORY = Path(__file__).parent / "memory.jsonl"
MIB = 2**20
DOORS = {"http": "HTTP base64", "http-raw": "HTTP raw", "grpc": "gRPC base64", "loop": "no server"}
CLOSED = (
    "| | door | callers | images/s | p50 ms | p99 ms | CPU s / 1000 | peak MiB | stock | tuned | peer | bare |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)
OPEN = ("| | load | requests/s | p50 ms | p99 ms | p99 / p50 | requests |", "|---|--:|--:|--:|--:|--:|--:|")


def write_report(records: Sequence[Record], file: Path, *, command: str) -> None:
    """The whole page, of whatever has been measured."""
    first = _situation(records, matrix.MODELS[0], next(iter(matrix.IMAGES)))
    parts = [*_head(command), *_aims(table.aims(first, _memory_slope())), *_notes(records)]
    for model in matrix.MODELS:
        for image in matrix.IMAGES:
            parts += _tables(_situation(records, model, image), f"{model}, {image} JPEG")
    file.write_text("\n".join(parts))


def _situation(records: Sequence[Record], model: str, image: str) -> list[Record]:
    return [record for record in records if (record["model"], record["image"]) == (model, image)]


def _memory_slope() -> float | None:
    if not MEMORY.exists():
        return None
    runs = [json.loads(line) for line in MEMORY.read_text().splitlines()]
    slopes: list[float] = [run["kib_per_1000"] for run in runs if run["requests"] >= table.FLAT_REQUESTS]
    return slopes[-1] if slopes else None


def _head(command: str) -> list[str]:
    packages = ", ".join(f"{package} {version(package)}" for package in ("onnxruntime", "openvino"))
    return [
        "# Results", "",
        f"`{command}`, {date.today()}, on {machine()}; load average when it ended: {os.getloadavg()[0]:.1f}.",
        f"Random weights, 224x224; {versions()}, {packages}; peers: {', '.join(_pins())}.",
        "Closed loop by h2load on the same cores, each caller with a connection of its own. CPU and memory are those",
        "of a server's processes, by the kernel's count; memory is PSS with what each process had more at its peak.",
        "The last columns are ratios of images/s to plain stock, tuned stock, the best peer (same door, same callers)",
        "and the faster bare loop, within a round; medians over the rounds.",
        "A row with a wrong answer, a status that is not 2xx or a broken connection has no figures.", "",
    ]  # fmt: skip


def _pins() -> list[str]:
    names = {"fastapi": "fastapi", "mosec": "mosec", "litserve": "litserve", "bentoml": "bentoml", "ray_serve": "ray"}
    found = []
    for folder, package in names.items():
        lock = (LOCKS / folder / "requirements.txt").read_text()
        pin = re.search(rf"^{package}(?:\[.*\])?==(\S+)", lock, re.MULTILINE)
        found.append(f"{package} {pin[1] if pin else 'not pinned'}")
    return found


def _aims(aims: Sequence[Aim]) -> list[str]:
    lines = ["| aim | measured | |", "|---|--:|---|"]
    for aim in aims:
        measured = "" if aim.value is None else f"{aim.value:.2f}"
        lines.append(f"| {aim.text}: {'>=' if aim.at_least else '<='} {aim.limit:g} | {measured} | {aim.verdict} |")
    return [
        *lines,
        "",
        "Aims are judged at RegNetX_200MF and the small JPEG, throughput at each one's best concurrency.",
        "",
    ]


def _notes(records: Sequence[Record]) -> list[str]:
    subjects = {record["subject"] for record in records}
    lines = ["How each was set up:", ""]
    if BARE in subjects:
        lines.append("* bare loop: one Python process, engine `auto`, no server; `callers` is the batch")
    return [*lines, *(f"* {SERVERS[name].title}: {SERVERS[name].told}" for name in SERVERS if name in subjects), ""]


def _tables(records: Sequence[Record], title: str) -> list[str]:
    rows = table.rows(records)
    if not rows:
        return []
    closed = [row for row in rows if row.share is None]
    open_ = [row for row in rows if row.share is not None]
    rounds = len({record["round"] for record in records})
    lines = [f"## {title}", "", f"Rounds: {rounds}.", "", *CLOSED]
    lines += [_closed_line(records, row) for row in closed]
    if open_:
        lines += [
            "",
            "Poisson arrivals at a share of the subject's own capacity, HTTP base64; latency from the scheduled",
        ]
        lines += ["arrival. The generator is Python and shares the cores.", "", *OPEN, *map(_open_line, open_)]
    return [*lines, ""]


def _title(row: Row) -> str:
    return "bare loop" if row.subject == BARE else SERVERS[row.subject].title


def _closed_line(records: Sequence[Record], row: Row) -> str:
    head = f"| {_title(row)} | {DOORS[row.door]} | {row.concurrency} |"
    if row.error:
        return f"{head} error: {_one_line(row.error)} | | | | | | | | |"
    figures = row.figures
    ratios = " | ".join("" if value is None else f"{value:.2f}" for value in table.ratios(records, row))
    measured = f"{figures['images_per_second']:.1f} | {figures['p50'] * 1e3:.1f} | {figures['p99'] * 1e3:.1f}"
    return f"{head} {measured} | {figures['cpu_an_image'] * 1e3:.1f} | {figures['peak_bytes'] / MIB:.0f} | {ratios} |"


def _open_line(row: Row) -> str:
    head = f"| {_title(row)} | {row.share:.0%} |"
    if row.error:
        return f"{head} error: {_one_line(row.error)} | | | | |"
    figures = row.figures
    p50, p99 = figures["p50"], figures["p99"]
    times = f"{p50 * 1e3:.1f} | {p99 * 1e3:.1f} | {p99 / p50:.1f}"
    return f"{head} {figures['rate']:.0f} | {times} | {figures['images']:.0f} |"


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]
