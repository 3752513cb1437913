"""A call ends in time, and is repeated only where no work is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import httpx
import pytest
from client_calls import IMAGE, STOCK, both
from client_servers import gateway, raw_server, read_request

from regnetx_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Overloaded,
    RegnetError,
)
from regnetx_client.http_messages import grpc_timeout, retry_after


def hold(connection: socket.socket, over: threading.Event) -> None:
    read_request(connection)
    over.wait(30)


def drip(connection: socket.socket, over: threading.Event) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while not over.wait(0.02):
        connection.sendall(b" ")


@both
@pytest.mark.parametrize("serve", [hold, drip])
def test_the_deadline_ends_a_call_however_the_server_is_slow(serve: Callable, classify_batch: Callable) -> None:
    with raw_server(serve) as port, pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s"):
        classify_batch(f"http://127.0.0.1:{port}", [IMAGE], timeout=0.2)


@both
def test_the_deadline_is_sent_to_the_server(classify_batch: Callable) -> None:
    with gateway() as server:
        classify_batch(server.url, [IMAGE])
        classify_batch(server.url, [IMAGE], timeout=2.5)
        classify_batch(server.url, [IMAGE], timeout=None)
    sent = [headers.get("grpc-timeout") for _, headers, _ in server.requests]
    assert 29_000 < int(sent[0].rstrip("m")) <= 30_000
    assert 2_000 < int(sent[1].rstrip("m")) <= 2_500
    assert sent[2] is None


def test_a_call_may_have_its_own_deadline() -> None:
    with (
        raw_server(hold) as port,
        Client(f"http://127.0.0.1:{port}", timeout=None) as client,
        pytest.raises(DeadlineExceeded),
    ):
        client.classify(IMAGE, timeout=0.1)


async def test_an_async_call_may_have_its_own_deadline() -> None:
    with raw_server(hold) as port:
        async with AsyncClient(f"http://127.0.0.1:{port}", timeout=None) as client:
            with pytest.raises(DeadlineExceeded):
                await client.classify(IMAGE, timeout=0.1)


def test_waiting_for_a_free_connection_counts() -> None:
    with (
        raw_server(hold) as port,
        Client(f"http://127.0.0.1:{port}", timeout=0.3, connections=1) as client,
        ThreadPoolExecutor(3) as threads,
    ):
        calls = [threads.submit(client.classify, IMAGE) for _ in range(3)]
    assert all(isinstance(call.exception(), DeadlineExceeded) for call in calls)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (30.0, "30000m"),
        (0.0001, "1m"),
        (1.2345, "1235m"),
        (99_999.999, "99999999m"),
        (1e6, "1000000S"),
        (1e12, "99999999S"),
    ],
)
def test_deadlines_are_written_as_grpc_does(seconds: float, text: str) -> None:
    assert grpc_timeout(seconds) == text


# --- retries -------------------------------------------------------------------------------------


def twice_refused(status: int, headers: dict[str, str]) -> tuple[httpx.MockTransport, list[int]]:
    statuses: list[int] = []

    def respond(request: httpx.Request) -> httpx.Response:
        statuses.append(status if len(statuses) < 2 else 200)
        return httpx.Response(statuses[-1], json=STOCK, headers=headers)

    return httpx.MockTransport(respond), statuses


@both
@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_that_names_a_time_is_tried_again(status: int, classify_batch: Callable) -> None:
    transport, statuses = twice_refused(status, {"retry-after": "0"})
    rows = classify_batch("http://test", [IMAGE], transport=transport, retries=2)
    assert rows[0][0].label == "daisy"
    assert statuses == [status, status, 200]


@both
@pytest.mark.parametrize(
    ("status", "headers", "retries"),
    [
        (429, {}, 5),
        (503, {}, 5),
        (500, {"retry-after": "0"}, 5),
        (504, {"retry-after": "0"}, 5),
        (429, {"retry-after": "0"}, 0),
    ],
)
def test_nothing_else_is_tried_again(status: int, headers: dict, retries: int, classify_batch: Callable) -> None:
    transport, statuses = twice_refused(status, headers)
    with pytest.raises(RegnetError):
        classify_batch("http://test", [IMAGE], transport=transport, retries=retries)
    assert statuses == [status]


@both
def test_no_more_tries_are_made_than_allowed(classify_batch: Callable) -> None:
    transport, statuses = twice_refused(429, {"retry-after": "0"})
    with pytest.raises(Overloaded):
        classify_batch("http://test", [IMAGE], transport=transport, retries=1)
    assert statuses == [429, 429]


@both
def test_a_pause_longer_than_the_deadline_is_not_begun(classify_batch: Callable) -> None:
    transport, statuses = twice_refused(429, {"retry-after": "3600"})
    with pytest.raises(Overloaded) as caught:
        classify_batch("http://test", [IMAGE], transport=transport, retries=5)
    assert statuses == [429]
    assert caught.value.retry_after == 3600


@both
def test_a_server_that_comes_up_later_is_found(classify_batch: Callable) -> None:
    refused: list[int] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if len(refused) < 2:
            refused.append(1)
            raise httpx.ConnectError("connection refused")
        return httpx.Response(200, json=STOCK)

    rows = classify_batch("http://test", [IMAGE], transport=httpx.MockTransport(respond), retries=2)
    assert rows[0][0].label == "daisy"


@both
def test_a_request_that_may_have_arrived_is_not_sent_twice(classify_batch: Callable) -> None:
    arrived: list[int] = []

    def serve(connection: socket.socket, over: threading.Event) -> None:
        read_request(connection)
        arrived.append(1)

    with raw_server(serve) as port, pytest.raises(ConnectionFailed):
        classify_batch(f"http://127.0.0.1:{port}", [IMAGE], retries=5)
    assert arrived == [1]


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    later = formatdate(time.time() + 100, usegmt=True)
    assert retry_after("3") == 3.0
    assert retry_after("0.5") == 0.5
    assert 90 < retry_after(later) <= 100
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [retry_after(text) for text in (None, "", "soon", "-1", "nan", "²")] == [None] * 6
    assert retry_after("9" * 400) == 86_400.0
