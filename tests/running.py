"""A real service, started as a user starts it, for the tests that talk to it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
START_SECONDS = 120  # a bound for a machine that is busy; a start takes a few seconds
READY = re.compile(
    r"ready: .* at (?:POST https?://(?P<http>\S+?)/(?P<name>[^/]+)/prediction)?(?: and )?"
    r"(?:gRPC (?P<rpc>\S+)(?: \(TLS\))?)?$"
)

ADMIN = re.compile(r"admin: http://(?P<admin>\S+) ")


@dataclass
class Service:
    """A running ``python -m service serve``."""

    process: subprocess.Popen[str]
    http: str  # host:port
    rpc: str
    name: str
    lines: list[str] = field(default_factory=list)
    admin: str = ""  # host:port of metrics and health, if that door is open
    log: Path = Path(os.devnull)  # its standard error, where ``serving`` was given a file for it

    @property
    def url(self) -> str:
        return f"http://{self.http}"

    @property
    def prediction_url(self) -> str:
        return f"{self.url}/{self.name}/prediction"

    def children(self) -> dict[str, list[int]]:
        """Process ids by kind: engine, frontend."""
        found: dict[str, list[int]] = {"engine": [], "frontend": []}
        for pid in children_of(self.process.pid):
            arguments = command_line(pid)
            for kind, module in (("engine", "service.native.engine_process"), ("frontend", "service.native.frontend")):
                if module in arguments:
                    found[kind].append(pid)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


def children_of(parent: int) -> list[int]:
    """Process ids of the living children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            # The second field, the name, is in parentheses and may hold anything.
            state, parent_id = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent_id) == parent and state != "Z":
                found.append(int(entry.name))
    return found


def command_line(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


def configuration(model: Path, **changes: Any) -> dict[str, Any]:
    """A configuration on free loopback ports; ``changes`` go to ``native``, ``op`` and ``local`` by name."""
    local = {"model_config": str(model), "thread_num": 1, **changes.pop("local", {})}
    op = {"batch_size": 8, **changes.pop("op", {}), "local_service_conf": local}
    native = {"host": "127.0.0.1", **changes.pop("native", {})}
    return {"http_port": 0, "rpc_port": 0, "op": {changes.pop("name", "regnet"): op}, "native": native, **changes}


def quick(model: Path, **changes: Any) -> dict[str, Any]:
    """``configuration`` with the engine that starts soonest, for what does not depend on the engine."""
    return configuration(model, **{**changes, "native": {"engine": "onnxruntime", **changes.get("native", {})}})


@contextlib.contextmanager
def serving(folder: Path, config: dict[str, Any], *, log: Path | None = None, **environment: str) -> Iterator[Service]:
    """The service with that configuration, ready; ended at the end if the test has not stopped it.

    ``log``: a file for its standard error, which else goes where the test's own goes.
    """
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump(config))
    with log.open("w") if log else contextlib.nullcontext() as stream:
        process = start(["serve", "--config", str(file)], environment, stderr=stream)
    try:
        service = wait_until_ready(process)
        service.log = log or service.log
        yield service
    finally:
        end(process)


def end(process: subprocess.Popen[Any], seconds: float = 60) -> None:
    """SIGTERM. One that does not end of it is killed, and TimeoutExpired raised."""
    try:
        process.terminate()  # nothing, if it has ended
        process.wait(seconds)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ends_before_it_is_ready(process: subprocess.Popen[str]) -> None:
    """SIGTERM to a service whose engine and frontend load; its standard error is a pipe. It leaves nothing behind."""
    wait_for(lambda: len(children_of(process.pid)) == 2)
    children = children_of(process.pid)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert not any(is_alive(pid) for pid in children)


def descriptors_of(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def start(arguments: list[str], environment: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """``python -m service`` with those arguments; standard error goes where the test's own goes."""
    return subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_until_ready(process: subprocess.Popen[str]) -> Service:
    """Read standard output up to the ready line and the line to paste."""
    assert process.stdout is not None
    lines: list[str] = []
    give_up = time.monotonic() + START_SECONDS
    while not any(line.startswith("ready:") for line in lines):
        readable, _, _ = select.select([process.stdout], [], [], max(0, give_up - time.monotonic()))
        line = process.stdout.readline() if readable else ""
        if not line:
            process.kill()
            raise AssertionError(f"the service was not ready; it said {lines}, exit code {process.wait()}")
        lines.append(line.rstrip("\n"))
    match = READY.search(lines[-1])
    assert match, lines[-1]
    if match["http"]:
        lines.append(process.stdout.readline().rstrip("\n"))
    admin = next(filter(None, map(ADMIN.match, lines)), None)
    return Service(
        process, match["http"] or "", match["rpc"] or "", match["name"] or "", lines, admin["admin"] if admin else ""
    )


def is_alive(pid: int) -> bool:
    """Whether a process is running: not gone and not waiting to be reaped."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition: Any, seconds: float = 30) -> None:
    """Until a condition of another process holds, which sends no event; fails after ``seconds``."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come to that in time"
        time.sleep(0.01)
