"""Closed-loop load by h2load, which costs a hundredth of what a server does: HTTP/1.1, and gRPC as posted messages."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import quantile

COUNTS = re.compile(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$", re.MULTILINE)
STATUSES = re.compile(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", re.MULTILINE)
TRAFFIC = re.compile(r"^traffic: .* \((\d+)\) data$", re.MULTILINE)
WARM_UP = 0.5  # seconds, not counted
MARGIN = 60  # seconds, for a server that has stopped answering


class LoadError(Exception):
    """A run in which not every answer was good, so that its speed means nothing."""


@dataclass(frozen=True)
class Closed:
    """What one run saw."""

    images_per_second: float
    p50: float  # seconds
    p99: float
    images: int
    data_bytes: int  # of the answers' bodies, also of those that came when the time was over


def missing() -> str:
    """How to get h2load; empty where it is."""
    return (
        ""
        if shutil.which("h2load")
        else "h2load is missing; install it (Debian, Ubuntu: apt-get install nghttp2-client)"
    )


def warm_up(url: str, content_type: str, body: Path, *, concurrency: int, seconds: float, folder: Path) -> None:
    """The same load for a moment. NOTE h2load's own warm-up also counts the bytes that were answered meanwhile."""
    _run(url, content_type, body, concurrency, min(seconds, WARM_UP), folder / "warm-up.log")


def closed_loop(url: str, content_type: str, body: Path, *, concurrency: int, seconds: float, folder: Path) -> Closed:
    """So many connections, each of which asks again as soon as it is answered. Raises LoadError."""
    log = folder / "h2load.log"
    printed = _run(url, content_type, body, concurrency, seconds, log)
    return summary(printed, log.read_text() if log.exists() else "", seconds)


def _run(url: str, content_type: str, body: Path, concurrency: int, seconds: float, log: Path) -> str:
    log.unlink(missing_ok=True)  # it appends
    protocol = ["--header=te: trailers"] if content_type == "application/grpc" else ["--h1"]
    what = [f"--data={body}", f"--header=content-type: {content_type}", f"--log-file={log}", url]
    load = [f"--clients={concurrency}", f"--duration={round(seconds * 1000)}ms"]
    try:
        done = subprocess.run(
            ["h2load", *load, *protocol, *what], capture_output=True, text=True, timeout=seconds + MARGIN
        )
    except subprocess.TimeoutExpired:
        raise LoadError(f"no end {MARGIN} s after the load should have ended") from None
    return done.stdout + done.stderr


def summary(printed: str, log: str, seconds: float) -> Closed:
    """What h2load printed, and its log: a line an answer, start in us, status, time in us. Raises LoadError."""
    counts, statuses, traffic = (pattern.search(printed) for pattern in (COUNTS, STATUSES, TRAFFIC))
    if not (counts and statuses and traffic):
        raise LoadError(f"h2load said: {' '.join(printed.split())[-200:]}")
    good, *bad = map(int, counts.groups())
    if any(bad) or any(map(int, statuses.groups()[1:])):
        raise LoadError(f"of {good + sum(bad)} answers not all were good: {counts[0]}; {statuses[0]}")
    lines = [line.split() for line in log.splitlines()]
    if good == 0 or len(lines) < good:
        raise LoadError(f"{good} answers in {seconds:g} s")
    latencies = sorted(int(line[2]) / 1e6 for line in lines)
    return Closed(good / seconds, quantile(latencies, 0.5), quantile(latencies, 0.99), good, int(traffic[1]))
