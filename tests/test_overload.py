"""More requests than slots: each is answered rightly or refused at once, health answers, and nothing late is computed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import uvicorn
from calling import BODY, METHOD, TEXT, Call, connect, get, in_flight, infer, stopped
from running import configuration, serving, wait_for
from scraping import ADMIN, Scrape, probe
from uvicorn.server import ServerState

from benchmarks.overload import Cores, page
from benchmarks.overload_load import Order, load
from regnetx_client.wire import pipeline_service_pb2 as wire
from service.contract.caller_timeout import timeout_of_http
from service.errors import MalformedRequestError, OverloadedError, UnauthenticatedError
from service.native.http_protocol import bounded
from service.native.metric_block import Block
from service.native.metrics import REQUESTS, Door, Outcome, cell_of
from service.native.refusal import Refusals
from service.native.request_meter import RequestMeter, Told
from serving_models.bundled.digits.held_out import held_out

SLOTS, CALLERS = 4, 24
PATH = "/regnet/prediction"
PACKET = wire.Request(key=["image"], value=[TEXT]).SerializeToString()
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n"
REQUEST = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


@pytest.fixture(scope="module")
def narrow(digits_model, tmp_path_factory):
    """Few slots, and the operators' door."""
    with serving(
        tmp_path_factory.mktemp("narrow"), configuration(digits_model, native={"slots": SLOTS}, dag=ADMIN)
    ) as running:
        yield running


def text_of(number):
    return base64.b64encode(held_out().images[number]).decode()


def scores_of(value):
    """Label and score of an answer of one image."""
    return value[0], pytest.approx(json.loads(value[1])[0], abs=1e-3)


class HttpCaller:
    """One connection, kept."""

    def __init__(self, service):
        self.connection = http.client.HTTPConnection(service.http, timeout=60)
        self.connection.connect()
        self.socket = self.connection.sock

    def ask(self, number):
        """The answer's ``value``; None where it is refused, which must say when to come again and keep the connection."""
        self.connection.request("POST", PATH, json.dumps({"key": ["image"], "value": [text_of(number)]}))
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        assert self.connection.sock is self.socket
        if response.status == 429:
            assert int(response.headers["Retry-After"]) >= 1
            assert answer["error"] == f"all {SLOTS} slots are taken, try again later"
            return None
        assert (response.status, answer["err_no"]) == (200, 0)
        return answer["value"]

    def close(self):
        self.connection.close()


class GrpcCaller:
    """One channel, kept."""

    def __init__(self, service):
        self.channel = grpc.insecure_channel(service.rpc)
        self.method = self.channel.unary_unary(METHOD, wire.Request.SerializeToString, wire.Response.FromString)

    def ask(self, number):
        """As over HTTP."""
        try:
            answer = self.method(wire.Request(key=["image"], value=[text_of(number)]), timeout=60)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.details() == f"all {SLOTS} slots are taken, try again later"
            assert ("retry-after", "1") in error.trailing_metadata()
            return None
        assert answer.err_no == 0
        return answer.value

    def close(self):
        self.channel.close()


@pytest.mark.parametrize("door", [HttpCaller, GrpcCaller], ids=["http", "grpc"])
def test_of_many_callers_on_few_slots_all_are_refused_or_answered_rightly_and_none_waits_for_ever(narrow, door):
    with contextlib.closing(HttpCaller(narrow)) as alone:
        expected = [scores_of(alone.ask(number)) for number in range(CALLERS)]
    refused, go_on = [], threading.Event()

    def call(number):
        with contextlib.closing(door(narrow)) as caller:
            give_up = time.monotonic() + 60
            while (value := caller.ask(number)) is None:
                refused.append(number)
                assert go_on.wait(60) and time.monotonic() < give_up
            return value

    with ThreadPoolExecutor(CALLERS) as threads:
        with stopped(*narrow.children()["engine"]):
            calls = [threads.submit(call, number) for number in range(CALLERS)]
            wait_for(lambda: len(refused) == CALLERS - SLOTS)
            assert [get(narrow, path) for path in ("/healthz", "/readyz")] == [200, 200]
            assert [probe(narrow, path) for path in ("/healthz", "/readyz")] == [(200, "ok"), (200, "ready")]
            assert Scrape(narrow)("regnetx_slots_in_use") == SLOTS
        go_on.set()
        values = [future.result(60) for future in calls]
    assert [(value[0], json.loads(value[1])[0]) for value in values] == expected


