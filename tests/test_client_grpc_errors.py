"""Whatever goes wrong over gRPC is one error of the client's tree; deadlines and retries are the same as over HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import pytest
from client_calls import IMAGE
from client_calls import both_grpc as both
from client_pipeline import Pipeline, pipeline, refusing
from client_servers import LABELS, class_of, free_port, raw_server

from regnetx_client import (
    BadRequest,
    ConnectionFailed,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    RegnetError,
    ServerError,
    TooLarge,
    Unavailable,
)
from regnetx_client.grpc import AsyncGrpcClient, GrpcClient
from regnetx_client.wire import pipeline_service_pb2 as wire


@both
def test_an_err_no_is_a_server_error(classify_batch: Callable) -> None:
    with pipeline() as server:
        server.respond = lambda *_: wire.Response(err_no=3002, err_msg="Service name error.")
        with pytest.raises(ServerError, match="err_no 3002: Service name error") as caught:
            classify_batch(server.address, [IMAGE])
    assert caught.value.err_no == 3002


@both
def test_an_answer_without_predictions_is_a_protocol_error(classify_batch: Callable) -> None:
    with pipeline() as server:
        server.respond = lambda *_: wire.Response(key=["score"], value=["[1.0]"])
        with pytest.raises(ProtocolError, match="no label and no prob in the answer"):
            classify_batch(server.address, [IMAGE])


CODES = {
    grpc.StatusCode.CANCELLED: ServerError,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.INVALID_ARGUMENT: BadRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: BadRequest,
    grpc.StatusCode.ALREADY_EXISTS: ServerError,
    grpc.StatusCode.PERMISSION_DENIED: BadRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: BadRequest,
    grpc.StatusCode.ABORTED: ServerError,
    grpc.StatusCode.OUT_OF_RANGE: BadRequest,
    grpc.StatusCode.UNIMPLEMENTED: BadRequest,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.UNAUTHENTICATED: BadRequest,
}


def test_every_code_of_grpc_has_its_error() -> None:
    assert {*CODES} == {*grpc.StatusCode} - {grpc.StatusCode.OK}


@both
@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_each_code_has_one_error_with_the_servers_words(code: grpc.StatusCode, classify_batch: Callable) -> None:
    with pipeline() as server:
        server.respond = refusing(code, "because")
        with pytest.raises(RegnetError, match="because") as caught:
            classify_batch(server.address, [IMAGE])
    assert type(caught.value) is CODES[code]


@both
def test_a_request_over_the_servers_size_limit_is_too_large(classify_batch: Callable) -> None:
    with pipeline() as server, pytest.raises(TooLarge, match="larger than max"):
        classify_batch(server.address, [bytes(2 << 20)])


@both
def test_a_refused_connection_is_told_with_the_address(classify_batch: Callable) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionFailed, match=address) as caught:
        classify_batch(address, [IMAGE])
    assert caught.value.sent is False


@both
def test_a_host_without_an_address_is_a_failed_connection(classify_batch: Callable) -> None:
    with pytest.raises((ConnectionFailed, DeadlineExceeded)):
        classify_batch("nowhere.invalid:1", [IMAGE], timeout=5)


@both
def test_something_that_is_not_grpc_is_a_failed_connection(classify_batch: Callable) -> None:
    def serve(connection: Any, over: threading.Event) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with raw_server(serve) as port, pytest.raises(ConnectionFailed):
        classify_batch(f"127.0.0.1:{port}", [IMAGE])


async def test_a_server_that_stops_in_the_middle_is_a_failed_connection_or_unavailable() -> None:
    entered, leave = threading.Event(), threading.Event()
    handler = Pipeline(respond=lambda *_: entered.set() or (leave.wait(30) and None))
    kind = type("Handler", (grpc.GenericRpcHandler,), {"service": lambda self, details: handler.service(details)})
    with futures.ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[kind()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        async with AsyncGrpcClient(f"127.0.0.1:{port}") as client:
            call = asyncio.create_task(client.classify(IMAGE))
            await asyncio.to_thread(entered.wait, 30)
            stopped = server.stop(0)
            with pytest.raises((ConnectionFailed, Unavailable, ServerError)):
                await call
            leave.set()
            await asyncio.to_thread(stopped.wait)


# --- deadlines and retries -----------------------------------------------------------------------


@both
def test_the_deadline_is_sent_and_ends_the_call(classify_batch: Callable) -> None:
    over = threading.Event()
    with pipeline() as server:
        server.respond = lambda *_: over.wait(30) and None
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s"):
            classify_batch(server.address, [IMAGE], timeout=0.2)
        over.set()
        classify_batch(server.address, [IMAGE])
        classify_batch(server.address, [IMAGE], timeout=None)
    left = [remaining for *_, remaining in server.requests]
    assert left[0] < 0.21
    assert 25 < left[1] < 31
    assert left[2] is None or left[2] > 1e6


@both
def test_a_peer_that_never_speaks_ends_with_the_deadline(classify_batch: Callable) -> None:
    with raw_server(lambda connection, over: over.wait(30)) as port, pytest.raises(DeadlineExceeded):
        classify_batch(f"127.0.0.1:{port}", [IMAGE], timeout=0.2)


@both
def test_a_peer_that_never_speaks_is_given_up_after_the_time_to_connect(classify_batch: Callable) -> None:
    with raw_server(lambda connection, over: over.wait(30)) as port, pytest.raises(ConnectionFailed) as caught:
        classify_batch(f"127.0.0.1:{port}", [IMAGE], timeout=None, connect_timeout=0.2)
    assert caught.value.sent is False


async def test_a_call_may_have_its_own_deadline() -> None:
    over = threading.Event()
    with pipeline() as server:
        server.respond = lambda *_: over.wait(30) and None
        async with AsyncGrpcClient(server.address, timeout=None) as client:
            with pytest.raises(DeadlineExceeded):
                await client.classify(IMAGE, timeout=0.1)
        over.set()


@both
@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_a_refusal_that_names_a_time_is_tried_again(code: grpc.StatusCode, classify_batch: Callable) -> None:
    with pipeline() as server:
        refuse = refusing(code, "full", ("retry-after", "0"))
        server.respond = lambda *given: refuse(*given) if len(server.requests) <= 2 else None
        rows = classify_batch(server.address, [IMAGE], retries=2)
    assert rows[0][0].label == LABELS[class_of(IMAGE)]
    assert len(server.requests) == 3


@both
@pytest.mark.parametrize(
    ("code", "metadata"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, []),
        (grpc.StatusCode.UNAVAILABLE, []),
        (grpc.StatusCode.INTERNAL, [("retry-after", "0")]),
    ],
)
def test_nothing_else_is_tried_again(code: grpc.StatusCode, metadata: list, classify_batch: Callable) -> None:
    with pipeline() as server:
        server.respond = refusing(code, "why", *metadata)
        with pytest.raises(RegnetError):
            classify_batch(server.address, [IMAGE], retries=5)
    assert len(server.requests) == 1


def test_a_server_that_comes_up_later_is_found() -> None:
    address = f"127.0.0.1:{free_port()}"
    with GrpcClient(address, retries=100) as client, futures.ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.classify, IMAGE)
        with pipeline(address=address):
            assert call.result()[0].label == LABELS[class_of(IMAGE)]
