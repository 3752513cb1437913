"""Our configuration becomes the dict that the stock server takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from running import ROOT

from service.config import Config, Native, load_config, settings
from service.errors import ConfigError
from service.native import tokens
from service.ops.model import Model, load_model
from service.paddle_serving.pipeline_config import TOKENS_VARIABLE, pipeline_config, refuse_closed_doors


@pytest.fixture
def model(digits_model: Path) -> Model:
    return load_model(digits_model)


def config_of(**values: object) -> Config:
    local = {"model_config": "serving_models/digits", **values.pop("local", {})}
    op = {**values.pop("op", {}), "local_service_conf": local}
    return Config.model_validate({"http_port": 18080, "rpc_port": 9993, **values, "op": {"imagenet": op}})


def test_the_shipped_configuration_becomes_this(model):
    assert pipeline_config(load_config(ROOT / "config.yml", {}), model) == {
        "http_port": 18080,
        "rpc_port": 9993,
        "worker_num": 1,
        "build_dag_each_worker": False,
        "dag": {
            "is_thread_op": False,
            "client_type": "brpc",
            "retry": 1,
            "use_profile": False,
            "channel_size": 0,
            "channel_recv_frist_arrive": False,
            "tracer": {"interval_s": -1},
            "enable_prometheus": False,
        },
        "op": {
            "regnet": {
                "concurrency": 2,
                "timeout": -1,
                "retry": 1,
                "batch_size": 1,
                "auto_batching_timeout": -1,
                "local_service_conf": {
                    "client_type": "local_predictor",
                    "model_config": str(model.program.parent.resolve()),
                    "workdir": "",
                    "thread_num": 2,
                    "device_type": 0,
                    "devices": "",
                    "mem_optim": True,
                    "ir_optim": True,
                    "precision": "fp32",
                    "use_calib": False,
                    "use_mkldnn": True,
                    "mkldnn_cache_capacity": 0,
                    "min_subgraph_size": 3,
                },
            }
        },
    }


def test_each_call_makes_a_dict_of_its_own(model):
    config = config_of()
    first = pipeline_config(config, model)
    first["op"]["imagenet"]["local_service_conf"]["changed by stock"] = True
    first["dag"]["tracer"]["changed by stock"] = True
    assert pipeline_config(config, model) != first
    assert "changed by stock" not in str(pipeline_config(config, model))


@pytest.mark.parametrize(("timeout", "batch_size"), [(-1, 1), (0, 1), (5, 16)])
def test_a_batch_that_would_be_waited_for_without_end_is_none(model, timeout, batch_size):
    config = config_of(op={"batch_size": 16, "auto_batching_timeout": timeout})
    assert pipeline_config(config, model)["op"]["imagenet"]["batch_size"] == batch_size


def test_a_door_that_is_absent_stays_absent(model):
    config = Config.model_validate({"rpc_port": 9993, "op": config_of().model_dump(by_alias=True)["op"]})
    assert "http_port" not in pipeline_config(config, model)


@pytest.mark.parametrize("port", [0, 80, 1023])
@pytest.mark.parametrize("key", ["http_port", "rpc_port"])
def test_ports_that_stock_refuses_are_refused_by_name(model, key, port):
    with pytest.raises(
        ConfigError, match=f"{key}: {port} is not accepted by the stock runtime; accepted: 1024 to 65535"
    ):
        pipeline_config(config_of(**{key: port}), model)


@pytest.mark.parametrize("device_type", [1, 2, 4, 5])
def test_devices_without_numbers_are_refused(model, device_type):
    with pytest.raises(ConfigError, match=f"devices: '' is not accepted .* beside device_type {device_type}"):
        pipeline_config(config_of(local={"device_type": device_type}), model)
    numbered = config_of(local={"device_type": device_type, "devices": "0,1"})
    assert pipeline_config(numbered, model)["op"]["imagenet"]["local_service_conf"]["devices"] == "0,1"


TLS = {"tls_certificate": "a.crt", "tls_key": "a.key"}


@pytest.mark.parametrize(
    ("native", "environment", "named"),
    [
        (TLS, {}, "native.tls_certificate: 'a.crt' is not"),
        ({**TLS, "tls_client_ca": "ca.crt"}, {}, "native.tls_certificate: 'a.crt' is not"),
        ({"tokens_file": "tokens"}, {}, "native.tokens_file: 'tokens' is not"),
        ({}, {TOKENS_VARIABLE: "a-token-of-sixteen-letters"}, "environment: REGNETX_TOKENS is not"),
        ({}, {TOKENS_VARIABLE: ""}, "environment: REGNETX_TOKENS is not"),
    ],
    ids=["TLS", "mutual TLS", "a file of tokens", "tokens in the environment", "no token in the environment"],
)
def test_doors_that_stock_cannot_close_are_refused_and_no_token_is_written(native, environment, named):
    with pytest.raises(
        ConfigError, match="not accepted by the stock runtime, which has neither TLS nor tokens"
    ) as error:
        refuse_closed_doors(Native.model_validate(native), environment)
    assert str(error.value).startswith(named) and "a-token" not in str(error.value)


def test_open_doors_are_not_refused_and_the_variable_of_tokens_is_that_of_the_native_runtime():
    refuse_closed_doors(load_config(ROOT / "config.yml", {}).native, {"REGNETX_TOKEN": "of a client"})
    assert TOKENS_VARIABLE == tokens.VARIABLE


CPU, GPU, TENSORRT, LITE = {"device_type": 0}, {"device_type": 1}, {"device_type": 2}, {"device_type": 3}


@pytest.mark.parametrize(
    ("device", "accepted"),
    [
        (CPU, {"fp32", "bf16"}),
        ({}, {"fp32", "bf16"}),
        ({**CPU, "use_mkldnn": False}, {"fp32", "bf16"}),
        ({**CPU, "ir_optim": False}, {"fp32"}),
        ({**GPU, "devices": "0"}, {"fp32"}),
        ({"devices": "0"}, {"fp32"}),
        ({**TENSORRT, "devices": "0"}, {"fp32", "fp16", "int8"}),
        (LITE, {"fp32", "fp16", "bf16", "int8"}),
    ],
    ids=["CPU", "by devices", "no oneDNN", "no ir_optim", "GPU", "GPU by devices", "TensorRT", "another library"],
)
def test_a_precision_that_stock_would_not_compute_with_is_refused(model, device, accepted):
    for precision in ("fp32", "fp16", "bf16", "int8"):
        config = config_of(local={**device, "precision": precision})
        if precision in accepted:
            made = pipeline_config(config, model)["op"]["imagenet"]["local_service_conf"]
            assert made["precision"] == precision
            continue
        with pytest.raises(
            ConfigError, match=rf"precision: {precision} is not accepted by the stock runtime on "
        ) as error:
            pipeline_config(config, model)
        assert set(str(error.value).rpartition("accepted: ")[2].split(", ")) == accepted


def test_the_migration_guide_has_every_key_of_the_configuration():
    guide = (ROOT / "docs/migrating.md").read_text(encoding="utf-8")
    table = guide[guide.index("## Every key") : guide.index("## What the stock runtime")]
    missing = [
        ".".join(setting.path)
        for setting in settings()
        if setting.path[0] != "native" and not re.search(rf"[`.]{setting.path[-1]}`", table)
    ]
    assert not missing
