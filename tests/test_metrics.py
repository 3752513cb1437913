"""What the service counts of what it does: real requests, real processes, and numbers that must be exact."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket

import grpc
import httpx
import pytest
from calling import BODY, METHOD, TEXT, Call, in_flight, infer, stopped
from image_files import FILES
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from running import ROOT, START_SECONDS, configuration, quick, serving, wait_for
from scraping import ADMIN, Scrape, ask

from regnetx_client.wire import pipeline_service_pb2 as wire
from service import __version__
from service.errors import ServiceError
from service.native.classify import FIRST_BYTES
from service.native.metric_block import Block, Counter, Gauge, Histogram
from service.native.metrics import (
    ALL,
    BATCH_SIZE,
    CELLS,
    IMAGES,
    SHOWN,
    SLOTS_IN_USE,
    Door,
    Format,
    Kind,
    Outcome,
    Stage,
    Vital,
    cell_of,
)
from service.native.request_meter import OUTCOMES, RequestMeter

PACKET = wire.Request(key=["image"], value=[TEXT]).SerializeToString()


@pytest.fixture(scope="module")
def metered(digits_model, tmp_path_factory):
    """Two slots and a short timeout, so that requests can be refused; its tests look at differences."""
    limits = {"slots": 2, "max_body_bytes": 65536}
    config = configuration(digits_model, native=limits, op={"timeout": 4000}, dag=ADMIN)
    with serving(tmp_path_factory.mktemp("metered"), config) as running:
        yield running


def settled(service):
    """A scrape at a moment when nothing is in flight: an answer is sent a little before it is counted."""
    found = []

    def is_idle():
        found.append(Scrape(service))
        return not any(found[-1]("regnetx_requests_in_flight", door=door) for door in Door)

    wait_for(is_idle)
    return found[-1]


@contextlib.contextmanager
def counted(service, door, **outcomes):
    """What happens inside must be counted with exactly these outcomes at that door, and nothing at the other."""
    before = settled(service)
    yield before
    after = settled(service)
    differences = {
        (each, outcome): after("regnetx_requests_total", door=each, outcome=outcome)
        - before("regnetx_requests_total", door=each, outcome=outcome)
        for each in Door
        for outcome in Outcome
    }
    assert {key: value for key, value in differences.items() if value} == {
        (door, outcome): number for outcome, number in outcomes.items()
    }


# --- cells -----------------------------------------------------------------------------------------------------------


def test_no_two_series_share_a_cell():
    taken = [vital.value for vital in Vital]
    for family in ALL:
        for labels in family.series():
            first = cell_of(family, labels)
            taken += range(first, first + family.cells_of_one)
    assert sorted(taken) == list(range(CELLS))


def test_a_value_falls_into_the_first_bucket_whose_bound_it_does_not_exceed():
    with contextlib.closing(Block.create()) as block:
        sizes = Histogram(block, BATCH_SIZE)
        for size, times in ((1, 1), (2, 2), (3, 1), (1024, 1), (5000, 3)):
            sizes.observe(size, times)
        first = cell_of(BATCH_SIZE)
        cells = list(block.cells[first : first + BATCH_SIZE.cells_of_one])
        assert cells[:3] == [1, 2, 1]
        assert cells[-3:] == [1, 3, 1 + 4 + 3 + 1024 + 15000]
        assert sum(cells[:-1]) == 8


def test_what_a_process_has_counted_outlives_it_and_what_it_was_doing_does_not():
    with contextlib.closing(Block.create()) as block:
        Counter(block, IMAGES, Format.PNG).add(3)
        Gauge(block, SLOTS_IN_USE).set(7)
        block.forget_process()
        successor = Block(os.dup(block.descriptor), writable=True)
        Counter(successor, IMAGES, Format.PNG).add(1)
        successor.close()
        assert (block.cells[cell_of(IMAGES, (Format.PNG,))], block.cells[cell_of(SLOTS_IN_USE)]) == (4, 0)


def test_a_block_of_another_process_cannot_be_written():
    with (
        contextlib.closing(Block.create()) as block,
        contextlib.closing(Block(os.dup(block.descriptor))) as theirs,
        pytest.raises(TypeError, match="read-only"),
    ):
        Counter(theirs, IMAGES, Format.PNG).add(1)


def test_every_error_that_a_request_can_meet_has_an_outcome():
    assert set(OUTCOMES) == set(ServiceError.__subclasses__())


def test_an_exception_that_nobody_told_of_is_an_internal_error():
    with contextlib.closing(Block.create()) as block:
        meter = RequestMeter(block, Door.GRPC)
        with pytest.raises(ZeroDivisionError), meter.request():
            raise ZeroDivisionError
        assert block.cells[cell_of(meter_family(), (Door.GRPC, Outcome.INTERNAL_ERROR))] == 1


def meter_family():
    return next(family for family in ALL if family.name == "regnetx_requests")


@pytest.mark.parametrize("name", FILES)
def test_the_first_byte_of_a_file_that_was_decoded_tells_its_format(name):
    assert FIRST_BYTES[FILES[name][0]] == name.split()[0].lower()


# --- outcomes --------------------------------------------------------------------------------------------------------


def post(service, body, path="/regnet/prediction", **headers):
    return httpx.post(f"{service.url}{path}", content=body, headers=headers, timeout=30)


@pytest.mark.parametrize(
    ("outcome", "body", "path", "headers"),
    [
        ("answered", BODY, "/regnet/prediction", {}),
        ("bad_request", "{nope", "/regnet/prediction", {}),
        ("bad_request", json.dumps({"key": ["a", "b"], "value": [TEXT]}), "/regnet/prediction", {}),
        ("bad_request", BODY, "/regnet/prediction?top_k=many", {}),
        ("bad_image", json.dumps({"key": ["a"], "value": ["aGVsbG8="]}), "/regnet/prediction", {}),
        ("unknown_service", BODY, "/imagenet/prediction", {}),
        ("not_found", BODY, "/a/b/c", {}),
        ("too_large", "x" * 70000, "/regnet/prediction", {}),
        ("deadline_exceeded", BODY, "/regnet/prediction", {"Grpc-Timeout": "1n"}),
    ],
)
def test_every_end_of_an_http_request_has_its_count(metered, outcome, body, path, headers):
    with counted(metered, Door.HTTP, **{outcome: 1}):
        post(metered, body, path, **headers)


def test_another_verb_is_counted_and_a_probe_is_not(metered):
    with counted(metered, Door.HTTP, method_not_allowed=1):
        httpx.get(f"{metered.url}/regnet/prediction")
        httpx.get(f"{metered.url}/healthz")
        httpx.get(f"{metered.url}/readyz")


def test_every_end_of_a_grpc_request_has_its_count(metered):
    with grpc.insecure_channel(metered.rpc) as channel:
        method = channel.unary_unary(METHOD, response_deserializer=wire.Response.FromString)
        with counted(metered, Door.GRPC, answered=1):
            assert method(PACKET, timeout=30).err_no == 0
        with counted(metered, Door.GRPC, bad_image=1):
            assert method(wire.Request(key=["a"], value=["aGVsbG8="]).SerializeToString(), timeout=30).err_no == 10000
        with counted(metered, Door.GRPC, bad_request=2):
            for packet, metadata in ((b"\xff\xff", None), (PACKET, (("x-top-k", "many"),))):
                with pytest.raises(grpc.RpcError):
                    method(packet, timeout=30, metadata=metadata)


def test_what_overload_and_time_cost_is_counted_by_reason(metered):
    with (
        counted(metered, Door.HTTP, overloaded=1, op_timeout=1, deadline_exceeded=1),
        stopped(*metered.children()["engine"]),
    ):
        patient, hurried = in_flight(metered), in_flight(metered, headers={"Grpc-Timeout": "2S"})
        assert Call(metered).result()[0] == 429
        now = Scrape(metered)
        assert now("regnetx_slots_in_use") == now("regnetx_slots") == 2
        assert now("regnetx_requests_in_flight", door="http") == 2
        wait_for(lambda: Scrape(metered)("regnetx_waiting_images") == 2)
        assert hurried[0].result()[0] == 504
        assert patient[0].result()[1]["err_no"] == 6000
    wait_for(lambda: Scrape(metered)("regnetx_slots_in_use") == 0)
    assert Scrape(metered)("regnetx_waiting_images") == 0


def test_images_that_wait_together_are_one_run(metered):
    before = settled(metered)
    with stopped(*metered.children()["engine"]):
        calls = in_flight(metered, 2)
        wait_for(lambda: Scrape(metered)("regnetx_waiting_images") == 2)
    assert [call.result()[1]["err_no"] for call in calls] == [0, 0]
    after = settled(metered)
    for name, gained in (("regnetx_batch_size_count", 1), ("regnetx_batch_size_sum", 2)):
        assert after(name) - before(name) == gained


def test_a_caller_that_leaves_is_counted_at_either_door(metered):
    with (
        counted(metered, Door.GRPC, caller_left=1),
        stopped(*metered.children()["engine"]),
        grpc.insecure_channel(metered.rpc) as channel,
    ):
        call = channel.unary_unary(METHOD).future(PACKET, timeout=30)
        wait_for(lambda: Scrape(metered)("regnetx_requests_in_flight", door="grpc") == 1)
        call.cancel()
        wait_for(lambda: Scrape(metered)("regnetx_requests_in_flight", door="grpc") == 0)
    with counted(metered, Door.HTTP, caller_left=1), stopped(*metered.children()["engine"]):
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(metered.prediction_url, content=BODY, timeout=0.3)
        wait_for(lambda: Scrape(metered)("regnetx_requests_in_flight", door="http") == 0)


def test_a_caller_that_leaves_requests_which_it_sent_without_waiting_is_no_error_of_ours(metered):
    host, port = metered.http.split(":")
    packet = f"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()
    with counted(metered, Door.HTTP, caller_left=1), stopped(*metered.children()["engine"]):
        with socket.create_connection((host, int(port)), timeout=30) as caller:
            caller.sendall(2 * packet)
            wait_for(lambda: Scrape(metered)("regnetx_requests_in_flight", door="http") == 1)
        wait_for(lambda: Scrape(metered)("regnetx_requests_in_flight", door="http") == 0)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_images_are_counted_by_format(metered):
    for name in ("JPEG", "PNG", "WebP lossy", "BMP", "GIF"):
        before = settled(metered)
        post(metered, json.dumps({"key": ["a"], "value": [base64.b64encode(FILES[name]).decode()]}))
        after = settled(metered)
        of_it = name.split()[0].lower()
        gained = {each: after.images(each) - before.images(each) for each in Format}
        assert {each: number for each, number in gained.items() if number} == {of_it: 1}


SHAPE = {"build_dag_each_worker": True, "worker_num": 3, "op": {"concurrency": 2, "batch_size": 4}}
IN_FLIGHT = 24
REQUESTS = 900
IMAGES_OF_ONE = 2


async def ask_all(service):
    """Half of the requests by HTTP, half by gRPC, with two images each; every third has a bad image."""
    queue = iter(range(REQUESTS))
    limits = httpx.Limits(max_connections=IN_FLIGHT)
    async with (
        httpx.AsyncClient(base_url=service.url, limits=limits, timeout=60) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        # A channel for each, so that every frontend gets some of them.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(service.rpc, options=options) for _ in range(IN_FLIGHT)]
        methods = []
        for channel in channels:
            await stack.enter_async_context(channel)
            methods.append(channel.unary_unary(METHOD, wire.Request.SerializeToString, wire.Response.FromString))

        async def work(method):
            for number in queue:
                keys, values = ["a", "b"], [TEXT, "aGVsbG8=" if number % 3 == 0 else TEXT]
                if number % 2:
                    answer = await client.post("/regnet/prediction", content=json.dumps({"key": keys, "value": values}))
                    err_no = answer.json()["err_no"]
                else:
                    err_no = (await method(wire.Request(key=keys, value=values), timeout=60)).err_no
                assert err_no == (0 if number % 3 else 10000)

        await asyncio.gather(*map(work, methods))


def test_with_several_frontends_and_engines_every_request_and_image_is_counted_exactly_once(digits_model, tmp_path):
    with serving(tmp_path, quick(digits_model, dag=ADMIN, **SHAPE)) as service:
        asyncio.run(ask_all(service))
        wait_for(lambda: Scrape(service)("regnetx_slots_in_use") == 0)
        found = settled(service)
        bad = len(range(0, REQUESTS, 3))
        for door, first in ((Door.GRPC, 0), (Door.HTTP, 1)):
            numbers = range(first, REQUESTS, 2)
            wrong = sum(number % 3 == 0 for number in numbers)
            assert found.requests(door) == {"answered": len(numbers) - wrong, "bad_image": wrong}
            assert found("regnetx_request_seconds_count", door=door) == len(numbers) - wrong
        assert found("regnetx_stage_seconds_count", stage=Stage.READ) == REQUESTS
        assert found("regnetx_stage_seconds_count", stage=Stage.LABEL) == REQUESTS - bad
        images = IMAGES_OF_ONE * REQUESTS - bad
        # The neighbour of a bad image may be passed over before it is decoded, and after that before it is run.
        assert images - bad <= found.images(Format.PNG) <= images
        for stage in (Stage.QUEUE, Stage.DECODE, Stage.PREPROCESS):
            assert found("regnetx_stage_seconds_count", stage=stage) == found.images(Format.PNG)
        run = found("regnetx_batch_size_sum")
        assert images - bad <= run <= found.images(Format.PNG)
        assert found("regnetx_stage_seconds_count", stage=Stage.INFER) == run
        assert found("regnetx_stage_seconds_count", stage=Stage.WAIT) == run
        assert found("regnetx_batch_size_bucket", le="4.0") == found("regnetx_batch_size_count")
        assert found("regnetx_slots") == 3 * 128
        assert found("regnetx_waiting_images") == 0
        assert {dict(labels)["process"] for name, labels in found.samples if "process_cpu" in name} == {
            "supervisor", "engine 0", "engine 1", "frontend 0", "frontend 1", "frontend 2",
        }  # fmt: skip


def test_counters_go_on_where_a_killed_process_left_them(digits_model, tmp_path):
    with serving(tmp_path, quick(digits_model, dag=ADMIN)) as service:
        for _ in range(3):
            infer(service)
        [frontend], [engine] = service.children()["frontend"], service.children()["engine"]
        host, port = service.http.split(":")
        with stopped(engine), socket.create_connection((host, int(port)), timeout=30) as lost:
            lost.sendall(f"POST /regnet/prediction HTTP/1.1\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode())
            wait_for(lambda: Scrape(service)("regnetx_requests_in_flight", door="http") == 1)
            os.kill(frontend, signal.SIGKILL)
            wait_for(lambda: Scrape(service)("regnetx_requests_in_flight", door="http") == 0)
            assert Scrape(service)("regnetx_slots_in_use") <= 1  # the successor's own, with which it tries the way
        wait_for(lambda: Scrape(service)("regnetx_ready") == 1)
        os.kill(engine, signal.SIGKILL)
        wait_for(lambda: service.children()["engine"] not in ([], [engine]))
        wait_for(lambda: Scrape(service)("regnetx_ready") == 1, START_SECONDS)
        infer(service)
        found = settled(service)
        assert found.requests(Door.HTTP) == {"answered": 4}
        assert found("regnetx_stage_seconds_count", stage=Stage.DECODE) in (4, 5)  # one was in the slot of who was lost
        assert 4 <= found("regnetx_batch_size_sum") <= 5
        for kind in ("engine", "frontend"):
            assert found("regnetx_process_restarts_total", kind=kind) == 1


def test_what_is_served_and_by_what_is_told(metered, digits_model):
    found = Scrape(metered)
    [(_, build)] = [key for key in found.samples if key[0] == "regnetx_build_info"]
    [(_, model)] = [key for key in found.samples if key[0] == "regnetx_model_info"]
    assert dict(build)["version"] == __version__
    assert dict(build)["paddle"]
    facts = dict(model)
    assert (facts["name"], facts["architecture"], facts["classes"]) == ("digits", "RegNetX_200MF", "10")
    assert facts["sha256"] in (digits_model.parent / "model.yml").read_text()
    assert len(facts["sha256"]) == 64


# --- exposition ------------------------------------------------------------------------------------------------------


def test_both_formats_hold_the_same_and_gzip_is_given_to_who_takes_it(metered):
    text = Scrape(metered)
    status, headers, body = ask(metered, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "application/openmetrics-text")
    assert {family.name for family in read_openmetrics(body.decode())} == {family.name for family in text.families}
    packed = httpx.get(f"http://{metered.admin}/metrics", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "regnetx_ready 1.0" in packed.text
    _, headers, body = ask(metered, "/metrics", **{"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in headers and body.startswith(b"# HELP regnetx_")


def test_every_family_is_there_from_the_first_scrape_with_unit_help_and_no_label_of_a_callers_making(metered):
    found = Scrape(metered)
    assert all(family.documentation and family.name.startswith("regnetx_") for family in found.families)
    assert {family.name for family in SHOWN} <= {family.name for family in found.families}
    for family in found.families:
        assert not re.search(r"_(ms|milliseconds|us|kb|mb|percent)(_|$)", family.name)
    names = {name for family in found.families for sample in family.samples for name in sample.labels}
    assert names <= {
        "door", "outcome", "stage", "format", "le", "engine", "kind", "process", "version", "python", "paddle", "name",
        "architecture", "classes", "height", "width", "sha256",
    }  # fmt: skip
    assert len(found.samples) < 400
    assert sum(family.kind is Kind.HISTOGRAM for family in SHOWN) == 3


def test_every_family_stands_in_the_documentation(metered):
    page = (ROOT / "docs/metrics.md").read_text()
    missing = [family.name for family in Scrape(metered).families if f"`{family.name}" not in page]
    assert missing == []
    for word in (*Outcome, *Stage, *Format, *Door):
        assert f"`{word}`" in page
    known = {sample.name for family in Scrape(metered).families for sample in family.samples}
    assert set(re.findall(r"\bregnetx_\w+", page)) - {family.name for family in Scrape(metered).families} <= known
