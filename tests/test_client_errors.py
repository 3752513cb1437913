"""Whatever goes wrong over HTTP is one error of the client's tree, and no other library's."""

from __future__ import annotations

import inspect
import json
import socket
import struct
import threading
from collections.abc import Callable

import httpx
import pytest
from client_calls import IMAGE, both, mocked
from client_servers import free_port, raw_server, read_request

from regnetx_client import (
    BadRequest,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    RegnetError,
    ServerError,
    TooLarge,
    Unavailable,
)
from regnetx_client.deadline import Deadline
from regnetx_client.http_errors import translate


@both
def test_an_err_no_with_http_200_is_a_server_error(classify_batch: Callable) -> None:
    said = "Log_id: 0  Raise_msg: Incorrect padding"
    body = json.dumps({"err_no": 10000, "err_msg": said, "key": [], "value": [], "tensors": []}).encode()
    with pytest.raises(ServerError) as caught:
        classify_batch("http://test", [IMAGE], transport=mocked(200, body))
    assert (caught.value.err_no, caught.value.err_msg) == (10000, said)
    assert str(caught.value) == f"err_no 10000: {said}"


@both
def test_the_places_in_the_servers_own_code_are_left_out_of_the_message(classify_batch: Callable) -> None:
    frame = "Log_id: 0  Raise_msg: not an image  ClassName: Op.preprocess.<locals>.help  FunctionName: help"
    body = json.dumps({"err_no": 10000, "err_msg": frame, "key": [], "value": [], "tensors": []}).encode()
    with pytest.raises(ServerError) as caught:
        classify_batch("http://test", [IMAGE], transport=mocked(200, body))
    assert (str(caught.value), caught.value.err_msg) == ("err_no 10000: not an image", frame)


STATUSES = [
    (301, ProtocolError),
    (400, BadRequest),
    (401, BadRequest),
    (404, BadRequest),
    (405, BadRequest),
    (408, ServerError),
    (413, TooLarge),
    (418, BadRequest),
    (429, Overloaded),
    (500, ServerError),
    (501, ServerError),
    (502, Unavailable),
    (503, Unavailable),
    (504, DeadlineExceeded),
    (599, ServerError),
    (204, ProtocolError),
]


@both
@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_each_status_has_one_error(status: int, expected: type[RegnetError], classify_batch: Callable) -> None:
    body = b'{"error":"why","code":3,"message":"why","details":[]}'
    with pytest.raises(expected, match=f"HTTP {status}.*why") as caught:
        classify_batch("http://test", [IMAGE], transport=mocked(status, body))
    assert type(caught.value) is expected


def test_an_error_page_is_quoted_but_not_whole() -> None:
    with (
        Client("http://test", transport=mocked(404, b"<html>" + b"x" * 5000)) as client,
        pytest.raises(BadRequest) as caught,
    ):
        client.classify(IMAGE)
    assert "HTTP 404 Not Found: '<html>xxx" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_gateways_429_for_a_message_too_large_is_no_overload() -> None:
    body = b'{"error":"","code":8,"message":"grpc: received message larger than max (5242890 vs. 4194304)"}'
    with (
        Client("http://test", transport=mocked(429, body, {"retry-after": "0"}), retries=9) as client,
        pytest.raises(TooLarge, match="5242890"),
    ):
        client.classify(IMAGE)


@both
def test_a_refused_connection_is_told_with_the_address(classify_batch: Callable) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionFailed, match=url) as caught:
        classify_batch(url, [IMAGE])
    assert caught.value.sent is False


@both
def test_an_unknown_host_is_a_failed_connection(classify_batch: Callable) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        classify_batch("http://nowhere.invalid", [IMAGE])
    assert caught.value.sent is False


@both
def test_a_connection_reset_in_the_middle_of_the_answer_is_told(classify_batch: Callable) -> None:
    def serve(connection: socket.socket, over: threading.Event) -> None:
        read_request(connection)
        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"err_no":0,')
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(serve) as port, pytest.raises(ConnectionFailed) as caught:
        classify_batch(f"http://127.0.0.1:{port}", [IMAGE])
    assert caught.value.sent is True


@both
def test_a_server_that_hangs_up_without_a_word_is_a_failed_connection(classify_batch: Callable) -> None:
    with raw_server(lambda connection, over: read_request(connection)) as port, pytest.raises(ConnectionFailed):
        classify_batch(f"http://127.0.0.1:{port}", [IMAGE])


@both
def test_something_that_is_not_http_is_a_failed_connection(classify_batch: Callable) -> None:
    def serve(connection: socket.socket, over: threading.Event) -> None:
        read_request(connection)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with raw_server(serve) as port, pytest.raises(ConnectionFailed):
        classify_batch(f"http://127.0.0.1:{port}", [IMAGE])


def every_httpx_error() -> list[type[Exception]]:
    kinds = [kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return [kind for kind in kinds if kind not in (httpx.CookieConflict, httpx.HTTPStatusError)]


@pytest.mark.parametrize("kind", every_httpx_error())
@both
def test_no_exception_of_httpx_leaks(kind: type[Exception], classify_batch: Callable) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise kind("why") if inspect.signature(kind).parameters else kind()

    with pytest.raises(RegnetError):
        classify_batch("http://test", [IMAGE], transport=httpx.MockTransport(fail))


def test_a_timeout_of_the_connection_is_no_deadline_until_the_time_is_over() -> None:
    early, late = Deadline.after(60.0), Deadline.after(1e-9)
    assert isinstance(translate(httpx.ConnectTimeout(""), "http://test", early), ConnectionFailed)
    assert isinstance(translate(httpx.ConnectTimeout(""), "http://test", late), DeadlineExceeded)


def test_an_error_that_says_nothing_is_told_by_its_kind() -> None:
    assert str(translate(httpx.ReadError(""), "http://test", Deadline.after(60.0))) == "http://test: ReadError"
