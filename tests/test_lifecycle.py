"""How the service starts, refuses to start, loses processes and stops: real processes, real signals."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import children_of, configuration, is_alive, serving, start, wait_for, wait_until_ready

from regnetx_client.wire import pipeline_service_pb2 as wire
from serving_models.bundled.digits.held_out import held_out

METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
TEXT = base64.b64encode(held_out().images[0]).decode()
BODY = json.dumps({"key": ["image"], "value": [TEXT]})


class Call(threading.Thread):
    """One HTTP request in a thread of its own; ``sent`` when the server's kernel has all of it."""

    def __init__(self, service, body=BODY, headers=None):
        super().__init__(daemon=True)
        self.service, self.body, self.headers = service, body, headers or {}
        self.sent = threading.Event()
        self.status, self.answer, self.answer_headers = None, None, None
        self.start()

    def run(self):
        connection = http.client.HTTPConnection(self.service.http, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", f"/{self.service.name}/prediction", self.body, self.headers)
            self.sent.set()
            response = connection.getresponse()
            self.status, self.answer_headers, self.answer = (
                response.status,
                response.headers,
                json.loads(response.read()),
            )

    def result(self):
        self.join(60)
        assert not self.is_alive(), "no answer came"
        return self.status, self.answer


def get(service, path):
    connection = http.client.HTTPConnection(service.http, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status


def infer(service):
    status, answer = Call(service).result()
    assert (status, answer["err_no"]) == (200, 0), answer
    return answer


@contextlib.contextmanager
def stopped(*pids):
    """Processes that stand still, so that what they owe stays owed."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def in_flight(service, count=1, **options):
    """Calls that a frontend has read; the engine must be standing still."""
    calls = [Call(service, **options) for _ in range(count)]
    for call in calls:
        assert call.sent.wait(30)
    for _ in range(3):  # the frontend reads its connections in turn, so a later answer means an earlier request is in
        get(service, "/healthz")
    return calls


def all_processes(service):
    return [service.process.pid, *(pid for pids in service.children().values() for pid in pids)]


# --- start ---------------------------------------------------------------------------------------


def test_a_start_prints_a_ready_line_and_a_request_to_paste(service):
    assert service.lines[0].startswith("ready: digits (RegNetX_200MF, 10 classes) at POST http://127.0.0.1:")
    result = subprocess.run(
        service.lines[1].removeprefix("try: "), shell=True, capture_output=True, text=True, timeout=60
    )
    assert json.loads(result.stdout)["err_no"] == 0


def refusal(tmp_path, config):
    file = tmp_path / "config.yml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    process = start(["serve", "--config", str(file)], stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out == "" and "Traceback" not in err
    return err


def test_a_wrong_configuration_is_one_line_and_exit_code_2(tmp_path, digits_model):
    err = refusal(tmp_path, configuration(digits_model, op={"batch_size": 0}))
    assert err.count("\n") == 1
    assert "op.regnet.batch_size: 0 is not accepted; accepted: greater than or equal to 1" in err


def test_a_missing_model_is_named(tmp_path):
    assert "nowhere" in refusal(tmp_path, configuration(tmp_path / "nowhere"))


@pytest.mark.parametrize("key", ["http_port", "rpc_port"])
def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path, digits_model, key):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        err = refusal(tmp_path, configuration(digits_model, **{key: port}))
    assert f"{key}: {port} on 127.0.0.1: Address already in use" in err


def test_a_port_of_another_running_service_is_named(tmp_path, digits_model, service):
    port = int(service.rpc.split(":")[1])
    assert "Address already in use" in refusal(tmp_path, configuration(digits_model, rpc_port=port))


def test_a_device_that_this_build_has_not_is_refused(tmp_path, digits_model):
    err = refusal(tmp_path, configuration(digits_model, local={"device_type": 1, "devices": "0"}))
    assert "device_type: 1 (GPU), but the installed paddlepaddle" in err


def test_a_model_that_cannot_warm_up_never_becomes_ready(tmp_path, digits_model):
    model = tmp_path / "nine"
    shutil.copytree(digits_model.parent, model)
    facts = yaml.safe_load((model / "model.yml").read_text())
    facts["output"]["classes"] = 9
    (model / "model.yml").write_text(yaml.safe_dump(facts))
    labels = (model / "labels.txt").read_text().splitlines()
    (model / "labels.txt").write_text("".join(f"{label}\n" for label in labels[:9]))
    assert "answers (8, 10), expected (8, 9)" in refusal(tmp_path, configuration(model / "serving_server"))


def test_a_damaged_program_is_refused(tmp_path, digits_model):
    model = tmp_path / "damaged"
    shutil.copytree(digits_model.parent, model)
    program = model / "serving_server/inference.pdmodel"
    program.write_bytes(program.read_bytes()[:1000])
    assert "inference.pdmodel" in refusal(tmp_path, configuration(model / "serving_server"))


@pytest.mark.parametrize("door", ["http_port", "rpc_port"])
def test_one_door_alone_is_enough(tmp_path, digits_model, door):
    config = configuration(digits_model)
    del config["rpc_port" if door == "http_port" else "http_port"]
    with serving(tmp_path, config) as service:
        assert bool(service.http) is (door == "http_port")
        assert bool(service.rpc) is (door == "rpc_port")
        if service.http:
            infer(service)
        else:
            with grpc.insecure_channel(service.rpc) as channel:
                packet = wire.Request(key=["image"], value=[TEXT]).SerializeToString()
                assert wire.Response.FromString(channel.unary_unary(METHOD)(packet, timeout=30)).err_no == 0
        assert service.stop() == 0


def test_the_op_of_a_paddleclas_configuration_names_the_service(tmp_path, digits_model):
    with serving(tmp_path, configuration(digits_model, name="imagenet")) as service:
        assert "/imagenet/prediction" in service.prediction_url
        infer(service)


# --- bounds and deadlines ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(digits_model, tmp_path_factory):
    """Two slots, a small body and a short op timeout."""
    limits = {"slots": 2, "max_body_bytes": 65536, "max_image_bytes": 20000, "max_image_pixels": 10000}
    config = configuration(digits_model, native=limits, op={"timeout": 1500})
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


# --- loss ----------------------------------------------------------------------------------------


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
    with serving(tmp_path, configuration(digits_model)) as service, ThreadPoolExecutor(8) as pool:
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
    with serving(tmp_path, configuration(digits_model)) as service:
        [frontend] = service.children()["frontend"]
        os.kill(frontend, signal.SIGKILL)
        wait_for(lambda: service.children()["frontend"] not in ([], [frontend]))
        infer(service)  # it waits in the listener's backlog until the new frontend takes it
        assert service.stop() == 0


def test_a_supervisor_that_is_killed_takes_everything_with_it(tmp_path, digits_model):
    with serving(tmp_path, configuration(digits_model)) as service:
        processes = all_processes(service)
        assert len(processes) == 3
        service.process.kill()
        service.process.wait()
        wait_for(lambda: not any(is_alive(pid) for pid in processes))
        # A process whose threads are still on their way out counts as dead but holds its sockets.
        wait_for(lambda: ports_are_free(service))


# --- stop ----------------------------------------------------------------------------------------


def ports_are_free(service):
    for address in (service.http, service.rpc):
        host, port = address.split(":")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
                probe.listen()
            except OSError:
                return False
    return True


def test_sigterm_is_first_not_ready_then_finishes_what_is_in_flight_then_exit_0(tmp_path, digits_model):
    with serving(tmp_path, configuration(digits_model, native={"drain_delay_ms": 1500})) as service:
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


def test_what_cannot_be_finished_in_time_is_answered_with_err_no_3001(tmp_path, digits_model):
    with serving(tmp_path, configuration(digits_model, native={"drain_timeout_ms": 300})) as service:
        with stopped(*service.children()["engine"]):
            [call] = in_flight(service)
            service.process.send_signal(signal.SIGTERM)
            status, answer = call.result()
            assert (status, answer["err_no"], answer["err_msg"]) == (200, 3001, "dag closed.")
        assert service.process.wait(60) == 0


def test_ctrl_c_reaches_the_whole_group_and_is_a_clean_stop(tmp_path, digits_model):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(configuration(digits_model)))
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
    file.write_text(yaml.safe_dump(configuration(digits_model)))
    process = start(["serve", "--config", str(file)], stderr=subprocess.PIPE)
    wait_for(lambda: len(children_of(process.pid)) == 2)
    children = children_of(process.pid)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert not any(is_alive(pid) for pid in children)