@contextlib.contextmanager
def full(service):
    """All slots are taken until the end; then those who took them are answered."""
    with stopped(*service.children()["engine"]):
        inside = in_flight(service, SLOTS)
        wait_for(lambda: Scrape(service)("regnetx_slots_in_use") == SLOTS)
        yield
    assert [call.result()[1]["err_no"] for call in inside] == [0] * SLOTS


def answer_from(caller, heard=b""):
    """Head and body of the next answer on a connection."""
    while b"\r\n\r\n" not in heard:
        heard += caller.recv(65536) or pytest.fail(f"the connection ended after {heard!r}")
    head, _, body = heard.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += caller.recv(65536) or pytest.fail(f"the connection ended after {body!r}")
    assert len(body) == length, "more than one answer"
    return head, body


LARGE = b"x" * (4 << 20)


@pytest.mark.parametrize(
    ("sent", "rest"),
    [
        (REQUEST, b""),
        (REQUEST.partition(b"{")[0], BODY.encode()),
        (REQUEST[:-10], REQUEST[-10:]),
        (HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"0\r\n\r\n"),
        (HEAD.encode() + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE, b""),
        (f"{HEAD}Content-Length: 5\r\n\r\n{{nope".encode(), b""),
    ],
    ids=["whole", "without its body", "without its end", "chunked", "large", "garbage"],
)
def test_a_refused_request_leaves_its_connection_usable(narrow, sent, rest):
    with connect(narrow.http) as caller:
        with full(narrow):
            caller.sendall(sent)
            head, _ = answer_from(caller)
            assert head.startswith(b"HTTP/1.1 429 ") and b"\r\nretry-after: 1\r\n" in head + b"\r\n"
            assert b"connection: close" not in head
            caller.sendall(rest)
        wait_for(lambda: Scrape(narrow)("regnetx_slots_in_use") == 0)
        caller.sendall(REQUEST)
        head, body = answer_from(caller)
        assert head.startswith(b"HTTP/1.1 200 ") and json.loads(body)["err_no"] == 0


def test_requests_that_are_sent_without_waiting_are_each_refused_behind_the_one_that_was_taken(narrow):
    many = 3000
    with stopped(*narrow.children()["engine"]), connect(narrow.http) as caller:
        inside = in_flight(narrow, SLOTS - 1)
        caller.sendall(REQUEST)
        wait_for(lambda: Scrape(narrow)("regnetx_slots_in_use") == SLOTS)
        refused = f"{HEAD}Content-Length: 2\r\n\r\n{{}}".encode()
        threading.Thread(target=caller.sendall, args=(refused * many,), daemon=True).start()
        with connect(narrow.http) as other:
            other.sendall(refused * many)
            assert statuses_from(other, many) == {b"429": many}
        for pid in narrow.children()["engine"]:
            os.kill(pid, signal.SIGCONT)
        statuses = statuses_from(caller, many + 1)
    assert statuses[b"200"] + statuses[b"429"] == many + 1 and statuses[b"200"] >= 1
    assert [call.result()[1]["err_no"] for call in inside] == [0] * (SLOTS - 1)


def statuses_from(caller, number):
    """Of so many answers on a connection, which must not be more."""
    heard = b""
    while heard.count(b"HTTP/1.1 ") < number or not heard.endswith(b"}"):
        heard += caller.recv(1 << 20) or pytest.fail("the connection ended")
    found = Counter(part[:3] for part in heard.split(b"HTTP/1.1 ")[1:])
    assert found.total() == number
    return found


def test_only_a_request_that_needs_no_more_than_its_head_is_refused_by_it(block):
    length = (b"content-length", b"10")
    meter = RequestMeter(block, Door.HTTP)

    def by_head(method=b"POST", target=b"/regnet/prediction", headers=(length,), meter=meter, admit=lambda _: ""):
        return Refusals(Full(), meter, admit).by_head(method, target, headers)

    refused = by_head(headers=(length, (b"x-request-id", b"order-1"), (b"x-top-k", b"2"), (b"grpc-timeout", b"2S")))
    assert (refused.status, json.loads(refused.body)["message"]) == (429, "full for 2.0")
    assert {(b"retry-after", b"1"), (b"x-request-id", b"order-1")} <= set(refused.headers)
    assert b"accept-post" in dict(refused.headers)
    others = [
        {"method": b"GET"}, {"target": b"/a/b/c"}, {"target": b"/a/b#c"}, {"target": b"http://x/regnet/prediction"},
        {"headers": ()}, {"headers": ((b"content-length", b"2000000"),)},
        {"headers": (length, (b"expect", b"100-continue"))}, {"headers": (length, (b"x-request-timeout", b"soon"))},
        {"headers": ((b"transfer-encoding", b"chunked"),)},
        {"admit": nobody}, {"meter": RequestMeter(block, Door.HTTP, Told(access_log=True))},
    ]  # fmt: skip
    assert [by_head(**other) for other in others] == [None] * len(others)
    assert block.cells[cell_of(REQUESTS, (Door.HTTP, Outcome.OVERLOADED))] == 1


