"""Connections that end because they are old: no request is lost with one, and the next one goes elsewhere."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import threading
import time

import grpc
import pytest
from calling import BODY, METHOD, TEXT, connect
from running import quick, serving, wait_for

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.native.http_protocol import AGE_SPREAD, bounded
from serving_models.bundled.digits.held_out import held_out

AGE_MS = 400
PATH = "/regnet/prediction"
PACKET = wire.Request(key=["image"], value=[TEXT]).SerializeToString()


@pytest.fixture(scope="module")
def aging_service(digits_model, tmp_path_factory):
    config = quick(digits_model, native={"max_connection_age_ms": AGE_MS})
    with serving(tmp_path_factory.mktemp("aging"), config) as running:
        yield running


def head_of(length, *headers):
    return "".join((f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n", *headers, "\r\n")).encode()


def ask(connection):
    """Whether the answer to one request says that it is the last on its connection."""
    connection.request("POST", PATH, BODY)
    response = connection.getresponse()
    assert json.loads(response.read())["err_no"] == 0
    return response.headers["Connection"] == "close"


def test_an_old_http_connection_ends_with_an_answer_that_says_so_and_the_next_is_new(aging_service):
    with contextlib.closing(http.client.HTTPConnection(aging_service.http, timeout=30)) as connection:
        for _ in range(3):
            own = set()
            give_up = time.monotonic() + 30
            while not ask(connection):
                own.add(connection.sock.getsockname())
                assert time.monotonic() < give_up
            assert len(own) == 1


def test_a_connection_that_is_not_told_an_age_is_kept(service):
    with contextlib.closing(http.client.HTTPConnection(service.http, timeout=30)) as connection:
        assert not any(ask(connection) for _ in range(20))


def test_an_old_connection_answers_all_that_was_sent_without_waiting_and_closes_with_the_last(aging_service):
    digits = [base64.b64encode(held_out().images[number]).decode() for number in range(4)]
    bodies = [json.dumps({"key": ["a"], "value": [digit]}) for digit in digits]
    packets = [head_of(len(body)) + body.encode() for body in bodies]
    with connect(aging_service.http) as caller:
        caller.settimeout(30)
        caller.sendall(packets[0])
        heard = read_answers(caller, 1)
        assert b"connection: close" not in heard
        grow_old(caller)
        caller.sendall(b"".join(packets[1:]))
        answers = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200") == 3
    assert answers.count(b"connection: close") == 1
    assert b"connection: close" in answers.rpartition(b"HTTP/1.1 200")[2]


def test_a_request_that_was_sent_in_pieces_over_the_end_of_the_age_is_answered(aging_service):
    with connect(aging_service.http) as caller:
        caller.sendall(head_of(len(BODY)) + BODY[:100].encode())
        grow_old(caller)
        caller.sendall(BODY[100:].encode())
        assert b'"err_no":0' in read_answers(caller, 1)
        caller.sendall(head_of(len(BODY)) + BODY.encode())
        last = b"".join(iter(lambda: caller.recv(65536), b""))
        assert b'"err_no":0' in last and b"connection: close" in last


def grow_old(caller):
    """Until the connection is older than its age may be; what is awaited is that nothing comes meanwhile."""
    caller.settimeout(AGE_MS / 1000 * (1 + AGE_SPREAD) + 0.05)
    with pytest.raises(TimeoutError):
        caller.recv(1)
    caller.settimeout(30)


def read_answers(caller, count):
    heard = b""
    while heard.count(b'"tensors":[]}') < count:
        piece = caller.recv(65536)
        assert piece, heard
        heard += piece
    return heard


def test_ages_are_spread():
    assert bounded(max_age=0).max_age == float("inf")
    assert bounded(max_age=60.0).max_age == 60.0
    assert 0 < AGE_SPREAD < 1


def test_an_old_grpc_connection_is_left_without_losing_a_call(aging_service):
    reconnected = threading.Event()
    seen = []

    def hear(state):
        seen.append(state)
        if grpc.ChannelConnectivity.READY in seen[:-1] and state is not grpc.ChannelConnectivity.READY:
            reconnected.set()

    with grpc.insecure_channel(aging_service.rpc) as channel:
        channel.subscribe(hear)
        method = channel.unary_unary(METHOD, response_deserializer=wire.Response.FromString)
        answered = []

        def calls_go_on_over_several_ages():
            calls = [method.future(PACKET, timeout=60) for _ in range(4)]
            answered.extend(call.result().err_no for call in calls)
            return reconnected.is_set() and seen.count(grpc.ChannelConnectivity.READY) >= 2

        wait_for(calls_go_on_over_several_ages)
        assert set(answered) == {0}
        channel.unsubscribe(hear)
