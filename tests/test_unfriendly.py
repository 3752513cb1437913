"""Starting and stopping among unfriendly others: early callers, readers that left, watchers that never leave."""

from __future__ import annotations

import http.client
import signal
import socket
import threading

import grpc
import yaml
from calling import BODY, METHOD, TEXT, answers, free_port, get, infer, stopped
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import children_of, configuration, quick, serving, start, wait_for, wait_until_ready

from regnetx_client.wire import pipeline_service_pb2 as wire


def launch(tmp_path, config, **options):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(config))
    return start(["serve", "--config", str(file)], **options)


def test_callers_that_are_early_do_not_keep_the_service_from_getting_ready(tmp_path, digits_model):
    port = free_port()
    # With an engine that takes its time: callers must find the door open before it is ready.
    process = launch(tmp_path, {**configuration(digits_model, native={"slots": 1}), "http_port": port})
    wait_for(lambda: answers(port) == 200)
    assert answers(port, "/readyz") == 503
    over = threading.Event()

    def insist():
        while not over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/regnet/prediction", BODY)
            connection.getresponse().read()
            connection.close()

    callers = [threading.Thread(target=insist) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        service = wait_until_ready(process)
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert get(service, "/readyz") == 200
    infer(service)
    assert service.stop() == 0
    process.stdout.close()


def test_the_service_serves_although_nobody_reads_its_ready_line(tmp_path, digits_model):
    port = free_port()
    process = launch(tmp_path, {**quick(digits_model), "http_port": port})
    process.stdout.close()
    wait_for(lambda: answers(port, "/readyz") == 200)
    engines_and_frontends = children_of(process.pid)
    assert len(engines_and_frontends) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_a_caller_that_never_sends_its_body_does_not_keep_the_service_from_stopping(tmp_path, digits_model, capfd):
    with serving(tmp_path, quick(digits_model, native={"drain_timeout_ms": 300})) as service:
        host, port = service.http.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as caller:
            caller.sendall(b"POST /regnet/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            for _ in range(3):
                get(service, "/healthz")
            service.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: caller.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and b'"err_no":3001' in answer
        assert service.process.wait(60) == 0
    assert "Traceback" not in capfd.readouterr().err


def test_a_watcher_of_health_does_not_hold_up_a_stop_and_what_is_in_flight_is_answered(tmp_path, digits_model):
    endless = {"drain_timeout_ms": 600_000}
    with (
        serving(tmp_path, quick(digits_model, native=endless)) as service,
        grpc.insecure_channel(service.rpc) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with stopped(*service.children()["engine"]):
            call = channel.unary_unary(METHOD).future(wire.Request(key=["a"], value=[TEXT]).SerializeToString())
            # One connection: the frontend has the call when it answers what was sent later.
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            service.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert wire.Response.FromString(call.result(30)).err_no == 0
        assert service.process.wait(60) == 0