class Full:
    """Takes nothing."""

    def check_room(self, timeout):
        raise OverloadedError(f"full for {timeout}")


def nobody(_):
    raise UnauthenticatedError("who are you")


@pytest.fixture
def block():
    with contextlib.closing(Block.create()) as block:
        yield block


async def test_a_connection_is_idle_once_all_of_a_refused_request_is_here():
    async def refuse(scope, receive, send):
        await send({"type": "http.response.start", "status": 429, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    made, config = [], uvicorn.Config(refuse, lifespan="off", log_config=None, ws="none", timeout_keep_alive=75)
    config.load()

    def connection():
        made.append(bounded(read_timeout=60)(config=config, server_state=ServerState(), app_state={}))
        return made[0]

    def is_idle():
        return made[0]._reading is None and made[0].timeout_keep_alive_task is not None

    head = HEAD.encode() + b"Content-Length: 4\r\n\r\n"
    async with await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for sent in (head, b"abcd" + head):
            writer.write(sent)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 429")
            assert not is_idle()
        writer.write(b"abcd")
        await asyncio.to_thread(wait_for, is_idle)
        writer.close()


def test_a_caller_that_asks_before_it_sends_its_body_is_refused_without_being_told_to_go_on(narrow):
    with full(narrow), connect(narrow.http) as caller:
        caller.sendall(f"{HEAD}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n".encode())
        assert answer_from(caller)[0].startswith(b"HTTP/1.1 429 ")


def test_what_names_nothing_here_is_told_so_under_overload_too(narrow):
    with full(narrow), contextlib.closing(http.client.HTTPConnection(narrow.http, timeout=30)) as caller:
        for verb, path, status in (("POST", "/a/b/c", 404), ("GET", PATH, 405)):
            caller.request(verb, path)
            with contextlib.closing(caller.getresponse()) as response:
                assert response.status == status
                response.read()


def test_a_grpc_message_is_not_read_where_there_is_no_room(narrow):
    with grpc.insecure_channel(narrow.rpc) as channel:
        method = channel.unary_unary(METHOD, response_deserializer=wire.Response.FromString)
        with full(narrow):
            for packet in (b"\xff\xff", PACKET + b"\xff" * (8 << 20)):
                with pytest.raises(grpc.RpcError) as refused:
                    method(packet, timeout=30, metadata=(("x-top-k", "1"),))
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert {("retry-after", "1"), ("x-accepts-bytes", "1")} <= set(refused.value.trailing_metadata())
        assert method(PACKET, timeout=30).err_no == 0


def test_of_thousands_of_grpc_calls_at_once_each_is_answered_or_told_why_not(narrow):
    """The library ends calls beyond a thousand that wait with CANCELLED, unless it is told not to."""
    before, codes = Counter(Scrape(narrow).requests("grpc")), Counter()
    with grpc.insecure_channel(narrow.rpc) as channel:
        method = channel.unary_unary(METHOD)
        for call in [method.future(PACKET, timeout=60) for _ in range(2500)]:
            codes[call.code()] += 1
    wait_for(lambda: Scrape(narrow)("regnetx_requests_in_flight", door="grpc") == 0)
    told = Counter(Scrape(narrow).requests("grpc")) - before
    assert codes == {grpc.StatusCode.OK: told["answered"], grpc.StatusCode.RESOURCE_EXHAUSTED: told["overloaded"]}
    assert codes.total() == 2500 and told["answered"] >= SLOTS


def test_who_could_only_be_answered_too_late_is_refused_at_once_and_the_others_are_not(digits_model, tmp_path):
    hasty = {"X-Request-Timeout": "0.000001"}
    enough = threading.Event()

    def ask_on(service):
        with contextlib.closing(http.client.HTTPConnection(service.http, timeout=60)) as caller:
            statuses = []
            while not enough.is_set():
                caller.request("POST", PATH, BODY)
                with contextlib.closing(caller.getresponse()) as answer:
                    statuses.append((answer.status, json.loads(answer.read())["err_no"]))
            return statuses

    with serving(tmp_path, configuration(digits_model)) as service, ThreadPoolExecutor(CALLERS) as threads:
        alone = Call(service, headers=hasty).result()
        assert alone[0] == 504  # nothing is ahead of it, and so it is tried
        loads = [threads.submit(ask_on, service) for _ in range(CALLERS)]
        try:
            wait_for(lambda: Call(service, headers=hasty).result()[0] == 429)
            _, answer = next(told for told in iter(Call(service, headers=hasty).result, None) if told[0] == 429)
        finally:
            enough.set()
        assert answer["error"] == "not to be answered within 1e-06 s behind what is in progress, try again later"
        assert {one for load in loads for one in load.result(60)} == {(200, 0)}


# --- deadlines and departures ----------------------------------------------------------------------------------------


def computed(service):
    """Images that were decoded, and that a run of the model has had."""
    now = Scrape(service)
    return now.images("png"), now("regnetx_batch_size_sum")


def test_what_nobody_waits_for_any_more_is_not_run(narrow):
    before = computed(narrow)
    with (
        stopped(*narrow.children()["engine"]),
        connect(narrow.http) as leaver,
        grpc.insecure_channel(narrow.rpc) as channel,
    ):
        leaver.sendall(REQUEST)
        late = [Call(narrow, headers=headers) for headers in ({"X-Request-Timeout": "0.3"}, {"Grpc-Timeout": "300m"})]
        call = channel.unary_unary(METHOD).future(PACKET, timeout=0.3)
        wait_for(lambda: Scrape(narrow)("regnetx_waiting_images") == SLOTS)
        leaver.close()
        assert [one.result()[0] for one in late] == [504, 504]
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: Scrape(narrow)("regnetx_slots_in_use") == 0)
    after = computed(narrow)
    assert (after[0] - before[0], after[1] - before[1]) == (SLOTS, 0)


@pytest.mark.parametrize("headers", [{"X-Request-Timeout": "0.000000001"}, {"Grpc-Timeout": "1n"}])
def test_what_is_late_before_it_is_decoded_is_not_decoded(narrow, headers):
    before = computed(narrow)
    status, answer = Call(narrow, headers=headers).result()
    assert (status, answer["code"], answer["error"]) == (504, 4, "context deadline exceeded")
    wait_for(lambda: Scrape(narrow)("regnetx_slots_in_use") == 0)
    assert computed(narrow) == before


def test_a_timeout_that_is_no_time_is_400_and_one_that_is_long_does_not_hurt(narrow):
    status, answer = Call(narrow, headers={"X-Request-Timeout": "500ms"}).result()
    message = "invalid x-request-timeout: 500ms, accepted: seconds above 0, as 0.5 or 30"
    assert (status, answer["code"], answer["error"]) == (400, 3, message)
    assert Call(narrow, headers={"X-Request-Timeout": "20", "Grpc-Timeout": "20S"}).result()[0] == 200


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"x-request-timeout": b"0.5"}, 0.5),
        ({b"x-request-timeout": b"30"}, 30),
        ({b"x-request-timeout": b"000000030.000000001"}, 30.000000001),
        ({b"grpc-timeout": b"2S"}, 2),
        ({b"grpc-timeout": b"2S", b"x-request-timeout": b"0.5"}, 0.5),
        ({b"grpc-timeout": b"200m", b"x-request-timeout": b"0.5"}, 0.2),
        ({b"grpc-timeout": b"-1S", b"x-request-timeout": b"0.5"}, -1),
        ({b"grpc-timeout": b"0S", b"x-request-timeout": b"0.5"}, 0.5),
    ],
)
def test_of_two_timeouts_the_shorter_counts(headers, seconds):
    assert timeout_of_http(headers) == seconds


