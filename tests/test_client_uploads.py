"""The form in which the client sends images: base64 until a server says that it takes them as they are, then that."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from client_calls import IMAGE, async_batch, async_batch_grpc, both, both_grpc, sync_batch, sync_batch_grpc
from client_command import label, photo_folder, run
from client_pipeline import Pipeline, pipeline, refusing
from client_servers import LABELS, Gateway, class_of, gateway
from forms import FORM, form, part
from running import Service

from regnetx_client import AsyncClient, BadRequest, Client, DeadlineExceeded, Overloaded, ServerError, uploads
from regnetx_client.grpc import AsyncGrpcClient, GrpcClient
from regnetx_client.npy import npy
from regnetx_client.wire import pipeline_service_pb2 as wire
from serving_models.bundled.digits.held_out import held_out

JSON, OCTETS, FORM_DATA = "application/json", "application/octet-stream", "multipart/form-data"
BATCH = [b"one", b"two" * 100_000, b"\r\n--three", b"four"]
DIGITS = held_out().images[:3]


def labels(rows: list) -> list[str]:
    return [row[0].label for row in rows]


def of(images: list[bytes]) -> list[str]:
    return [LABELS[class_of(image)] for image in images]


def types(server: Gateway) -> list[str]:
    return [headers["content-type"].partition(";")[0] for _, headers, _ in server.requests]


def sync_calls(url: Any, batches: list[list[bytes]], between: Callable = lambda turn: None, **options: Any) -> list:
    with Client(url, **options) as client:
        return [(labels(client.classify_batch(batch)), between(turn))[0] for turn, batch in enumerate(batches)]


def async_calls(url: Any, batches: list[list[bytes]], between: Callable = lambda turn: None, **options: Any) -> list:
    async def go() -> list:
        async with AsyncClient(url, **options) as client:
            return [
                (labels(await client.classify_batch(batch)), between(turn))[0] for turn, batch in enumerate(batches)
            ]

    return asyncio.run(go())


def sync_calls_grpc(
    url: Any, batches: list[list[bytes]], between: Callable = lambda turn: None, **options: Any
) -> list:
    with GrpcClient(url, **options) as client:
        return [(labels(client.classify_batch(batch)), between(turn))[0] for turn, batch in enumerate(batches)]


def async_calls_grpc(
    url: Any, batches: list[list[bytes]], between: Callable = lambda turn: None, **options: Any
) -> list:
    async def go() -> list:
        async with AsyncGrpcClient(url, **options) as client:
            return [
                (labels(await client.classify_batch(batch)), between(turn))[0] for turn, batch in enumerate(batches)
            ]

    return asyncio.run(go())


many = pytest.mark.parametrize("calls", [sync_calls, async_calls], ids=["sync", "async"])
many_grpc = pytest.mark.parametrize("calls", [sync_calls_grpc, async_calls_grpc], ids=["sync", "async"])


# --- HTTP ------------------------------------------------------------------------------------------------------------


@many
def test_once_a_server_has_said_so_a_lone_image_goes_as_it_is_and_several_as_a_form(calls: Callable) -> None:
    with gateway(takes_bytes=True) as server:
        batches = [BATCH, [IMAGE], BATCH, [b"x" * 1_000_000]]
        assert calls(server.url, batches) == [of(batch) for batch in batches]
    assert types(server) == [JSON, OCTETS, FORM_DATA, OCTETS]
    assert server.requests[0][2] == server.requests[2][2]  # the same keys, files and order
    assert [headers["x-top-k"] for _, headers, _ in server.requests] == ["1"] * 4
    assert int(server.requests[3][1]["content-length"]) == 1_000_000


@many
def test_a_server_that_has_not_said_so_gets_base64_and_one_request_a_call(calls: Callable) -> None:
    with gateway() as server:
        batches = [[IMAGE], BATCH, [b"x" * 1_000_000], [IMAGE]]
        assert calls(server.url, batches) == [of(batch) for batch in batches]
    assert types(server) == [JSON] * 4


@both
def test_one_form_can_be_asked_for(classify_batch: Callable) -> None:
    with gateway(takes_bytes=True) as server:
        assert labels(classify_batch(server.url, [IMAGE], upload="binary")) == of([IMAGE])
        assert labels(classify_batch(server.url, BATCH, upload="binary")) == of(BATCH)
    assert types(server) == [OCTETS, FORM_DATA]
    with gateway() as server, pytest.raises(BadRequest, match="invalid character"):
        classify_batch(server.url, [IMAGE], upload="binary")
    assert types(server) == [OCTETS]  # and nothing is tried in its place


@many
def test_with_base64_asked_for_no_offer_is_taken(calls: Callable) -> None:
    with gateway(takes_bytes=True) as server:
        calls(server.url, [[IMAGE]] * 3, upload="base64")
    assert types(server) == [JSON] * 3


@many
def test_a_server_that_no_longer_takes_bytes_is_asked_in_base64_and_the_caller_notices_nothing(
    calls: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_REFUSED", 0.0)
    with gateway(takes_bytes=True) as server:

        def between(turn: int) -> None:
            server.takes_bytes = turn != 1  # it is replaced by an older one, and that by a newer one

        assert calls(server.url, [[IMAGE]] * 5, between) == [of([IMAGE])] * 5
    assert types(server) == [JSON, OCTETS, OCTETS, JSON, JSON, OCTETS]


@many
def test_behind_one_address_with_servers_of_both_kinds_bytes_are_not_tried_again_at_once(calls: Callable) -> None:
    with gateway(takes_bytes=True) as server:

        def between(turn: int) -> None:
            server.takes_bytes = turn % 2 == 1

        assert calls(server.url, [[IMAGE]] * 8, between) == [of([IMAGE])] * 8
    assert types(server) == [JSON, OCTETS, *[JSON] * 7]


@many
def test_each_of_several_replicas_gets_the_form_that_it_takes(calls: Callable) -> None:
    with gateway(takes_bytes=True) as new, gateway() as old:
        assert calls([new.url, old.url], [[IMAGE]] * 12) == [of([IMAGE])] * 12
    assert types(new) == [JSON, *[OCTETS] * 5]
    assert types(old) == [JSON] * 6


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (400, {"accept-post": OCTETS}, BadRequest),  # it takes bytes, and means something else
        (415, {"accept-post": OCTETS}, BadRequest),
        (413, {}, BadRequest),
        (429, {}, Overloaded),
        (500, {}, ServerError),
        (504, {}, DeadlineExceeded),
    ],
)
@many
def test_a_request_that_may_have_been_computed_is_sent_in_no_other_form(
    calls: Callable, status: int, headers: dict[str, str], error: type[Exception]
) -> None:
    with gateway(takes_bytes=True) as server:

        def between(turn: int) -> None:
            server.refuse = lambda values: (status, headers, b"no")

        with pytest.raises(error):
            calls(server.url, [[IMAGE]] * 2, between)
    assert types(server) == [JSON, OCTETS]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_form_that_there_is_not_is_refused_at_once(kind: type) -> None:
    with pytest.raises(ValueError, match="upload 'raw' is not auto, base64 or binary"):
        kind("http://127.0.0.1:1", upload="raw")


def test_the_command_sends_as_it_is_told(tmp_path: Any) -> None:
    photos = photo_folder(tmp_path)
    with gateway(knows_top_k=True, takes_bytes=True) as server:
        done = run("predict", "a.jpg", "--url", server.url, "--upload", "binary", "--json", cwd=photos)
        assert json.loads(done.stdout)["predictions"][0]["label"] == label("a.jpg")
        run("predict", "a.jpg", "b.PNG", "--url", server.url, "--concurrency", "1", cwd=photos)
    assert types(server) == [OCTETS, JSON, OCTETS]
    assert "invalid choice: 'raw'" in run("predict", "a.jpg", "--upload", "raw", cwd=photos).stderr


# --- gRPC ------------------------------------------------------------------------------------------------------------


def forms(server: Pipeline) -> list[str]:
    return ["tensors" if request.tensors else "base64" for request, _, _ in server.requests]


@many_grpc
def test_over_grpc_images_go_in_tensors_once_the_server_has_said_so(calls: Callable) -> None:
    with pipeline(takes_bytes=True) as server:
        batches = [BATCH, [IMAGE], BATCH]
        assert calls(server.address, batches) == [of(batch) for batch in batches]
    assert forms(server) == ["base64", "tensors", "tensors"]
    request = server.requests[2][0]
    assert [tensor.name for tensor in request.tensors] == [f"image_{index}" for index in range(len(BATCH))]
    assert (request.name, request.method, list(request.key)) == ("regnet", "prediction", [])


@many_grpc
def test_over_grpc_a_stock_server_gets_base64(calls: Callable) -> None:
    with pipeline() as server:
        assert calls(server.address, [[IMAGE]] * 3) == [of([IMAGE])] * 3
    assert forms(server) == ["base64"] * 3


@many_grpc
def test_over_grpc_a_server_that_no_longer_takes_bytes_is_asked_in_base64(calls: Callable) -> None:
    with pipeline(takes_bytes=True) as server:

        def between(turn: int) -> None:
            server.takes_bytes = turn % 2 == 1

        assert calls(server.address, [[IMAGE]] * 6, between) == [of([IMAGE])] * 6
    assert forms(server) == ["base64", "tensors", *["base64"] * 5]


@both_grpc
def test_over_grpc_one_form_can_be_asked_for(classify_batch: Callable) -> None:
    with pipeline(takes_bytes=True) as server:
        assert labels(classify_batch(server.address, BATCH, upload="binary")) == of(BATCH)
        assert labels(classify_batch(server.address, BATCH, upload="base64")) == of(BATCH)
    assert forms(server) == ["tensors", "base64"]
    with pipeline() as server, pytest.raises(ServerError, match="has no attribute encode"):
        classify_batch(server.address, [IMAGE], upload="binary")
    assert forms(server) == ["tensors"]


@pytest.mark.parametrize("err_no", [3001, 6000])
def test_over_grpc_a_request_that_may_have_been_computed_is_sent_in_no_other_form(err_no: int) -> None:
    with pipeline(takes_bytes=True) as server, GrpcClient(server.address) as client:
        client.classify(IMAGE)
        server.takes_bytes = False
        server.respond = lambda request, context: server_error(err_no)
        with pytest.raises(ServerError):
            client.classify(IMAGE)
        server.respond = refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        with pytest.raises(Overloaded):
            client.classify(IMAGE)
    assert forms(server) == ["base64", "tensors", "tensors"]


def server_error(err_no: int) -> wire.Response:
    return wire.Response(err_no=err_no, err_msg="closed")


@pytest.mark.parametrize("size", [0, 1, 9, 10, 99_999, 100_000])
def test_an_array_is_written_as_numpy_writes_it(size: int) -> None:
    file = io.BytesIO()
    np.save(file, np.frombuffer(bytes(size), np.uint8))
    assert npy(bytes(size)) == file.getvalue()


# --- the real service ------------------------------------------------------------------------------------------------

DOORS = pytest.mark.parametrize(
    ("classify_batch", "door"),
    [(sync_batch, "url"), (async_batch, "url"), (sync_batch_grpc, "rpc"), (async_batch_grpc, "rpc")],
    ids=["http", "async http", "grpc", "async grpc"],
)


@DOORS
def test_the_answers_of_the_service_are_the_same_in_every_form(
    service: Service, classify_batch: Callable, door: str
) -> None:
    target = getattr(service, door)
    for images in (DIGITS, DIGITS[:1]):
        rows = classify_batch(target, images, 3, upload="base64")
        assert classify_batch(target, images, 3, upload="binary") == rows
    errors = []
    for upload in ("base64", "binary"):
        with pytest.raises(ServerError) as error:
            classify_batch(target, [DIGITS[0], b"hello"], upload=upload)
        errors.append((str(error.value), error.value.err_no))
    assert errors[0] == errors[1]
    assert "(key image_1)" in errors[0][0]


def test_the_service_and_the_client_agree_after_one_answer(service: Service) -> None:
    sent: list[str] = []

    class Listening(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request.headers["content-type"].partition(";")[0])
            return super().handle_request(request)

    with Client(service.url, transport=Listening()) as client:
        rows = [client.classify_batch(images, 3) for images in (DIGITS[:1], DIGITS[:1], DIGITS)]
        with pytest.raises(ServerError):
            client.classify(b"hello")  # a bad image is no reason to ask in another way
        client.classify(DIGITS[0])
    assert rows[0] == rows[1] == rows[2][:1]
    assert sent == [JSON, OCTETS, FORM_DATA, OCTETS, OCTETS]
    with GrpcClient(service.rpc) as client:
        assert [client.classify_batch(images, 3) for images in (DIGITS[:1], DIGITS[:1], DIGITS)] == rows


@both
def test_a_form_by_hand_is_what_the_client_would_have_sent(service: Service, classify_batch: Callable) -> None:
    body = form(*[part(digit, f"image_{index}") for index, digit in enumerate(DIGITS)])
    by_hand = httpx.post(service.prediction_url, content=body, headers={"content-type": FORM}).json()["value"][0]
    assert str(labels(classify_batch(service.url, DIGITS, upload="binary"))) == by_hand
