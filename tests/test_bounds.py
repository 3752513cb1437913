"""What a running service bounds: slots, bodies, images and time; real sockets, an engine that stands still."""

from __future__ import annotations

import base64
import json
import socket

import grpc
import pytest
from calling import METHOD, TEXT, Call, get, in_flight, infer, stopped
from running import quick, serving, wait_for

from regnetx_client.wire import pipeline_service_pb2 as wire


@pytest.fixture(scope="module")
def narrow(digits_model, tmp_path_factory):
    """Two slots, a small body and a short op timeout."""
    limits = {"slots": 2, "max_body_bytes": 65536, "max_image_bytes": 20000, "max_image_pixels": 10000}
    config = quick(digits_model, native=limits, op={"timeout": 1500})
    with serving(tmp_path_factory.mktemp("narrow"), config) as running:
        yield running


def test_with_no_slot_free_a_request_is_refused_at_once_and_those_inside_are_answered(narrow):
    with stopped(*narrow.children()["engine"]):
        inside = in_flight(narrow, 2)
        refused = Call(narrow)
        status, answer = refused.result()
        assert (status, answer["code"]) == (429, 8)
        assert answer["error"] == "all 2 slots are taken, try again later"
        assert int(refused.answer_headers["Retry-After"]) >= 1
        with grpc.insecure_channel(narrow.rpc) as channel, pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(METHOD)(wire.Request(key=["a"], value=[TEXT]).SerializeToString(), timeout=30)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("retry-after", "1") in error.value.trailing_metadata()
        assert get(narrow, "/readyz") == 200
    assert [call.result()[1]["err_no"] for call in inside] == [0, 0]
    infer(narrow)


def test_the_ops_timeout_is_err_no_6000_and_the_slot_comes_back(narrow):
    with stopped(*narrow.children()["engine"]):
        late = in_flight(narrow, 2)
        for status, answer in [call.result() for call in late]:
            assert (status, answer["err_no"]) == (200, 6000)
    wait_for(lambda: Call(narrow).result()[0] == 200)
    infer(narrow)


def test_the_callers_deadline_is_kept_while_the_engine_stands_still(narrow):
    with stopped(*narrow.children()["engine"]):
        status, answer = Call(narrow, headers={"Grpc-Timeout": "300m"}).result()
        assert (status, answer["error"]) == (504, "context deadline exceeded")
        with grpc.insecure_channel(narrow.rpc) as channel, pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(METHOD)(wire.Request(key=["a"], value=[TEXT]).SerializeToString(), timeout=0.3)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: Call(narrow).result()[0] == 200)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_413_before_it_is_read(narrow, declared):
    host, port = narrow.http.split(":")
    head = b"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\n"
    head += b"Content-Length: 70000\r\n\r\n" if declared else b"Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as caller:
        caller.sendall(head if declared else head + b"11170\r\n" + b"x" * 70000)
        answer = b"".join(iter(lambda: caller.recv(4096), b""))  # to the end: the connection is closed
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"at most 65536 accepted" in answer
    infer(narrow)


def test_a_message_that_is_too_large_for_grpc_is_refused(narrow):
    with grpc.insecure_channel(narrow.rpc) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(METHOD)(b"x" * 70000, timeout=30)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 21000, "bytes, at most 20000 accepted"),
        (
            b"BM" + b"\0" * 12 + b"\x28\0\0\0" + (1000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + b"\0" * 24,
            "1000x1000",
        ),
    ],
    ids=["bytes", "pixels"],
)
def test_an_image_that_is_too_large_is_told_so(narrow, image, message):
    body = json.dumps({"key": ["image"], "value": [base64.b64encode(image).decode()]})
    status, answer = Call(narrow, body=body).result()
    assert (status, answer["err_no"]) == (200, 10000)
    assert message in answer["err_msg"]