@pytest.mark.parametrize(
    "text", [b"", b"0", b"0.0", b"-1", b"+1", b".5", b"1.", b"1e3", b"inf", b"nan", b" 1", b"1s", b"9" * 10, b"\xff"]
)
def test_a_timeout_is_plain_seconds_above_0(text):
    with pytest.raises(MalformedRequestError, match=r"^invalid x-request-timeout: .*, accepted: seconds above 0"):
        timeout_of_http({b"x-request-timeout": text})


# --- the benchmark ---------------------------------------------------------------------------------------------------


def order(service, tmp_path, **changes):
    (tmp_path / "body").write_text(BODY)
    probes = {"main /healthz": (service.http, "/healthz"), "admin /readyz": (service.admin, "/readyz")}
    what = {
        "address": service.http, "path": PATH, "content_type": "application/json", "body": str(tmp_path / "body"),
        "rate": 400, "seconds": 0.5, "settle": 0.0, "patience": 30.0, "bound": 30.0, "probes": probes,
    }  # fmt: skip
    return Order(**{**what, **changes})


def test_the_generator_tells_every_request_of_an_overload(narrow, tmp_path):
    before = Counter(Scrape(narrow).requests("http"))
    with ThreadPoolExecutor(1) as threads, stopped(*narrow.children()["engine"]):
        loading = threads.submit(load, order(narrow, tmp_path))
        wait_for(lambda: Scrape(narrow).requests("http").get("overloaded", 0) > before["overloaded"] + 100)
    seen = loading.result(60)
    wait_for(
        lambda: Scrape(narrow)("regnetx_requests_in_flight", door="http") == 0
    )  # it is counted once it is answered
    told = Counter(Scrape(narrow).requests("http")) - before
    assert seen.outcomes == {"good": told["answered"], "429": told["overloaded"]} and told["answered"] >= SLOTS
    assert (seen.offered, seen.connections > 1) == (sum(seen.outcomes.values()) / 0.5, True)
    assert seen.failed_probes == {"main /healthz": 0, "admin /readyz": 0}
    assert [times.number for times in seen.probes.values()] == [5, 5]
    infer(narrow)


