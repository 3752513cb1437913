"""What is lost with a process that is killed, and what is not: real processes, real signals."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
from calling import METHOD, TEXT, Call, get, in_flight, infer, stopped
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import configuration, quick, serving, wait_for

from regnetx_client.wire import pipeline_service_pb2 as wire


def test_a_caller_that_leaves_does_not_strand_its_neighbours(service):
    packet = wire.Request(key=["image"], value=[TEXT]).SerializeToString()
    with grpc.insecure_channel(service.rpc) as channel, stopped(*service.children()["engine"]):
        method = channel.unary_unary(METHOD, response_deserializer=wire.Response.FromString)
        calls = [method.future(packet, timeout=60) for _ in range(6)]
        neighbours = in_flight(service, 2)
        for call in calls[::2]:
            call.cancel()
        for pid in service.children()["engine"]:
            os.kill(pid, signal.SIGCONT)
        assert [call.result().err_no for call in calls[1::2]] == [0, 0, 0]
        assert [call.result()[1]["err_no"] for call in neighbours] == [0, 0]


def test_an_engine_that_is_killed_under_load_costs_no_request(tmp_path, digits_model):
    with serving(tmp_path, quick(digits_model)) as service, ThreadPoolExecutor(8) as pool:
        [engine] = service.children()["engine"]
        with stopped(engine):
            owed = in_flight(service, 8)
            os.kill(engine, signal.SIGKILL)
        more = [pool.submit(lambda: Call(service).result()) for _ in range(40)]
        for status, answer in [call.result() for call in owed] + [call.result() for call in more]:
            assert (status, answer["err_no"]) == (200, 0), answer
        [successor] = service.children()["engine"]
        assert successor != engine
        assert get(service, "/readyz") == 200
        assert service.stop() == 0


def test_without_an_engine_the_service_is_alive_but_not_ready(tmp_path, digits_model):
    with serving(tmp_path, configuration(digits_model)) as service, grpc.insecure_channel(service.rpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        os.kill(service.children()["engine"][0], signal.SIGKILL)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (get(service, "/readyz"), get(service, "/healthz")) == (503, 200)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert get(service, "/readyz") == 200


def test_a_frontend_that_is_killed_is_started_again_on_the_same_ports(tmp_path, digits_model):
    with serving(tmp_path, quick(digits_model)) as service:
        [frontend] = service.children()["frontend"]
        os.kill(frontend, signal.SIGKILL)
        wait_for(lambda: service.children()["frontend"] not in ([], [frontend]))
        infer(service)  # it waits in the listener's backlog until the new frontend takes it
        assert service.stop() == 0
