"""Our configuration becomes the dict that the stock server takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from running import ROOT

from service.config import Config, load_config, settings
from service.errors import ConfigError
from service.ops.model import Model, load_model
from service.paddle_serving.pipeline_config import pipeline_config


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


def test_the_migration_guide_has_every_key_of_the_configuration():
    guide = (ROOT / "docs/migrating.md").read_text(encoding="utf-8")
    table = guide[guide.index("## Every key") : guide.index("## What the stock runtime")]
    missing = [
        ".".join(setting.path)
        for setting in settings()
        if setting.path[0] != "native" and not re.search(rf"[`.]{setting.path[-1]}`", table)
    ]
    assert not missing
