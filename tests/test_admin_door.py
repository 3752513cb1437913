"""The door of operators: probes that tell the truth whatever happens to the processes, and bounds on who asks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from types import SimpleNamespace

import pytest
import yaml
from calling import all_processes, connect, get, in_flight, infer, rest_of, stopped
from running import (
    START_SECONDS,
    configuration,
    descriptors_of,
    is_alive,
    quick,
    serving,
    start,
    wait_for,
    wait_until_ready,
)
from scraping import ADMIN, Scrape, ask, probe

from service.config import Config
from service.native.admin import MAX_CONNECTIONS, AdminDoor
from service.native.condition import Condition
from service.native.generation import Generation
from service.native.http_protocol import MAX_HEAD_BYTES
from service.native.listen import bind
from service.native.metric_block import Block
from service.native.versions import Versions
from service.native.vitals import Vitals
from service.ops.model import load_model

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def watched(digits_model, tmp_path_factory):
    """A service with an admin door that every test leaves as it was."""
    with serving(tmp_path_factory.mktemp("watched"), quick(digits_model, dag=ADMIN)) as running:
        yield running


# --- routes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "word"), [("/healthz", b"ok\n"), ("/readyz", b"ready\n"), ("/metrics", b"# HELP ")])
def test_a_route_answers_get_and_to_head_the_same_without_a_body(watched, path, word):
    status, headers, body = ask(watched, path)
    assert (status, body[: len(word)]) == (200, word)
    assert headers["Content-Type"].startswith("text/plain")
    status, _, body = ask(watched, path, "HEAD")
    assert (status, body) == (200, b"")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/regnet/prediction", "/healthz/x"])
def test_other_paths_are_404_and_say_which_there_are(watched, path):
    assert probe(watched, path) == (404, "accepted: /metrics, /healthz, /readyz")


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_verbs_are_405(watched, verb):
    status, headers, _ = ask(watched, "/metrics", verb)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_one_family_can_be_asked_for_by_name(watched):
    _, _, body = ask(watched, "/metrics?name%5B%5D=regnetx_ready")
    assert body.decode().splitlines()[-1] == "regnetx_ready 1.0"
    assert b"regnetx_slots" not in body


def test_a_query_that_is_not_text_is_refused_and_the_door_stays_open(watched):
    with connect(watched.admin) as caller:
        caller.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: \xff\xfe\r\nConnection: close\r\n\r\n")
        assert rest_of(caller).startswith(b"HTTP/1.1 400")
    assert probe(watched, "/healthz") == (200, "ok")


# --- where it is -----------------------------------------------------------------------------------------------------


def test_without_its_key_there_is_no_such_door(service):
    assert service.admin == ""
    assert not any(line.startswith("admin:") for line in service.lines)


def test_the_admin_door_may_listen_on_another_address_than_the_others(tmp_path, digits_model):
    config = quick(digits_model, dag=ADMIN, native={"admin_host": "127.0.0.2"})
    with serving(tmp_path, config) as service:
        assert (service.admin.split(":")[0], service.http.split(":")[0]) == ("127.0.0.2", "127.0.0.1")
        assert probe(service, "/readyz") == (200, "ready")
        port = int(service.admin.split(":")[1])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30)


def refusal(tmp_path, config):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(config))
    process = start(["serve", "--config", str(file)], stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    return err


def test_a_port_that_is_taken_and_an_address_that_is_not_ours_are_named(tmp_path, digits_model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = configuration(digits_model, dag={**ADMIN, "prometheus_port": port})
        assert f"dag.prometheus_port: {port} on 127.0.0.1: Address already in use" in refusal(tmp_path, config)
    config = configuration(digits_model, dag=ADMIN, native={"admin_host": "no such host"})
    assert "native.admin_host: 'no such host' is not an address of this machine" in refusal(tmp_path, config)


# --- from the start to the end ---------------------------------------------------------------------------------------


def test_the_door_is_open_before_the_model_is_loaded_and_until_the_last_request_is_answered(tmp_path, digits_model):
    with socket.create_server(("127.0.0.1", 0)) as probe_socket:
        port = probe_socket.getsockname()[1]
    file = tmp_path / "config.yml"
    dag = {**ADMIN, "prometheus_port": port}
    file.write_text(yaml.safe_dump(configuration(digits_model, dag=dag, native={"drain_delay_ms": 300})))
    process = start(["serve", "--config", str(file)])
    try:
        # The first line comes when the door is open, seconds before an engine can be ready.
        line = process.stdout.readline()
        assert line == f"admin: http://127.0.0.1:{port} has /metrics, /healthz and /readyz\n"
        early = Early(f"127.0.0.1:{port}")
        assert probe(early, "/healthz") == (200, "ok")
        assert probe(early, "/readyz") == (503, "engine 0 is loading")
        assert Scrape(early)("regnetx_ready") == 0
        service = wait_until_ready(process)
        service.admin = early.admin
        assert probe(service, "/readyz") == (200, "ready")
        with stopped(*service.children()["engine"]):
            [call] = in_flight(service)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: probe(service, "/readyz") == (503, "draining"))
            assert probe(service, "/healthz") == (200, "ok")
            assert Scrape(service)("regnetx_requests_in_flight", door="http") == 1
        assert call.result()[1]["err_no"] == 0
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


class Early:
    """A service that is not ready yet, as far as its admin door knows it."""

    def __init__(self, admin):
        self.admin = admin


def test_callers_of_the_admin_door_do_not_keep_the_service_from_ending(tmp_path, digits_model):
    with serving(tmp_path, quick(digits_model, dag=ADMIN)) as service, contextlib.ExitStack() as stack:
        processes = all_processes(service)
        callers = [stack.enter_context(connect(service.admin)) for _ in range(3)]
        callers[0].sendall(GET)
        callers[1].sendall(GET[:10])
        callers[2].sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)  # and never reads
        assert callers[0].recv(65536).startswith(b"HTTP/1.1 200")
        assert service.stop() == 0
        assert not any(is_alive(pid) for pid in processes)


# --- what probes are told when processes fail ------------------------------------------------------------------------


def test_a_frontend_that_stands_still_is_not_alive_until_it_goes_on(tmp_path, digits_model):
    shape = {"build_dag_each_worker": True, "worker_num": 2}
    with serving(tmp_path, quick(digits_model, dag=ADMIN, **shape)) as service:
        standing = service.children()["frontend"][0]
        with stopped(standing):
            wait_for(lambda: probe(service, "/healthz")[0] == 503)
            status, reason = probe(service, "/healthz")
            assert (status, reason[:9], reason[10:31]) == (503, "frontend ", " has been silent for ")
            assert probe(service, "/readyz")[0] == 503
        wait_for(lambda: probe(service, "/healthz") == (200, "ok"))
        wait_for(lambda: probe(service, "/readyz") == (200, "ready"))


def test_a_frontend_that_is_killed_is_a_reason_not_to_be_ready_and_none_to_be_started_again(tmp_path, digits_model):
    with serving(tmp_path, quick(digits_model, dag=ADMIN)) as service:
        os.kill(service.children()["frontend"][0], signal.SIGKILL)
        wait_for(lambda: probe(service, "/readyz") == (503, "frontend 0 is being started again"))
        assert probe(service, "/healthz") == (200, "ok")
        wait_for(lambda: probe(service, "/readyz") == (200, "ready"))


def test_without_an_engine_that_moves_the_service_is_alive_and_not_ready_at_both_doors(tmp_path, digits_model):
    shape = {"op": {"concurrency": 2}, "local": {"thread_num": 2}}
    with serving(tmp_path, quick(digits_model, dag=ADMIN, **shape)) as service:
        engines = service.children()["engine"]
        with stopped(*engines):
            calls = in_flight(service, 4)
            # A frontend may notice first that nothing is done, and an engine may be stopped in the middle of a run.
            standing = re.compile(
                "; ".join(f"engine {n} has been (silent|in one run of the model) for .*" for n in "01")
            )
            wait_for(lambda: standing.match(probe(service, "/readyz")[1]))
            assert probe(service, "/readyz")[0] == 503
            wait_for(lambda: get(service, "/readyz") == 503)
            found = Scrape(service)
            assert [found("regnetx_engine_up", engine=engine) for engine in "01"] == [0, 0]
            assert (probe(service, "/healthz"), get(service, "/healthz")) == ((200, "ok"), 200)
            os.kill(engines[0], signal.SIGCONT)
            wait_for(lambda: probe(service, "/readyz") == (200, "ready"))
            wait_for(lambda: get(service, "/readyz") == 200)
        assert [call.result()[1]["err_no"] for call in calls] == [0] * 4
        assert sum(Scrape(service)("regnetx_engine_up", engine=engine) for engine in "01") == 2


def test_an_engine_that_is_killed_is_a_reason_until_its_successor_is_warm(tmp_path, digits_model):
    with serving(tmp_path, configuration(digits_model, dag=ADMIN)) as service:
        os.kill(service.children()["engine"][0], signal.SIGKILL)
        wait_for(lambda: probe(service, "/readyz") == (503, "engine 0 is being started again"))
        assert Scrape(service)("regnetx_ready") == 0
        wait_for(lambda: probe(service, "/readyz") == (200, "ready"), START_SECONDS)
        infer(service)


def test_a_run_that_does_not_end_is_a_reason_only_while_no_other_engine_is_there():
    with contextlib.closing(Block.create()) as first, contextlib.closing(Block.create()) as second:
        stuck, other = child_of(0, first), child_of(1, second)
        stuck.vitals.patience = 0.0
        stuck.vitals.begin_run()
        condition = Condition(SimpleNamespace(engines=[stuck, other]), [])
        assert condition.why_not_ready == ""
        assert (condition.is_up(stuck), condition.is_up(other)) == (False, True)
        other.ready.clear()
        words = r"engine 0 has been in one run of the model for \d+ s; engine 1 is being started again"
        assert re.fullmatch(words, condition.why_not_ready)
        assert condition.why_not_alive == ""
        stuck.vitals.end_run()
        assert condition.why_not_ready == ""


def child_of(number, block):
    """An engine as the supervisor has it, that is ready."""
    vitals = Vitals(block)
    vitals.beat()
    ready = threading.Event()
    ready.set()
    return SimpleNamespace(name=f"engine {number}", ready=ready, was_ready=True, why_down="", vitals=vitals)


def test_full_slots_are_no_reason_at_all(tmp_path, digits_model):
    with serving(tmp_path, quick(digits_model, dag=ADMIN, native={"slots": 1})) as service:
        with stopped(*service.children()["engine"]):
            calls = in_flight(service)
            assert Scrape(service)("regnetx_slots_in_use") == 1
            assert probe(service, "/healthz") == (200, "ok")
            assert probe(service, "/readyz") == (200, "ready")
        assert calls[0].result()[1]["err_no"] == 0


# --- callers that are slow, many or hostile --------------------------------------------------------------------------


def test_a_probe_is_answered_however_many_connections_are_held_open(watched):
    before = descriptors_of(watched.process.pid)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(watched.admin)) for _ in range(3 * MAX_CONNECTIONS)]
        for caller in held[::2]:
            with contextlib.suppress(ConnectionError):
                caller.sendall(GET[:-2])
        assert probe(watched, "/readyz") == (200, "ready")
        assert descriptors_of(watched.process.pid) <= before + MAX_CONNECTIONS  # the oldest had to make room
        held[-1].sendall(GET)
        assert held[-1].recv(100).startswith(b"HTTP/1.1 200")
    infer(watched)


@pytest.fixture
def impatient(monkeypatch, digits_model):
    """An admin door in this process, with a short bound on an exchange; its service has no processes."""
    monkeypatch.setattr("service.native.admin.EXCHANGE_SECONDS", 0.2)
    config = Config.model_validate(configuration(digits_model, dag=ADMIN))
    generation = Generation(0, config, load_model(digits_model))
    versions = Versions(generation)
    yield AdminDoor(config, versions, Condition(versions, []))
    generation.close()


@pytest.mark.parametrize(
    ("packet", "reads"),
    [(b"", True), (GET[:-2], True), (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, False)],
    ids=["says nothing", "does not end its head", "does not read"],
)
async def test_a_caller_that_takes_its_time_is_hung_up_on(impatient, packet, reads):
    listener = bind("127.0.0.1", 0, "dag.prometheus_port")
    await impatient.open(listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    if not reads:
        writer.transport.pause_reading()
    writer.write(packet)
    try:
        await asyncio.wait_for(wait_until_alone(impatient), 30)
        assert not reads or await reader.read() == b""
    except ConnectionResetError:
        pass
    finally:
        writer.transport.abort()
        await impatient.close()


async def wait_until_alone(door):
    """Until a connection has been there and has gone."""
    while not door.connections:  # noqa: ASYNC110 (the door tells nobody)
        await asyncio.sleep(0.005)
    while door.connections:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_a_head_that_does_not_end_is_431(watched):
    with connect(watched.admin) as caller:
        packet = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Endless: "
        caller.sendall(packet + b"x" * (MAX_HEAD_BYTES + 1 - len(packet)))
        assert rest_of(caller).startswith(b"HTTP/1.1 431")


def test_scrapes_that_come_without_waiting_are_all_answered_in_order(watched):
    paths = [b"/healthz", b"/readyz", b"/nothing", b"/healthz"]
    with connect(watched.admin) as caller:
        caller.sendall(b"".join(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths[:-1]))
        caller.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % paths[-1])
        answers = rest_of(caller)
    assert [answers.count(word) for word in (b"\r\n\r\nok\n", b"\r\n\r\nready\n", b"accepted: /metrics")] == [2, 1, 1]
    assert answers.index(b"ready\n") < answers.index(b"accepted")


@pytest.mark.parametrize("garbage", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_what_is_not_http_is_answered_or_closed(watched, garbage):
    with connect(watched.admin) as caller:
        caller.sendall(garbage)
        answer = caller.recv(4096)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert probe(watched, "/healthz") == (200, "ok")


def test_many_scrapes_at_once_and_requests_beside_them_are_all_answered(watched):
    answered = []

    def scrape():
        for _ in range(10):
            answered.append(Scrape(watched)("regnetx_ready"))

    threads = [threading.Thread(target=scrape, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        infer(watched)
    for thread in threads:
        thread.join(60)
    assert answered == [1.0] * 80
