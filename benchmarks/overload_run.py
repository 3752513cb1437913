"""One subject under overload, in a process of its own: its capacity, then multiples of it, each on a fresh server.

python -m benchmarks.overload_run    a Task as JSON on standard input; a record a line, as JSON, on standard output
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.asking import ask
from benchmarks.forms import BadAnswer
from benchmarks.h2load import LoadError, closed_loop, warm_up
from benchmarks.launch import NotStarted, Running, launched
from benchmarks.overload_load import Order
from benchmarks.processes import cpu_seconds
from benchmarks.servers import SERVERS, Command, Place, Server
from benchmarks.subjects import ROOT

CALLERS = (32, 64)  # of the closed loop; the better one is the capacity. Twice as many must fit into the slots
SETTLE = 1.5  # seconds
PATIENCE = 10.0  # seconds
MARGIN = 60.0  # seconds, for a generator that does not end
SLOTS = 128  # config.yml's own; the other benchmarks need more for their 128 callers

Record = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What to measure of one subject. Times in seconds."""

    subject: str
    model: str  # serving_server
    image: str
    factors: list[float]
    seconds: float
    bound: float
    generator: list[int]  # cores of the load; the server gets those on which this process was started


def main() -> None:
    """The capacity, then a record a factor; one that failed has ``error`` and no figures."""
    task = Task(**json.load(sys.stdin))
    for record in measured(task):
        print(json.dumps(record), flush=True)


def measured(task: Task) -> Iterator[Record]:
    """Each record as soon as it is there. Without a capacity there is nothing to multiply, and so only its error."""
    server = subject(task.subject)
    image = Path(task.image).read_bytes()
    found = _on_fresh(server, task, image, lambda running, folder: _capacity(server, running, image, folder, task))
    yield found
    for factor in task.factors if "error" not in found else ():
        rate = factor * found["capacity"]

        def flood(running: Running, folder: Path, rate: float = rate) -> Record:
            return _flood(server, running, image, folder, task, rate)

        yield {"factor": factor} | _on_fresh(server, task, image, flood)


def subject(name: str) -> Server:
    """As in the other benchmarks; ours with the slots of config.yml."""
    server = SERVERS[name]
    if server.kind != "ours":
        return server

    def command(place: Place) -> Command:
        plain = server.command(place)
        return replace(plain, environment={**plain.environment, "REGNETX__NATIVE__SLOTS": str(SLOTS)})

    return replace(server, command=command, told=server.told.replace("256 slots", f"{SLOTS} slots"))


def _on_fresh(server: Server, task: Task, image: bytes, measure: Callable[[Running, Path], Record]) -> Record:
    """Nothing of the load before is left in the server."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with launched(server, Place(Path(folder), Path(task.model)), image) as running, _on(task.generator):
                return measure(running, Path(folder))
        except (NotStarted, LoadError, BadAnswer, OSError, RuntimeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}


@contextlib.contextmanager
def _on(cores: list[int]) -> Iterator[None]:
    """This process and those that it starts run there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _capacity(server: Server, running: Running, image: bytes, folder: Path, task: Task) -> Record:
    form, body = server.doors["http"], folder / "body"
    body.write_bytes(form.body(image))
    url = f"http://{running.addresses['http']}{form.path}"
    runs = []
    for callers in CALLERS:
        load: Record = {"concurrency": callers, "seconds": task.seconds, "folder": folder}
        warm_up(url, form.content_type, body, **load)
        ask(running.addresses["http"], form, image)  # whatever the end of that load left behind has been answered
        pids = running.pids()
        cpu = cpu_seconds(pids)
        seen = closed_loop(url, form.content_type, body, **load)
        runs.append((seen.images_per_second, callers, (cpu_seconds(running.pids()) - cpu) / seen.images, seen.p99))
    capacity, callers, cpu_an_image, p99 = max(runs)
    return {"told": server.told, "capacity": capacity, "callers": callers, "cpu_an_image": cpu_an_image, "p99": p99}


def _flood(server: Server, running: Running, image: bytes, folder: Path, task: Task, rate: float) -> Record:
    form, body = server.doors["http"], folder / "body"
    body.write_bytes(form.body(image))
    order = Order(
        running.addresses["http"], form.path, form.content_type, str(body), rate=rate, seconds=task.seconds + SETTLE,
        settle=SETTLE, patience=PATIENCE, bound=task.bound, probes=_probes(running),
    )  # fmt: skip
    cpu = cpu_seconds(running.pids())
    words = [sys.executable, "-m", "benchmarks.overload_load"]
    try:
        done = subprocess.run(
            words, cwd=ROOT, input=json.dumps(asdict(order)), capture_output=True, text=True,
            timeout=order.seconds + PATIENCE + MARGIN,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RuntimeError("the generator did not end") from None
    if done.returncode:
        raise RuntimeError((done.stderr.splitlines() or ["the generator said nothing"])[-1])
    spent = cpu_seconds(running.pids()) - cpu
    return json.loads(done.stdout) | {"server_cpu_seconds": spent, "afterwards": _afterwards(server, running, image)}


def _probes(running: Running) -> dict[str, tuple[str, str]]:
    """Of ours: health at the main door and at the operators'. Stock has none."""
    if "admin" not in running.addresses:
        return {}
    doors = {"main": running.addresses["http"], "admin": running.addresses["admin"]}
    return {f"{door} {path}": (address, path) for door, address in doors.items() for path in ("/healthz", "/readyz")}


def _afterwards(server: Server, running: Running, image: bytes) -> str:
    """Whether the next request is answered; empty if so."""
    try:
        server.doors["http"].label(ask(running.addresses["http"], server.doors["http"], image))
    except (OSError, BadAnswer) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
