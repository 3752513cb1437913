"""One subject in one situation, in a process of its own: start it, measure every cell, end it.

python -m benchmarks.measure    a Task as JSON on standard input; a record a line, as JSON, on standard output
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import settings
from benchmarks.asking import answer_sizes, ask
from benchmarks.forms import BadAnswer
from benchmarks.h2load import Closed, LoadError, closed_loop, warm_up
from benchmarks.launch import NotStarted, Running, launched
from benchmarks.open_loop import open_loop
from benchmarks.processes import cpu_seconds, forget_peaks, peak_memory
from benchmarks.servers import SERVERS, Place, Server

BARE = "bare"
DIGITS = 4  # by which the text of a score may be longer or shorter in a batch of another size
LOOP = "loop"  # the bare loop's only door; its concurrency is the size of a batch

Record = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What to measure of one subject."""

    subject: str
    model: str  # serving_server
    image: str
    labels: list[str]  # good answers
    cells: list[tuple[str, int]]  # door, concurrency
    shares: list[float]  # of capacity, for the open loop through door http
    seconds: float
    open_seconds: float


def main() -> None:
    """One record a cell; a cell that failed has ``error`` and no figures."""
    task = Task(**json.load(sys.stdin))
    with tempfile.TemporaryDirectory() as folder:
        records = _bare(task, Path(folder)) if task.subject == BARE else _server(task, Path(folder))
        for record in records:
            print(json.dumps(record), flush=True)


def _bare(task: Task, folder: Path) -> Iterator[Record]:
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump(settings.ours(Path(task.model), engine="auto")))
    for door, batch in task.cells:
        words = [str(config), str(batch), task.image, str(task.seconds)]
        done = subprocess.run([sys.executable, "-m", "benchmarks.bare_loop", *words], capture_output=True, text=True)
        what: Record = {"door": door, "concurrency": batch}
        if done.returncode:
            yield what | {"error": (done.stderr.splitlines() or ["it said nothing"])[-1]}
        else:
            yield what | json.loads(done.stdout.splitlines()[-1])


def _server(task: Task, folder: Path) -> Iterator[Record]:
    server, image = SERVERS[task.subject], Path(task.image).read_bytes()
    cells = [{"door": door, "concurrency": concurrency} for door, concurrency in task.cells]
    try:
        with launched(server, Place(folder, Path(task.model)), image) as running:
            capacity = 0.0
            for cell in cells:
                record = cell | _closed(task, server, running, image, folder, **cell)
                if cell["door"] == "http":
                    capacity = max(capacity, record.get("images_per_second", 0.0))
                yield record
            for share in task.shares if capacity else ():
                yield {"door": "http", "share": share} | _open(task, server, running, image, share * capacity)
    except NotStarted as error:
        yield from (cell | {"error": str(error)} for cell in cells)


def _closed(
    task: Task, server: Server, running: Running, image: bytes, folder: Path, door: str, concurrency: int
) -> Record:
    form, address = server.doors[door], running.addresses[door.partition("-")[0]]
    body = folder / "body"
    body.write_bytes(form.body(image))
    what = (f"http://{address}{form.path}", form.content_type, body)
    load: Record = {"concurrency": concurrency, "seconds": task.seconds, "folder": folder}
    try:
        sizes = [answer_sizes(address, form, image, task.labels)]
        warm_up(*what, **load)
        ask(address, form, image)  # whatever the end of that load left behind has been answered
        pids, before = running.pids(), answered(running)
        forget_peaks(pids)
        cpu = cpu_seconds(pids)
        seen = closed_loop(*what, **load)
        pids = running.pids()
        used = {"cpu_seconds": cpu_seconds(pids) - cpu, "peak_bytes": peak_memory(pids)}
        _check_counts(before, answered(running), seen.images)
        sizes.append(answer_sizes(address, form, image, task.labels))
        _check_size(seen, concurrency, sizes)
    except (LoadError, BadAnswer, OSError) as error:
        return {"error": str(error)}
    return asdict(seen) | used


def _check_size(seen: Closed, concurrency: int, sizes: list[tuple[int, int]]) -> None:
    """h2load reads no answers; but those of the image are alike, and an error's is not as long."""
    least, most = min(low for low, _ in sizes) - DIGITS, max(high for _, high in sizes) + DIGITS
    if not seen.images * least <= seen.data_bytes <= (seen.images + concurrency) * most:
        mean = seen.data_bytes / seen.images
        raise BadAnswer(f"answers had {mean:.1f} bytes on average, but good ones have {least} to {most}")


def answered(running: Running) -> dict[str, float]:
    """Requests by outcome, as our service counts them; of others empty."""
    if "admin" not in running.addresses:
        return {}
    with urllib.request.urlopen(f"http://{running.addresses['admin']}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    counts: dict[str, float] = {}
    for family in families:
        for sample in family.samples if family.name == "regnetx_requests" else ():
            if sample.name.endswith("_total"):
                counts[sample.labels["outcome"]] = counts.get(sample.labels["outcome"], 0) + sample.value
    return counts


def _check_counts(before: dict[str, float], after: dict[str, float], images: int) -> None:
    """``caller_left`` is of the requests that were in flight when the load ended."""
    told = {outcome: after[outcome] - before[outcome] for outcome in after if after[outcome] != before[outcome]}
    if not told:
        return
    if told.get("answered", 0) < images or set(told) - {"answered", "caller_left"}:
        raise BadAnswer(f"h2load counted {images} good answers, the service {told}")


def _open(task: Task, server: Server, running: Running, image: bytes, rate: float) -> Record:
    address, form = running.addresses["http"], server.doors["http"]
    load = open_loop(address, form, image, rate=rate, seconds=task.open_seconds)
    try:
        return asdict(uvloop.run(load))
    except* (RuntimeError, OSError, EOFError, BadAnswer) as group:
        error = group.exceptions[0]
    return {"rate": rate, "error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
