"""config.yml and environment -> configuration, and what is said of a wrong one."""

from pathlib import Path

import pytest

from service.config import load_config, settings
from service.errors import ConfigError

ROOT = Path(__file__).parents[1]
MINIMAL = "http_port: 18080\nop: {regnet: {local_service_conf: {model_config: models/m}}}\n"
OP = "{local_service_conf: {model_config: m}}"


def load(tmp_path, text, **environment):
    file = tmp_path / "config.yml"
    file.write_text(text)
    return load_config(file, environment)


def test_the_configuration_of_the_repository_is_accepted():
    config = load_config(ROOT / "config.yml", {})
    assert (config.http_port, config.rpc_port, config.service_name) == (18080, 9993, "regnet")
    assert config.regnet.local_service_conf.model_config_.startswith("serving_models/")


def test_what_is_not_given_has_the_defaults_of_paddle_serving(tmp_path):
    config = load(tmp_path, MINIMAL)
    assert (config.worker_num, config.build_dag_each_worker, config.frontends) == (1, False, 1)
    assert (config.regnet.batch_size, config.regnet.auto_batching_timeout, config.regnet.concurrency) == (1, -1, 1)
    assert config.native.host == "0.0.0.0"


def test_a_paddleclas_configuration_keeps_its_service_name(tmp_path):
    config = load(
        tmp_path,
        """
        worker_num: 1
        http_port: 18080
        rpc_port: 9993
        dag: {is_thread_op: False}
        op:
            imagenet:
                concurrency: 1
                local_service_conf:
                    model_config: ResNet50_vd_serving
                    device_type: 1
                    devices: "0"
                    client_type: local_predictor
                    fetch_list: ["prediction"]
        """,
    )
    assert config.service_name == "imagenet"
    assert config.regnet.local_service_conf.devices == "0"


def test_rpc_alone_is_enough(tmp_path):
    assert load(tmp_path, MINIMAL.replace("http_port", "rpc_port")).http_port is None


def test_channel_size_bounds_the_slots_unless_native_slots_does(tmp_path):
    assert load(tmp_path, MINIMAL).slots == 128
    assert load(tmp_path, MINIMAL + "dag: {channel_size: 7}\n").slots == 7
    assert load(tmp_path, MINIMAL + "dag: {channel_size: 7}\nnative: {slots: 9}\n").slots == 9
    assert load(tmp_path, MINIMAL + "dag: {channel_size: 100000}\n").slots == 4096


def test_the_door_of_operators_is_closed_unless_asked_for_and_has_stocks_port(tmp_path):
    assert load(tmp_path, MINIMAL).admin_port is None
    assert load(tmp_path, MINIMAL + "dag: {prometheus_port: 1}\n").admin_port is None
    asked_for = load(tmp_path, MINIMAL + "dag: {enable_prometheus: true}\nnative: {host: '::1'}\n")
    assert (asked_for.admin_port, asked_for.admin_host) == (19393, "::1")
    elsewhere = load(tmp_path, MINIMAL, REGNETX__DAG__ENABLE_PROMETHEUS="true", REGNETX__NATIVE__ADMIN_HOST="127.0.0.2")
    assert (elsewhere.admin_port, elsewhere.admin_host, elsewhere.native.host) == (19393, "127.0.0.2", "0.0.0.0")


def test_the_environment_overrides_the_file(tmp_path):
    config = load(
        tmp_path,
        MINIMAL,
        REGNETX__HTTP_PORT="80",
        REGNETX__OP__BATCH_SIZE="16",
        REGNETX__OP__LOCAL_SERVICE_CONF__DEVICES="0",
        REGNETX__OP__LOCAL_SERVICE_CONF__FETCH_LIST="[prediction]",
        REGNETX__NATIVE__HOST="::1",
        REGNETX_PORT="tcp://10.0.0.1:80",  # what Kubernetes sets for a Service named regnetx
    )
    assert (config.http_port, config.regnet.batch_size, config.native.host) == (80, 16, "::1")
    assert config.regnet.local_service_conf.devices == "0"


def test_the_environment_alone_can_name_the_model(tmp_path):
    config = load(tmp_path, "http_port: 1\n", REGNETX__OP__LOCAL_SERVICE_CONF__MODEL_CONFIG="m")
    assert config.service_name == "regnet"