def test_what_is_late_lost_or_an_error_is_no_goodput(narrow, tmp_path):
    few = {"rate": 20, "probes": {}}
    late = load(order(narrow, tmp_path, bound=0.0, **few))
    assert {"late"} <= set(late.outcomes) <= {"late", "429"} and late.goodput == 0
    assert set(load(order(narrow, tmp_path, path="/nothing/prediction", **few)).outcomes) == {"err_no 3002"}
    with stopped(*narrow.children()["engine"]):
        lost = load(order(narrow, tmp_path, patience=0.1, **few))
    assert {"lost"} <= set(lost.outcomes) <= {"lost", "429"} and lost.outcomes["lost"] == SLOTS
    nobody = load(order(narrow, tmp_path, address="127.0.0.1:1", **few))
    assert set(nobody.outcomes) == {"broken"}
    wait_for(lambda: Scrape(narrow)("regnetx_slots_in_use") == 0)


def test_the_page_tells_capacity_goodput_and_what_failed():
    times = {"p50": 0.1, "p99": 0.4, "number": 7}
    nothing = {"p50": 0.0, "p99": 0.0, "number": 0}
    capacity = {"capacity": 200.0, "callers": 32, "cpu_an_image": 0.01, "p99": 0.2}
    flood = {
        "factor": 10.0, "offered": 2000.0, "goodput": 190.0, "accepted": times, "refused": nothing, "lag": times,
        "outcomes": {"good": 760, "lost": 1, "429": 7239}, "probes": {"main /healthz": times},
        "failed_probes": {"main /healthz": 3}, "connections": 150, "seconds": 4.0, "cpu_seconds": 0.4,
        "server_cpu_seconds": 8.0, "afterwards": "",
    }  # fmt: skip
    failed = {"factor": 5.0, "error": "NotStarted: it | said nothing"}
    text = page(
        {"auto": [capacity, flood, failed], "stock-tuned": [{"error": "none"}]}, 1.0, Cores([0], [1]),
        command=["--seconds", "4"],
    )  # fmt: skip
    assert "| 10x | 2000 | 190.0 | 95% | 100.0 | 400.0 |  |  | 760 good, 7239 429, 1 lost |" in text
    assert "| 10x | 2.00 | 95.0 | 95% | 0.10 | 400.0 | 150 |" in text
    assert "| 10x | 100.0, 400.0, 3 |" in text
    assert "Aim: at 10x goodput is at least 90% of capacity: 95%, met." in text
    assert "| 5x | error: NotStarted: it / said nothing |" in text
    assert "Slots / capacity: 0.64 s" in text and "No figures: none" in text and "128 slots" in text
