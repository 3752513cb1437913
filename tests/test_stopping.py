"""How the service stops: not ready, then finished, then gone, with nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess

import grpc
import yaml
from calling import all_processes, get, in_flight, infer, is_refused, ports_are_free, stopped
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import ends_before_it_is_ready, is_alive, quick, serving, start, wait_for, wait_until_ready


def test_sigterm_is_first_not_ready_then_finishes_what_is_in_flight_then_exit_0(tmp_path, digits_model):
    with serving(tmp_path, quick(digits_model, native={"drain_delay_ms": 1500})) as service:
        processes = all_processes(service)
        with stopped(*service.children()["engine"]):
            [call] = in_flight(service)
            with grpc.insecure_channel(service.rpc) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
                service.process.send_signal(signal.SIGTERM)
                assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            # The delay is for load balancers: not ready, and still answering.
            assert (get(service, "/readyz"), get(service, "/healthz")) == (503, 200)
        infer(service)
        assert call.result()[1]["err_no"] == 0
        assert service.process.wait(60) == 0
        assert not any(is_alive(pid) for pid in processes)
        assert ports_are_free(service)


def test_a_connection_that_comes_while_it_drains_is_refused_not_left_waiting(tmp_path, digits_model):
    with serving(tmp_path, quick(digits_model)) as service:
        with stopped(*service.children()["engine"]):
            [call] = in_flight(service)
            service.process.send_signal(signal.SIGTERM)
            wait_for(lambda: is_refused(service.http))
            wait_for(lambda: is_refused(service.rpc))
        assert call.result()[1]["err_no"] == 0
        assert service.process.wait(60) == 0


def test_what_cannot_be_finished_in_time_is_answered_with_err_no_3001(tmp_path, digits_model):
    with serving(tmp_path, quick(digits_model, native={"drain_timeout_ms": 300})) as service:
        with stopped(*service.children()["engine"]):
            [call] = in_flight(service)
            service.process.send_signal(signal.SIGTERM)
            status, answer = call.result()
            assert (status, answer["err_no"], answer["err_msg"]) == (200, 3001, "dag closed.")
        assert service.process.wait(60) == 0


def test_ctrl_c_reaches_the_whole_group_and_is_a_clean_stop(tmp_path, digits_model):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(quick(digits_model)))
    process = start(["serve", "--config", str(file)], start_new_session=True, stderr=subprocess.PIPE)
    service = wait_until_ready(process)
    processes = all_processes(service)
    with stopped(*service.children()["engine"]):
        [call] = in_flight(service)
        os.killpg(process.pid, signal.SIGINT)
    assert call.result()[1]["err_no"] == 0
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert not any(is_alive(pid) for pid in processes)


def test_sigterm_while_it_starts_leaves_nothing_behind(tmp_path, digits_model):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(quick(digits_model)))
    ends_before_it_is_ready(start(["serve", "--config", str(file)], stderr=subprocess.PIPE))
