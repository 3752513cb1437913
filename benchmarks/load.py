"""Closed-loop load, as light as Python allows: prepared requests out, answers counted, latencies kept.

    python -m benchmarks.load DOOR ADDRESS IMAGE CONCURRENCY SECONDS    one line of JSON: a Result

DOOR is http or grpc, for base64; http-raw, http-form or grpc-bytes, for the file as it is.

It is a process of its own, on the same cores as the service: what it costs is part of what is measured.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
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
    cpu_seconds: float = 0.0  # where the run itself knows it
    peak_bytes: int = 0


class HttpConnection:
    """One connection that asks the same again and again, as light as asyncio's streams are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self._reader, self._writer, self._request = reader, writer, request

    @classmethod
    async def open(cls, address: str, path: str, body: bytes, content_type: str) -> HttpConnection:
        """Connected, with a request for this address. Raises OSError."""
        host, port = address.split(":")
        head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {content_type}\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        return cls(*await asyncio.open_connection(host, int(port)), request)

    async def ask(self) -> bytes:
        """The body of the answer. Raises RuntimeError for a status that is not 200, OSError or EOFError for none."""
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"answered with {head.splitlines()[0].decode(errors='replace')}")
        head = head.lower()
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            return await self._chunks()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(length)

    async def _chunks(self) -> bytes:
        """A body in chunks (RFC 9112, 7.1), as Ray Serve sends it."""
        parts: list[bytes] = []
        while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readuntil(b"\r\n")
        return b"".join(parts)

    async def close(self) -> None:
        """Until it is closed."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def http_load(address: str, body: bytes, content_type: str, concurrency: int, seconds: float) -> Result:
    """Every connection sends the image again as soon as it is answered. Raises RuntimeError for any error."""

    async def connection(stop: float) -> list[float]:
        connected = await HttpConnection.open(address, "/regnet/prediction", body, content_type)

        async def ask() -> bool:
            return (await connected.ask()).startswith(b'{"err_no":0,')

        latencies = await _repeat(ask, stop)
        await connected.close()
        return latencies

    return await _measure(connection, concurrency, seconds)


def http_body(door: str, file: bytes) -> tuple[bytes, str]:
    """The body that holds the file, and its Content-Type."""
    if door == "http-raw":
        return file, "image/jpeg"
    if door == "http-form":
        head = b'--boundary\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"\r\n\r\n'
        return head + file + b"\r\n--boundary--\r\n", "multipart/form-data; boundary=boundary"
    text = base64.b64encode(file).decode()
    return json.dumps({"key": ["image"], "value": [text]}).encode(), "application/json"


def grpc_request(door: str, file: bytes) -> wire.Request:
    """The message that holds the file."""
    if door == "grpc-bytes":
        return wire.Request(tensors=[wire.Tensor(name="image", elem_type=13, byte_data=file)])
    return wire.Request(key=["image"], value=[base64.b64encode(file).decode()])


async def grpc_load(address: str, request: wire.Request, concurrency: int, seconds: float) -> Result:
    """The same over one gRPC channel."""
    packet = request.SerializeToString()
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
    file = Path(image_file).read_bytes()
    if door.startswith("http"):
        load = http_load(address, *http_body(door, file), int(concurrency), float(seconds))
    else:
        load = grpc_load(address, grpc_request(door, file), int(concurrency), float(seconds))
    print(json.dumps(asdict(uvloop.run(load))))


if __name__ == "__main__":
    main(*sys.argv[1:])
