"""How the service starts and refuses to start: one line and an exit code, before anything else happens."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess

import grpc
import pytest
import yaml
from calling import METHOD, TEXT, infer
from running import configuration, quick, serving, start

from regnetx_client.wire import pipeline_service_pb2 as wire


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
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
    err = refusal(tmp_path, configuration(model / "serving_server"))
    assert "inference.pdmodel: SHA-256 is " in err and "export it again" in err


@pytest.mark.parametrize("door", ["http_port", "rpc_port"])
def test_one_door_alone_is_enough(tmp_path, digits_model, door):
    config = quick(digits_model)
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
    with serving(tmp_path, quick(digits_model, name="imagenet")) as service:
        assert "/imagenet/prediction" in service.prediction_url
        infer(service)
