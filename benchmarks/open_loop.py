"""Open-loop load: arrivals of a Poisson process, each latency measured from the moment that was scheduled for it.

A server that stalls delays what arrives meanwhile, and that shows: nobody waits for an answer before the next request
is due. Existing tools do not do this over HTTP/1.1: h2load measures from when it could send, wrk and hey only ask again
when they are answered.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.forms import Form
from benchmarks.load import HttpConnection, quantile

CONNECTIONS = 128  # at most; who finds none free waits, and that counts
SEED = 0


@dataclass(frozen=True)
class Open:
    """What one run saw; every answer was good."""

    rate: float  # scheduled arrivals a second
    p50: float  # seconds
    p99: float
    images: int


def arrivals(rate: float, seconds: float, *, seed: int = SEED) -> list[float]:
    """Seconds from the start, of a Poisson process; the same for the same seed."""
    chance = random.Random(seed)
    times = [chance.expovariate(rate)]
    while times[-1] < seconds:
        times.append(times[-1] + chance.expovariate(rate))
    return times[:-1] or times


async def open_loop(address: str, form: Form, file: bytes, *, rate: float, seconds: float) -> Open:
    """Load at that rate, until all is answered. Raises RuntimeError, OSError, EOFError or BadAnswer for any error."""
    body = form.body(file)
    opened: list[HttpConnection] = []

    async def connect() -> Callable[[], Awaitable[None]]:
        connection = await HttpConnection.open(address, form.path, body, form.content_type)
        opened.append(connection)

        async def ask() -> None:
            form.label(await connection.ask())

        return ask

    try:
        latencies = sorted(await latencies_of(connect, arrivals(rate, seconds)))
    finally:
        for connection in opened:
            await connection.close()
    return Open(rate, quantile(latencies, 0.5), quantile(latencies, 0.99), len(latencies))


async def latencies_of(
    connect: Callable[[], Awaitable[Callable[[], Awaitable[None]]]], schedule: Sequence[float]
) -> list[float]:
    """Seconds from each scheduled arrival to its answer, in the order of arrival."""
    free: list[Callable[[], Awaitable[None]]] = []
    may_use = asyncio.Semaphore(CONNECTIONS)
    start = time.perf_counter()

    async def request(due: float) -> float:
        async with may_use:
            ask = free.pop() if free else await connect()
            await ask()
            free.append(ask)
        return time.perf_counter() - start - due

    async with asyncio.TaskGroup() as group:
        tasks = []
        for due in schedule:
            await asyncio.sleep(start + due - time.perf_counter())  # in the past: at once
            tasks.append(group.create_task(request(due)))
    return [task.result() for task in tasks]
