"""The client over gRPC: what is sent, what comes back, readiness and the extra."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Callable
from concurrent import futures

import pytest
from client_calls import IMAGE
from client_calls import both_grpc as both
from client_pipeline import pipeline
from client_servers import LABELS, class_of, free_port

from regnetx_client import (
    BadRequest,
    Prediction,
    ProtocolError,
)
from regnetx_client.grpc import AsyncGrpcClient, GrpcClient
from regnetx_client.wire import pipeline_service_pb2 as wire


@both
def test_a_stock_server_gets_its_canonical_request_and_gives_the_best_prediction(classify_batch: Callable) -> None:
    with pipeline() as server:
        (row,) = classify_batch(server.address, [IMAGE], top_k=5, service="imagenet")
    assert row == [Prediction(LABELS[class_of(IMAGE)], 0.9341402053833008, None)]
    request, metadata, _ = server.requests[0]
    value = base64.b64encode(IMAGE).decode()
    assert request == wire.Request(key=["image"], value=[value], name="imagenet", method="prediction")
    assert metadata["x-top-k"] == "5"


@both
def test_a_server_that_knows_top_k_ranks_that_many_classes(classify_batch: Callable) -> None:
    with pipeline(knows_top_k=True) as server:
        (row,) = classify_batch(server.address, [IMAGE], top_k=3)
    assert [best.class_id for best in row] == [(class_of(IMAGE) + step) % 10 for step in range(3)]


@both
def test_a_batch_is_one_request_answered_in_its_order(classify_batch: Callable) -> None:
    images = [bytes([number]) for number in range(20)]
    with pipeline() as server:
        rows = classify_batch(server.address, images)
    assert [row[0].label for row in rows] == [LABELS[class_of(image)] for image in images]
    assert list(server.requests[0][0].key) == [f"image_{index}" for index in range(20)]


@both
def test_no_images_are_no_request(classify_batch: Callable) -> None:
    assert classify_batch("127.0.0.1:1", []) == []


@both
def test_metadata_of_the_caller_is_sent(classify_batch: Callable) -> None:
    with pipeline() as server:
        classify_batch(server.address, [IMAGE], metadata={"authorization": "Bearer x"})
    assert server.requests[0][1]["authorization"] == "Bearer x"


def test_one_connection_is_used_by_all_calls_and_threads() -> None:
    images = [str(number).encode() for number in range(100)]
    with pipeline() as server, GrpcClient(server.address) as client, futures.ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(client.classify, images))
    assert [row[0].label for row in rows] == [LABELS[class_of(image)] for image in images]
    assert len(server.peers) == 1


async def test_calls_in_flight_together_get_their_own_answers_over_one_connection() -> None:
    images = [str(number).encode() for number in range(100)]
    with pipeline() as server:
        async with AsyncGrpcClient(server.address) as client:
            rows = await asyncio.gather(*map(client.classify, images))
    assert [row[0].label for row in rows] == [LABELS[class_of(image)] for image in images]
    assert len(server.peers) == 1


@both
def test_an_answer_larger_than_grpcs_default_limit_is_read(classify_batch: Callable) -> None:
    labels = ["x" * 8000] * 600
    with pipeline() as server:
        server.respond = lambda *_: wire.Response(key=["label", "prob"], value=[str(labels), str([1.0] * 600)])
        rows = classify_batch(server.address, [IMAGE] * 600)
    assert [row[0].label for row in rows] == labels


@both
def test_an_answer_larger_than_what_was_asked_can_have_is_refused(classify_batch: Callable) -> None:
    with pipeline() as server:
        server.respond = lambda *_: wire.Response(key=["label", "prob"], value=["['a']", "[1.0]" + " " * (1 << 21)])
        with pytest.raises(ProtocolError, match=r"longer than 1056768 bytes$"):
            classify_batch(server.address, [IMAGE])


# --- readiness, arguments, the extra -------------------------------------------------------------


async def test_readiness_is_the_health_services_word() -> None:
    with pipeline(health=b"\x08\x01") as server, GrpcClient(server.address) as client:
        assert client.is_ready()
        async with AsyncGrpcClient(server.address) as other:
            assert await other.is_ready()
    with pipeline(health=b"\x08\x02") as server, GrpcClient(server.address) as client:
        assert not client.is_ready()


async def test_a_server_that_is_down_is_not_ready() -> None:
    address = f"127.0.0.1:{free_port()}"
    with GrpcClient(address) as client:
        assert not client.is_ready()
    async with AsyncGrpcClient(address) as client:
        assert not await client.is_ready()


def test_a_stock_server_has_no_readiness_to_tell() -> None:
    with pipeline() as server, GrpcClient(server.address) as client, pytest.raises(BadRequest, match="UNIMPLEMENTED"):
        client.is_ready()


@pytest.mark.parametrize("address", ["", "http://localhost:9993"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    for kind in (GrpcClient, AsyncGrpcClient):
        with pytest.raises(ValueError, match="is not like localhost:9993"):
            kind(address)


async def test_a_closed_client_says_so() -> None:
    client, other = GrpcClient("127.0.0.1:1"), AsyncGrpcClient("127.0.0.1:1")
    client.close()
    await other.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.classify(IMAGE)
    with pytest.raises(RuntimeError, match="closed"):
        await other.classify(IMAGE)


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf"])
def test_without_the_extra_the_error_names_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nimport regnetx_client.grpc"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="client")
    assert run.returncode == 1
    assert "ImportError: gRPC needs the extra 'grpc': pip install 'regnetx-client[grpc]'" in run.stderr
