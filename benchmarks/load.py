"""Closed-loop load, as light as Python allows: prepared requests out, answers counted, latencies kept.

It runs in a process of its own, on the same cores as the service: what it costs is part of what is measured.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import grpc
import uvloop

from regnetx_client.wire import pipeline_service_pb2 as wire

METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"


@dataclass(frozen=True)
class Result:
    """What one run of one load saw; only answers with ``err_no`` 0 count."""

    images_per_second: float
    p50: float  # seconds
    p99: float


def http_load(address: str, body: bytes, *, concurrency: int, seconds: float) -> Result:
    """Every connection sends ``body`` again as soon as it is answered. Raises RuntimeError for any other answer."""
    host, port = address.split(":")
    head = f"POST /regnet/prediction HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n"

    async def connect(stop: float) -> list[float]:
        reader, writer = await asyncio.open_connection(host, int(port))

        async def ask() -> bool:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return (await reader.readexactly(length)).startswith(b'{"err_no":0,')

        latencies = await _repeat(ask, stop)
        writer.close()
        return latencies

    return uvloop.run(_run(connect, concurrency, seconds))


def grpc_load(address: str, body: bytes, *, concurrency: int, seconds: float) -> Result:
    """The same over one gRPC channel; ``body`` is a serialized Request."""

    async def run() -> Result:
        async with grpc.aio.insecure_channel(address) as channel:
            method = channel.unary_unary(METHOD)

            async def ask() -> bool:
                return wire.Response.FromString(await method(body)).err_no == 0

            return await _run(lambda stop: _repeat(ask, stop), concurrency, seconds)

    return uvloop.run(run())


async def _repeat(ask, stop: float) -> list[float]:
    latencies = []
    now = time.perf_counter()
    while now < stop:
        if not await ask():
            raise RuntimeError("the service answered with an error")
        answered = time.perf_counter()
        latencies.append(answered - now)
        now = answered
    return latencies


async def _run(worker, concurrency: int, seconds: float) -> Result:
    start = time.perf_counter()
    parts = await asyncio.gather(*(worker(start + seconds) for _ in range(concurrency)))
    elapsed = time.perf_counter() - start
    latencies = sorted(latency for part in parts for latency in part)
    return Result(len(latencies) / elapsed, quantile(latencies, 0.5), quantile(latencies, 0.99))


def quantile(ordered: list[float], share: float) -> float:
    """The value below which that share of the ordered values lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