def test_every_setting_has_its_own_environment_variable():
    variables = [setting.variable for setting in settings()]
    assert len(variables) == len(set(variables)) > 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http_port: 99999", "http_port: 99999 is not accepted; accepted: less than or equal to 65535"),
        ("http_port: '1'", "http_port: '1' is not accepted; accepted: a valid integer"),
        ("http_prot: 1", "http_prot: unknown key, did you mean http_port?"),
        ("zzz: 1", "zzz: unknown key; accepted: build_dag_each_worker, dag, "),
        ("dag: {channel_sise: 1}", "dag.channel_sise: unknown key, did you mean channel_size?"),
        ("op: {r: {}}", "op.r.local_service_conf: missing; it must be given"),
        ("op: {r: {batch_sise: 3}}", "op.r.batch_sise: unknown key, did you mean batch_size?"),
        ("op: {r: {batch_size: 0}}", "op.r.batch_size: 0 is not accepted; accepted: greater than or equal to 1"),
        ("op: {r: {server_endpoints: [x]}}", "op.r.server_endpoints: belongs to an op on another server"),
        (f"op: {{r: &r {OP}, s: *r}}", "op: r, s found; accepted: exactly one op"),
        (f"op: {{a/b: {OP}}}", "op: a/b found; accepted: exactly one op, with no / in its name"),
        ("op: {}", "op: nothing found; accepted: exactly one op"),
        ("op: 3", "op: 3 is not accepted; accepted: keys and values"),
        ("native: null", "native: None is not accepted; accepted: keys and values"),
        ("op: {r: {concurrency: 100000000}}", "op.r.concurrency: 100000000 is not accepted; accepted: less than or"),
        ("op: {r: {local_service_conf: {thread_num: 999999}}}", "thread_num: 999999 is not accepted; accepted: less"),
        ("op: {r: {auto_batching_timeout: 99999999999}}", "auto_batching_timeout: 99999999999 is not accepted"),
        ("native: {request_timeout_ms: 99999999999}", "native.request_timeout_ms: 99999999999 is not accepted"),
        ("native: {max_connection_age_ms: -1}", "native.max_connection_age_ms: -1 is not accepted; accepted: greater"),
        ("op: {r: {local_service_conf: {devices: '12345678901'}}}", "devices: '12345678901' is not accepted"),
        (
            "op: {r: {local_service_conf: {precision: fp8}}}",
            "precision: 'fp8' is not accepted; accepted: 'fp32', 'fp16'",
        ),
        ("op: {r: {local_service_conf: {device_type: 9}}}", "device_type: 9 is not accepted; accepted: -1, 0, 1"),
        ("op: {r: {local_service_conf: {devices: cpu}}}", "devices: 'cpu' is not accepted; accepted: a string that"),
        (
            "op: {r: {local_service_conf: {client_type: brpc}}}",
            "client_type: 'brpc' is not accepted; accepted: 'local_",
        ),
        ("op: {r: {local_service_conf: {model_config: m}}}", "http_port or rpc_port (or both) must be given"),
        ("native: {slots: 5000}", "native.slots: 5000 is not accepted; accepted: less than or equal to 4096"),
        ("x: [", "not YAML: "),
        ("http_port: 1\nhttp_port: 2", "key http_port is written twice"),
        ("- 1", "list at the top; accepted: keys and values"),
        ("", "NoneType at the top"),
        ("? {a: 1}\n: 2", "not YAML"),
        ("a: &a [*a]", ""),
        ("\x00", "not YAML"),
    ],
)
def test_a_wrong_configuration_is_refused_with_key_value_and_what_is_accepted(tmp_path, text, message):
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, text)
    assert message in str(refusal.value)
    assert "config.yml" in str(refusal.value)


def test_every_fault_is_named_not_only_the_first(tmp_path):
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, "http_port: -1\nworker_num: 0\n")
    assert "http_port" in str(refusal.value) and "worker_num" in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "REGNETX__OP__BATCHSIZE",
            "1",
            "REGNETX__OP__BATCHSIZE: unknown variable, did you mean REGNETX__OP__BATCH_SIZE?",
        ),
        ("REGNETX__HTTP_PORT", "many", "http_port: 'many' is not accepted"),
        ("REGNETX__HTTP_PORT", "[", "REGNETX__HTTP_PORT: '[' is not a YAML value"),
        ("REGNETX__HTTP_PORT", "2024-99-99", "REGNETX__HTTP_PORT: '2024-99-99' is not a YAML value"),
        ("REGNETX__HTTP_PORT", "[" * 5000, "REGNETX__HTTP_PORT: '[[[["),
        ("REGNETX__HTTP_PORT", "9" * 5000, "REGNETX__HTTP_PORT: '9999"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(tmp_path, variable, value, message):
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, MINIMAL, **{variable: value})
    assert message in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yml: No such file or directory"):
        load_config(tmp_path / "nowhere.yml", {})
