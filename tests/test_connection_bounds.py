"""Connections and bytes that a frontend lets callers hold: how many, how long, how much. Raw sockets, a real service."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from calling import BODY, METHOD, TEXT, connect, get, in_flight, infer, rest_of, stopped
from running import quick, serving, wait_for
from scraping import ADMIN, Scrape

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.errors import OverloadedError
from service.native.budget import Budget
from service.native.http_protocol import MAX_HEADERS

READ_MS, IDLE_MS = 1000, 1500
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # its preface, no settings
HEAD = f"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def hasty(digits_model, tmp_path_factory):
    """Little time, few connections."""
    native = {"read_timeout_ms": READ_MS, "idle_timeout_ms": IDLE_MS, "max_connections": 8}
    with serving(tmp_path_factory.mktemp("hasty"), quick(digits_model, native=native, dag=ADMIN)) as running:
        yield running


SENT = {
    "nothing": (b"", b""),
    "an empty line": (b"\r\n", b"HTTP/1.1 408 Request Timeout"),
    "half a head": (b"POST /regnet", b"HTTP/1.1 408 Request Timeout"),
    "half a body": (HEAD + BODY.encode()[:100], b"HTTP/1.1 408 Request Timeout"),
    "half a head behind a request": (HEAD + BODY.encode() + b"POST /regnet", b"HTTP/1.1 200 OK"),
    "a request, then idle": (HEAD + BODY.encode(), b"HTTP/1.1 200 OK"),
}


def test_connections_on_which_nothing_more_comes_end(hasty):
    with contextlib.ExitStack() as stack:
        callers = {name: stack.enter_context(connect(hasty.http)) for name in SENT}
        for name, caller in callers.items():
            caller.sendall(SENT[name][0])
        heard = {name: rest_of(caller) for name, caller in callers.items()}
    assert heard["nothing"] == b""
    assert [name for name in SENT if not heard[name].startswith(SENT[name][1])] == []
    told = Scrape(hasty).requests("http")
    assert (told["too_slow"], told.get("caller_left", 0)) == (1, 0)  # of half a head there is no request yet
    infer(hasty)


def test_what_is_wrong_behind_a_request_is_not_counted_as_its_fault(hasty):
    before = Scrape(hasty).requests("http")
    with stopped(*hasty.children()["engine"]), connect(hasty.http) as caller:
        caller.sendall(HEAD + BODY.encode())
        wait_for(lambda: Scrape(hasty)("regnetx_slots_in_use") == 1)
        caller.sendall(b"no HTTP\r\n\r\n")
        assert rest_of(caller).startswith(b"HTTP/1.1 400 Bad Request")
        wait_for(lambda: Scrape(hasty)("regnetx_requests_in_flight", door="http") == 0)
    told = Scrape(hasty).requests("http")
    changed = {outcome: count - before.get(outcome, 0) for outcome, count in told.items()}
    assert {outcome: count for outcome, count in changed.items() if count} == {"caller_left": 1}


def test_who_has_less_time_than_its_body_takes_is_told_when_it_is_over(hasty):
    with connect(hasty.http) as caller:
        caller.sendall(HEAD[:-2] + b"X-Request-Timeout: 0.1\r\n\r\n" + BODY.encode()[:100])
        assert caller.recv(65536).startswith(b"HTTP/1.1 504 Gateway Timeout")


def test_a_body_that_drips_is_given_up_and_holds_no_slot(hasty):
    with connect(hasty.http) as caller, contextlib.suppress(ConnectionError):
        caller.sendall(HEAD)
        dripping = threading.Event()
        for byte in BODY.encode():
            caller.sendall(bytes([byte]))
            if dripping.wait(0.05) or caller.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                break
    infer(hasty)


def test_lines_between_requests_do_not_keep_a_connection(hasty):
    with connect(hasty.http) as caller:
        caller.sendall(HEAD + BODY.encode())
        answer = b""
        while not answer.endswith(b"}"):
            answer += caller.recv(65536)
        caller.sendall(b"\r\n")
        assert rest_of(caller).startswith(b"HTTP/1.1 408 Request Timeout")


def test_a_request_that_waits_for_its_answer_is_not_taken_for_a_slow_one(hasty):
    with stopped(*hasty.children()["engine"]):
        [call] = in_flight(hasty)
        call.join(2 * READ_MS / 1000)
        assert call.is_alive()
    assert call.result()[1]["err_no"] == 0


def test_one_connection_too_many_is_told_so_and_the_others_work(hasty):
    with contextlib.ExitStack() as stack:
        inside = [stack.enter_context(connect(hasty.http)) for _ in range(8)]
        last = stack.enter_context(connect(hasty.http))
        answer = rest_of(last)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n")
        inside[0].sendall(HEAD + BODY.encode())
        assert inside[0].recv(65536).startswith(b"HTTP/1.1 200 OK")
    wait_for(lambda: get(hasty, "/readyz") == 200)
    infer(hasty)


def test_too_many_header_fields_are_431(hasty):
    fields = b"".join(b"a: b\r\n" for _ in range(MAX_HEADERS + 1))
    with connect(hasty.http) as caller:
        caller.sendall(HEAD[:-2] + fields + b"\r\n")
        assert rest_of(caller).startswith(b"HTTP/1.1 431 ")


def test_an_idle_grpc_connection_of_a_living_caller_is_kept(hasty):
    packet = wire.Request(key=["image"], value=[TEXT]).SerializeToString()
    with grpc.insecure_channel(hasty.rpc) as channel:
        left = threading.Event()
        method = channel.unary_unary(METHOD)
        assert wire.Response.FromString(method(packet, timeout=30)).err_no == 0
        channel.subscribe(lambda state: state is grpc.ChannelConnectivity.READY or left.set())
        left.clear()
        assert not left.wait(1.5 * IDLE_MS / 1000)
        assert wire.Response.FromString(method(packet, timeout=30)).err_no == 0


def test_one_grpc_connection_too_many_is_closed_and_the_others_work(hasty):
    inside = []

    def is_taken():
        """Those of tests before this one may still be counted."""
        caller = connect(hasty.rpc)
        with contextlib.suppress(ConnectionError):
            caller.sendall(HTTP2)
            if caller.recv(65536):
                inside.append(caller)
                return True
        caller.close()
        return False

    try:
        for _ in range(8):
            wait_for(is_taken)
        assert not is_taken()
        inside.pop().close()
        wait_for(is_taken)
        assert not is_taken()
    finally:
        for caller in inside:
            caller.close()


def test_a_grpc_message_that_does_not_come_is_given_up(hasty):
    never = threading.Event()

    def nothing():
        never.wait(30)
        yield b""

    with grpc.insecure_channel(hasty.rpc) as channel:
        try:
            with pytest.raises(grpc.RpcError) as given_up:
                channel.stream_unary(METHOD)(nothing(), timeout=30, wait_for_ready=True)
        finally:
            never.set()
        assert given_up.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert given_up.value.details() == f"the message did not come whole within {READ_MS // 1000} s"
        with pytest.raises(grpc.RpcError) as refused:
            channel.stream_unary(METHOD)(iter([]), timeout=30, wait_for_ready=True)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def frugal(digits_model, tmp_path_factory):
    """16 MiB for all requests together, and no garbage collection: what is let go of is let go of at once."""
    folder = tmp_path_factory.mktemp("frugal")
    (folder / "sitecustomize.py").write_text("import gc\n\ngc.disable()\n")
    config = quick(digits_model, native={"max_buffered_bytes": 16 << 20})
    with serving(folder, config, PYTHONPATH=str(folder)) as running:
        yield running


def frontend_bytes(service, which="VmHWM"):
    """The most memory that the frontend has had, or with VmRSS what it has."""
    [pid] = service.children()["frontend"]
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(which))


BIG = "A" * (8 << 20)
BIG_PACKET = wire.Request(key=["a"], value=[BIG]).SerializeToString()
JSON = {"Content-Type": "application/json"}
IN_VAIN = {
    "a bad image": (json.dumps({"key": ["a"], "value": [BIG]}), JSON),
    "bad JSON": ('{"key":["a"],"value":["' + BIG, JSON),
    "a bad file": (b"\xff\xd8" + BIG.encode(), {"Content-Type": "image/jpeg"}),
    "a bad form": (b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n' + BIG.encode(),
                   {"Content-Type": "multipart/form-data; boundary=x"}),
    "no time": (json.dumps({"key": ["a"], "value": [BIG]}), {**JSON, "X-Request-Timeout": "0.000001"}),
    "a bad message": (BIG_PACKET[:-1], ()),
    "a bad image in a message": (BIG_PACKET, ()),
    "a bad top-k": (BIG_PACKET, (("x-top-k", "many"),)),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_VAIN)
def test_a_request_that_fails_is_let_go_of_at_once(frugal, name):
    """An error can hold its request: by its traceback, a frame in that, and what in the frame holds the error."""
    body, about = IN_VAIN[name]

    def ask(times):
        for _ in range(times):
            if isinstance(about, dict):
                with contextlib.closing(http.client.HTTPConnection(frugal.http, timeout=60)) as caller:
                    caller.request("POST", "/regnet/prediction", body, about)
                    assert caller.getresponse().status in (200, 400, 429, 504)
            else:
                with grpc.insecure_channel(frugal.rpc) as channel, contextlib.suppress(grpc.RpcError):
                    channel.unary_unary(METHOD)(body, timeout=60, metadata=about)

    ask(4)
    before = frontend_bytes(frugal, "VmRSS")
    ask(10)
    assert frontend_bytes(frugal, "VmRSS") - before < 40 << 20


def test_many_large_grpc_messages_at_once_do_not_take_all_memory(frugal):
    infer(frugal)
    before = frontend_bytes(frugal)
    packet = wire.Request(key=["a"], value=["A" * (15 << 20)]).SerializeToString()

    def call(_):
        with grpc.insecure_channel(frugal.rpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                return wire.Response.FromString(channel.unary_unary(METHOD)(packet, timeout=60)).err_no
            except grpc.RpcError as error:
                return error.code().name

    with ThreadPoolExecutor(48) as threads:
        answers = Counter(threads.map(call, range(48)))
    assert set(answers) <= {10000, "RESOURCE_EXHAUSTED"}
    assert frontend_bytes(frugal) - before < 800 << 20  # 720 MiB were sent, and more than that is needed to read them
    infer(frugal)


def test_callers_that_send_much_and_slowly_cannot_take_all_memory(frugal):
    infer(frugal)
    before = frontend_bytes(frugal)
    body = b'{"key":["a"],"value":["' + b"A" * (8 << 20)
    head = b"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(body) + 100)
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connect(frugal.http)) for _ in range(8)]
        answers = [answer_to(caller, head, body) for caller in callers]
        assert answers[:1] == [b""] and sum(answer.startswith(b"HTTP/1.1 429") for answer in answers) == 7
        assert all(b"at most 16777216, try again later" in answer for answer in answers[1:])
        infer(frugal)
        assert frontend_bytes(frugal) - before < 120 << 20
    wait_for(lambda: has_room(frugal))
    infer(frugal)


def answer_to(caller, head, body):
    """What is answered to a request of which the last bytes never come; nothing while it may go on."""
    with contextlib.suppress(ConnectionError):
        caller.sendall(head + body)
    caller.settimeout(1)
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while not answer.endswith(b"}"):
            answer += caller.recv(65536)
    return answer


def has_room(service):
    """Whether a request of nearly the whole budget is taken: what others held has been given back."""
    body = json.dumps({"key": ["a"], "value": ["A" * (15 << 20)]}).encode()
    with connect(service.http) as caller:
        caller.sendall(b"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        with contextlib.suppress(ConnectionError):
            caller.sendall(body)
        return caller.recv(65536).startswith(b"HTTP/1.1 200")


def test_grpc_messages_count_as_well(frugal):
    packet = wire.Request(key=["a"], value=["A" * (10 << 20)]).SerializeToString()
    with grpc.insecure_channel(frugal.rpc) as channel, stopped(*frugal.children()["engine"]):
        inside = in_flight(frugal)
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(METHOD)(packet + packet, timeout=30)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("retry-after", "1") in error.value.trailing_metadata()
    assert inside[0].result()[1]["err_no"] == 0


def test_a_budget_takes_any_request_that_is_alone_and_gives_back_what_was_held():
    budget = Budget(100)
    with budget.share() as first:
        first.grow_to(150)
        first.grow_to(120)
        first.grow_to(160)
        with pytest.raises(OverloadedError, match="160 bytes are in progress, at most 100"), budget.share() as second:
            second.grow_to(1)
    assert budget.used == 0
    with budget.share() as first, budget.share() as second:
        first.grow_to(50)
        second.grow_to(50)
        with pytest.raises(OverloadedError):
            first.grow_to(51)
        assert budget.used == 100
    assert budget.used == 0
