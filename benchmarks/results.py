"""Rows of benchmarks.throughput -> a table, with what is needed to measure again: machine, versions, command."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from service import __version__

if TYPE_CHECKING:
    from benchmarks.throughput import Row


def write_results(
    rows: Sequence[Row], file: Path | None, *, command: Sequence[str], overhead: dict[str, float]
) -> None:
    """Print the table; write it with machine, versions, date and command if there is a file."""
    table = ["| | images/s | p50 ms | p99 ms | to the bare loop |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        result = row.result
        figures = f"{result.images_per_second:.0f} | {result.p50 * 1e3:.1f} | {result.p99 * 1e3:.1f}"
        table.append(f"| {row.name} | {figures} | {row.ratio:.2f} |")
    later = ", ".join(f"{door} {seconds * 1e3:+.1f} ms" for door, seconds in overhead.items())
    note = f"A lone request beside one turn of the bare loop (batch 1), at the median: {later}."
    text = "\n".join(
        [
            "# Results", "",
            f"`{' '.join(['python -m benchmarks.throughput', *command])}`, {date.today()}, on {machine()}.",
            f"RegNetX_200MF, 224x224, random weights; 500x375 JPEG, base64 over HTTP and gRPC; {versions()}.",
            "The load generator runs on the same cores. The bare loop is one Python process with all threads of",
            "`config.yml` and no server; its latency is that of one batch. Ratios are to the faster of the two bare",
            "loops in the same round; medians over the rounds.", "",
            *table, "", note, "",
        ]
    )  # fmt: skip
    if file:
        file.write_text(text)
    print("\n".join([*table, "", note]))


def machine() -> str:
    """The cores that may be used, and what they are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{len(os.sched_getaffinity(0))} cores of {model}"


def versions() -> str:
    """What was measured with."""
    packages = ", ".join(f"{package} {version(package)}" for package in ("paddlepaddle", "opencv-python-headless"))
    return f"regnetx-serving {__version__}, Python {platform.python_version()}, {packages}"
