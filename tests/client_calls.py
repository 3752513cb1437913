"""The client's calls, waiting and for asyncio, behind one signature, so that a test can hold both to it."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from regnetx_client import AsyncClient, Client, Prediction
from regnetx_client.grpc import AsyncGrpcClient, GrpcClient

IMAGE = b"\xff\xd8 any bytes, the server decides"
STOCK = {"err_no": 0, "err_msg": "", "key": ["label", "prob"], "value": ["['daisy']", "[0.9341402053833008]"]}


def sync_batch(url: str, images: list, top_k: int = 1, **options: object) -> list[list[Prediction]]:
    with Client(url, **options) as client:
        return client.classify_batch(images, top_k)


def async_batch(url: str, images: list, top_k: int = 1, **options: object) -> list[list[Prediction]]:
    async def run() -> list[list[Prediction]]:
        async with AsyncClient(url, **options) as client:
            return await client.classify_batch(images, top_k)

    return asyncio.run(run())


both = pytest.mark.parametrize("classify_batch", [sync_batch, async_batch], ids=["sync", "async"])


def mocked(status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(status, content=content, headers=headers))


def texts(label: str, prob: str) -> httpx.MockTransport:
    return mocked(200, json.dumps({**STOCK, "value": [label, prob]}).encode())


def sync_batch_grpc(address: str, images: list, top_k: int = 1, **options: object) -> list[list[Prediction]]:
    with GrpcClient(address, **options) as client:
        return client.classify_batch(images, top_k)


def async_batch_grpc(address: str, images: list, top_k: int = 1, **options: object) -> list[list[Prediction]]:
    async def run() -> list[list[Prediction]]:
        async with AsyncGrpcClient(address, **options) as client:
            return await client.classify_batch(images, top_k)

    return asyncio.run(run())


both_grpc = pytest.mark.parametrize("classify_batch", [sync_batch_grpc, async_batch_grpc], ids=["sync", "async"])
