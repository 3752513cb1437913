"""Real replicas of one model on addresses of the loopback, and load that tells which of them answered."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from conftest import DIGITS
from running import Service, children_of, is_alive, quick, start, wait_for, wait_until_ready

from regnetx_client import AsyncClient, Client, RegnetError
from regnetx_client.grpc import AsyncGrpcClient, GrpcClient

NAME = "regnetx.test"
SAMPLES = [(path.read_bytes(), path.stem) for path in sorted((DIGITS / "samples").iterdir())]
MOST_SECONDS = 90  # of load, whatever happens
PACE = 0.02  # seconds between two calls of one caller: enough load, and time for others on a small machine


def kill(process: subprocess.Popen[str]) -> None:
    """All its processes at once, as when a machine loses power, but that the kernel still closes the sockets."""
    processes = [process.pid, *children_of(process.pid)]
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    assert process.stdout is not None
    process.stdout.close()
    wait_for(lambda: not any(is_alive(pid) for pid in processes))


@dataclass
class ReplicaSet:
    """Replicas of the digits model, all on the same two ports. The labels of each end in ``@`` and its host."""

    folder: Path
    model: Path  # the folder that holds serving_server and labels.txt
    http_port: int
    rpc_port: int
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, *hosts: str, **native: Any) -> list[Service]:
        """More replicas, side by side; returned when all are ready."""
        for host in hosts:
            self.running[host] = self._process(host, native)
        return [wait_until_ready(self.running[host]) for host in hosts]

    def complete(self) -> None:
        """Three replicas at least, whatever the test before has left."""
        missing = [host for host in (f"127.0.0.{number}" for number in (1, 2, 3)) if host not in self.running]
        self.start(*missing[: max(0, 3 - len(self.running))])

    def kill(self, host: str) -> None:
        kill(self.running.pop(host))

    def terminate(self, host: str) -> int:
        """As Kubernetes ends a pod; returns the exit status."""
        process = self.running[host]
        process.terminate()
        process.wait(60)
        self.kill(host)
        return int(process.returncode)

    @property
    def urls(self) -> list[str]:
        return [f"http://{host}:{self.http_port}" for host in self.running]

    @property
    def addresses(self) -> list[str]:
        return [f"{host}:{self.rpc_port}" for host in self.running]

    def _process(self, host: str, native: dict[str, Any]) -> subprocess.Popen[str]:
        model = self.folder / host
        if not model.exists():
            shutil.copytree(self.model, model)
            labels = (model / "labels.txt").read_text().splitlines()
            (model / "labels.txt").write_text("".join(f"{label}@{host}\n" for label in labels))
        native = {"host": host, "drain_delay_ms": 500, **native}
        config = quick(model / "serving_server", native=native, http_port=self.http_port, rpc_port=self.rpc_port)
        file = self.folder / f"{host}.yml"
        file.write_text(yaml.safe_dump(config))
        return start(["serve", "--config", str(file)], start_new_session=True)


@contextmanager
def replica_set(folder: Path, digits_model: Path) -> Iterator[ReplicaSet]:
    """None runs at first, none at the end."""
    replicas = ReplicaSet(folder, digits_model.parent, _port_free_on_all(), _port_free_on_all())
    try:
        yield replicas
    finally:
        for host in list(replicas.running):
            replicas.kill(host)


def _port_free_on_all() -> int:
    """Loopback addresses have ports of their own, so one that is free on the first may be taken on another."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if all(_is_free(f"127.0.0.{number}", port) for number in range(2, 10)):
                return port


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        with suppress(OSError):
            probe.bind((host, port))
            return True
        return False


@dataclass(frozen=True)
class Outcome:
    """What became of one call."""

    began: float
    ended: float
    expected: str  # the label of the image that was sent
    got: str = ""  # label@host
    error: RegnetError | None = None

    @property
    def label(self) -> str:
        return self.got.partition("@")[0]

    @property
    def host(self) -> str:
        return self.got.partition("@")[2]


@dataclass
class Load:
    """Calls by a few callers of one client until told to stop."""

    kind: str
    outcomes: list[Outcome] = field(default_factory=list)

    def hosts(self, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
        """How many calls that began and ended in that time were answered by each replica."""
        return Counter(one.host for one in self.outcomes if since <= one.began and one.ended < until and one.got)

    @property
    def errors(self) -> list[str]:
        return [f"{type(one.error).__name__}: {one.error}" for one in self.outcomes if one.error]


def calls_of(client: Client | GrpcClient, load: Load, caller: int, stop: threading.Event) -> None:
    give_up = time.monotonic() + MOST_SECONDS
    turn = caller
    while not stop.wait(PACE) and time.monotonic() < give_up:
        image, expected = SAMPLES[turn % len(SAMPLES)]
        began, turn = time.monotonic(), turn + 1
        try:
            got = client.classify(image)[0].label
            load.outcomes.append(Outcome(began, time.monotonic(), expected, got))
        except RegnetError as error:
            load.outcomes.append(Outcome(began, time.monotonic(), expected, error=error))


async def async_calls_of(client: AsyncClient | AsyncGrpcClient, load: Load, caller: int, stop: threading.Event) -> None:
    give_up = time.monotonic() + MOST_SECONDS
    turn = caller
    while not stop.is_set() and time.monotonic() < give_up:
        await asyncio.sleep(PACE)
        image, expected = SAMPLES[turn % len(SAMPLES)]
        began, turn = time.monotonic(), turn + 1
        try:
            got = (await client.classify(image))[0].label
            load.outcomes.append(Outcome(began, time.monotonic(), expected, got))
        except RegnetError as error:
            load.outcomes.append(Outcome(began, time.monotonic(), expected, error=error))


def _calling(opened: Callable[[], Any], load: Load, callers: int, stop: threading.Event) -> None:
    """In a thread of its own: the client, shared by its callers."""
    with opened() as client:
        threads = [threading.Thread(target=calls_of, args=(client, load, number, stop)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _calling_async(opened: Callable[[], Any], load: Load, callers: int, stop: threading.Event) -> None:
    async def run() -> None:
        async with opened() as client:
            await asyncio.gather(*(async_calls_of(client, load, number, stop) for number in range(callers)))

    asyncio.run(run())


@contextmanager
def under_load(clients: dict[str, Callable[[], Any]], callers: int = 3) -> Iterator[dict[str, Load]]:
    """All these clients call at the same time while the block runs; those whose kind begins with async use asyncio."""
    stop = threading.Event()
    loads = {kind: Load(kind) for kind in clients}
    threads = [
        threading.Thread(
            target=_calling_async if kind.startswith("async") else _calling, args=(opened, loads[kind], callers, stop)
        )
        for kind, opened in clients.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield loads
    finally:
        stop.set()
        for thread in threads:
            thread.join()
