"""The client over HTTP: what is sent, what comes back, and how connections are kept."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from client_calls import IMAGE, both, mocked
from client_servers import LABELS, class_of, free_port, gateway

from regnetx_client import (
    AsyncClient,
    BadRequest,
    Client,
    Prediction,
)


@both
def test_a_stock_server_gets_its_canonical_request_and_gives_the_best_prediction(classify_batch: Callable) -> None:
    with gateway() as server:
        (row,) = classify_batch(server.url, [IMAGE], top_k=5, service="imagenet")
    assert row == [Prediction(LABELS[class_of(IMAGE)], 0.9341402053833008, None)]
    path, headers, body = server.requests[0]
    assert path == "/imagenet/prediction"
    assert body == {"key": ["image"], "value": [base64.b64encode(IMAGE).decode()]}
    assert headers["content-type"] == "application/json"


@both
def test_a_server_that_knows_top_k_ranks_that_many_classes(classify_batch: Callable) -> None:
    with gateway(knows_top_k=True) as server:
        (row,) = classify_batch(server.url, [IMAGE], top_k=3)
    assert [best.class_id for best in row] == [(class_of(IMAGE) + step) % 10 for step in range(3)]
    assert [best.prob for best in row] == [0.5, 0.25, 0.125]
    assert server.requests[0][1]["x-top-k"] == "3"


@both
def test_a_batch_is_one_request_answered_in_its_order(classify_batch: Callable) -> None:
    images = [bytes([number]) for number in range(20)]
    with gateway() as server:
        rows = classify_batch(server.url, images)
    assert [row[0].label for row in rows] == [LABELS[class_of(image)] for image in images]
    assert len(server.requests) == 1
    assert server.requests[0][2]["key"] == [f"image_{index}" for index in range(20)]


@both
def test_no_images_are_no_request(classify_batch: Callable) -> None:
    with gateway() as server:
        assert classify_batch(server.url, []) == []
    assert server.requests == []


def test_the_four_lines_of_the_readme_work(tmp_path) -> None:
    (tmp_path / "daisy.jpg").write_bytes(IMAGE)
    with gateway(knows_top_k=True) as server, Client(server.url) as client:
        best, *others = client.classify(tmp_path / "daisy.jpg", top_k=5)
    assert best.class_id == class_of(IMAGE)
    assert len(others) == 4


# --- connections, threads, tasks -----------------------------------------------------------------


def test_one_connection_is_used_again_and_again() -> None:
    with gateway() as server, Client(server.url) as client:
        for _ in range(5):
            client.classify(IMAGE)
    assert len(server.connections) == 1


async def test_one_connection_is_used_again_and_again_by_tasks() -> None:
    with gateway() as server:
        async with AsyncClient(server.url) as client:
            for _ in range(5):
                await client.classify(IMAGE)
    assert len(server.connections) == 1


def test_threads_that_share_a_client_get_their_own_answers() -> None:
    images = [str(number).encode() for number in range(200)]
    with gateway() as server, Client(server.url) as client, ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(client.classify, images))
    assert [row[0].label for row in rows] == [LABELS[class_of(image)] for image in images]
    assert len(server.connections) <= 8


async def test_calls_in_flight_together_get_their_own_answers() -> None:
    images = [str(number).encode() for number in range(200)]
    with gateway() as server:
        async with AsyncClient(server.url, connections=8) as client:
            rows = await asyncio.gather(*map(client.classify, images))
    assert [row[0].label for row in rows] == [LABELS[class_of(image)] for image in images]
    assert len(server.connections) <= 8


async def test_a_cancelled_call_leaves_the_client_usable() -> None:
    with gateway() as server:
        entered, leave = threading.Event(), threading.Event()

        def refuse(values: list[str]) -> None:
            entered.set()
            leave.wait(30)

        server.refuse = refuse
        async with AsyncClient(server.url) as client:
            call = asyncio.create_task(client.classify(IMAGE))
            await asyncio.to_thread(entered.wait, 30)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            leave.set()
            assert (await client.classify(IMAGE))[0].label == LABELS[class_of(IMAGE)]


def test_a_closed_client_says_so() -> None:
    client = Client("http://test", transport=mocked(200))
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.classify(IMAGE)


# --- readiness -----------------------------------------------------------------------------------


async def test_readiness_is_the_servers_word() -> None:
    with gateway(knows_top_k=True) as server, Client(server.url) as client:
        assert client.is_ready()
        async with AsyncClient(server.url) as other:
            assert await other.is_ready()


def test_a_server_that_is_down_or_draining_is_not_ready() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client:
        assert not client.is_ready()
    with Client("http://test", transport=mocked(503)) as client:
        assert not client.is_ready()


def test_a_stock_server_has_no_readiness_to_tell() -> None:
    with gateway() as server, Client(server.url) as client, pytest.raises(BadRequest, match="404"):
        client.is_ready()
