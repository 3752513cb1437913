"""Closed-loop load, as light as Python allows: prepared requests out, answers counted, latencies kept.

    python -m benchmarks.load http|grpc ADDRESS IMAGE CONCURRENCY SECONDS    one line of JSON: a Result

It is a process of its own, on the same cores as the service: what it costs is part of what is measured.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import uvloop

from regnetx_client.wire import pipeline_service_pb2 as wire

METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"

Ask = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Result:
    """What one run saw; every answer must have had ``err_no`` 0."""

    images_per_second: float
    p50: float  # seconds
    p99: float
    images: int


async def http_load(address: str, text: str, concurrency: int, seconds: float) -> Result:
    """Every connection sends the image again as soon as it is answered. Raises RuntimeError for any error."""
    host, port = address.split(":")
    body = json.dumps({"key": ["image"], "value": [text]})
    head = f"POST /regnet/prediction HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
    request = (head + body).encode()

    async def connection(stop: float) -> list[float]:
        reader, writer = await asyncio.open_connection(host, int(port))

        async def ask() -> bool:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return (await reader.readexactly(length)).startswith(b'{"err_no":0,')

        latencies = await _repeat(ask, stop)
        writer.close()
        return latencies

    return await _measure(connection, concurrency, seconds)


async def grpc_load(address: str, text: str, concurrency: int, seconds: float) -> Result:
    """The same over one gRPC channel."""
    packet = wire.Request(key=["image"], value=[text]).SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary(METHOD)

        async def ask() -> bool:
            return wire.Response.FromString(await method(packet)).err_no == 0

        return await _measure(lambda stop: _repeat(ask, stop), concurrency, seconds)


async def _repeat(ask: Ask, stop: float) -> list[float]:
    latencies = []
    now = time.perf_counter()
    while now < stop:
        if not await ask():
            raise RuntimeError("the service answered with an error")
        answered = time.perf_counter()
        latencies.append(answered - now)
        now = answered
    return latencies


async def _measure(worker: Callable[[float], Awaitable[list[float]]], concurrency: int, seconds: float) -> Result:
    start = time.perf_counter()
    parts = await asyncio.gather(*(worker(start + seconds) for _ in range(concurrency)))
    elapsed = time.perf_counter() - start
    latencies = sorted(latency for part in parts for latency in part)
    return Result(len(latencies) / elapsed, quantile(latencies, 0.5), quantile(latencies, 0.99), len(latencies))


def quantile(ordered: list[float], share: float) -> float:
    """The value below which that share of the ordered values lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main(door: str, address: str, image_file: str, concurrency: str, seconds: str) -> None:
    """One run of one load."""
    text = base64.b64encode(Path(image_file).read_bytes()).decode()
    load = {"http": http_load, "grpc": grpc_load}[door]
    print(json.dumps(asdict(uvloop.run(load(address, text, int(concurrency), float(seconds))))))


if __name__ == "__main__":
    main(*sys.argv[1:])
