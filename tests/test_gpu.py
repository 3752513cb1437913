"""GPUs without one: what a configuration becomes for each library, and what is refused. No kernel runs on a GPU here.

Paddle's settings go through its real ``Config``, so a call that this build does not have, or of other arguments, fails;
only the two answers that need CUDA are put in its mouth. ONNX Runtime's are held to the names that its documentation has.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import onnxruntime
import paddle.inference
import pytest
import yaml
from paddle.base import core
from paddle.pir_utils import OldIrGuard
from running import ROOT, configuration, start

from service.config import Config, load_config
from service.engines import gpu, onnx_runtime, open_engine, paddle_inference, precision
from service.engines.choice import in_force
from service.engines.gpu import Gpu
from service.errors import ConfigError, ModelError
from service.ops.model import load_model

A100 = Gpu("A100", "8.0", 40960)
T4 = Gpu("T4", "7.5", 15360)
P4 = Gpu("P4", "6.1", 7680)

# onnxruntime.ai/docs/execution-providers, of the CUDA and the TensorRT provider
CUDA_OPTIONS = {
    "device_id", "user_compute_stream", "do_copy_in_default_stream", "use_ep_level_unified_stream", "gpu_mem_limit",
    "arena_extend_strategy", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "cudnn_conv1d_pad_to_nc1d",
    "enable_cuda_graph", "enable_skip_layer_norm_strict_mode", "use_tf32", "gpu_external_alloc", "gpu_external_free",
    "prefer_nhwc",
}  # fmt: skip
TENSORRT_OPTIONS = {
    "device_id", "user_compute_stream", "trt_max_workspace_size", "trt_max_partition_iterations",
    "trt_min_subgraph_size", "trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable",
    "trt_int8_calibration_table_name", "trt_int8_use_native_calibration_table", "trt_dla_enable", "trt_dla_core",
    "trt_engine_cache_enable", "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_dump_subgraphs",
    "trt_force_sequential_engine_build", "trt_context_memory_sharing_enable", "trt_layer_norm_fp32_fallback",
    "trt_timing_cache_enable", "trt_timing_cache_path", "trt_force_timing_cache", "trt_detailed_build_log",
    "trt_build_heuristics_enable", "trt_cuda_graph_enable", "trt_sparsity_enable", "trt_builder_optimization_level",
    "trt_auxiliary_streams", "trt_tactic_sources", "trt_extra_plugin_lib_paths", "trt_profile_min_shapes",
    "trt_profile_max_shapes", "trt_profile_opt_shapes",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(digits_model):
    return load_model(digits_model)


@pytest.fixture
def cards(monkeypatch):
    """The GPUs of this machine, as the driver would have them."""

    def set_to(*found):
        monkeypatch.setattr(gpu, "visible_gpus", lambda: found)

    set_to(A100, A100)
    return set_to


@pytest.fixture(autouse=True)
def switches(monkeypatch, tmp_path):
    """What an engine sets for its whole process is undone."""
    monkeypatch.setenv(gpu.TF32_SWITCH, "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = core.get_cublas_switch(), core.get_cudnn_switch()
    yield
    core.set_cublas_switch(kept[0])
    core.set_cudnn_switch(kept[1])
    paddle.set_flags({"FLAGS_gpu_memory_limit_mb": 0})


def config_of(model, engine="paddle", native=None, op=None, **local):
    native = {"engine": engine, **(native or {})}
    return Config.model_validate(
        configuration(model.program.parent, native=native, op=op or {}, local={"device_type": 1, **local})
    )


# --- the driver ----------------------------------------------------------------------------------


class Driver:
    """libcuda, with two GPUs."""

    def __init__(self, broken=0):
        self.broken = broken

    def cuInit(self, flags):
        return self.broken

    def cuDeviceGetCount(self, count):
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = 100 + number
        return 0

    def cuDeviceGetName(self, name, length, device):
        name.value = b"Card %d" % device.value
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = 24 << 30
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0


@pytest.fixture
def asked_anew():
    gpu.visible_gpus.cache_clear()
    yield
    gpu.visible_gpus.cache_clear()


def test_the_driver_says_which_gpus_there_are(asked_anew, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", {"libcuda.so.1": Driver()}.get)
    assert gpu.visible_gpus() == (Gpu("Card 100", "8.9", 24576), Gpu("Card 101", "8.9", 24576))


@pytest.mark.parametrize("driver", [Driver(broken=100), None])
def test_without_a_driver_or_a_gpu_there_are_none(driver, asked_anew, monkeypatch):
    def load(name):
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert gpu.visible_gpus() == ()


def test_the_version_of_the_driver_is_the_kernels(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "DRIVER_VERSION", tmp_path / "version")
    assert gpu.driver_version() == ""
    (tmp_path / "version").write_text("550.54.15\n")
    assert gpu.driver_version() == "550.54.15"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "config", "message"),
    [
        ((), {}, "device_type: 1 (GPU), but no GPU is visible; accepted: 0, or 1 where the NVIDIA driver shows"),
        ((), {"device_type": 2}, "device_type: 2 (GPU with TensorRT), but no GPU is visible; accepted: 0, or 2"),
        ((T4,), {"devices": "1"}, "devices: 1, but there is no GPU 1; accepted: 0 (T4)"),
        ((T4, A100), {"devices": "2"}, "devices: 2, but there is no GPU 2; accepted: 0 (T4), 1 (A100)"),
        (
            (T4,),
            {"precision": "bf16"},
            "bf16 needs a GPU of compute capability 8.0 or more, T4 has 7.5; accepted: fp32, fp",
        ),
        (
            (P4,),
            {"precision": "fp16"},
            "fp16 needs a GPU of compute capability 7.0 or more, P4 has 6.1; accepted: fp32, int8",
        ),
        (
            (P4,),
            {"native": {"gpu_memory_mb": 4000}, "op": {"concurrency": 2}},
            "native.gpu_memory_mb: 4000 for each of 2 engines on GPU 0 (P4) is more than its 7680 MiB; accepted: at most 3840",
        ),
    ],
)
def test_what_the_gpu_of_an_engine_cannot_do_is_named(found, config, message, cards, model):
    cards(*found)
    with pytest.raises(ConfigError) as refusal:
        gpu.require_gpu(config_of(model, **config), 0)
    assert message in str(refusal.value)


def test_what_a_gpu_can_do_is_accepted(cards, model):
    cards(T4, Gpu("P100", "6.0", 16384))
    config = config_of(model, devices="0,1", precision="fp16", native={"gpu_memory_mb": 7000}, op={"concurrency": 3})
    assert [gpu.require_gpu(config, instance).name for instance in (1, 2)] == ["P100", "T4"]


@pytest.mark.parametrize(("devices", "least"), [("0,1", 2), ("0,1,2", 3), ("1,1", 1), ("", 1)])
def test_fewer_engines_than_devices_are_refused_and_more_take_turns(devices, least, model):
    if least > 1:
        config = config_of(model, devices=devices, op={"concurrency": least - 1})
        with pytest.raises(
            ConfigError, match=rf"concurrency: {least - 1} leaves a GPU idle, .*; accepted: {least} or more"
        ):
            in_force(config, model)
    config = config_of(model, devices=devices, op={"concurrency": least + 1})
    assert in_force(config, model) is config
    numbers = [int(number) for number in devices.split(",") if number] or [0]
    turns = [gpu.gpu_of(config.regnet.local_service_conf, instance) for instance in range(6)]
    assert turns == (numbers * 6)[:6]


def test_devices_are_nothing_to_an_engine_on_the_cpu(model):
    config = config_of(model, device_type=0, devices="0,1,2")
    assert in_force(config, model) is config
    assert config.regnet.local_service_conf.gpus == ()


GPUS_THAT_ARE_NOT_THERE = [
    ("paddle", {"device_type": 1, "devices": "0"}, "device_type: 1 (GPU), but the installed paddlepaddle"),
    ("paddle", {"device_type": 2, "precision": "fp16"}, "2 (GPU with TensorRT), but the installed paddlepaddle"),
    ("onnxruntime", {"device_type": 2}, "accepted: 0, or install onnxruntime-gpu and TensorRT"),
    ("auto", {"device_type": 2}, "2 (GPU with TensorRT), but the installed paddlepaddle"),
    ("paddle", {"device_type": 1, "devices": "0,1"}, "op.*.concurrency: 1 leaves a GPU idle"),
    ("paddle", {"device_type": 3}, "device_type: 3 is not built in with native.engine: paddle; accepted: 0 (CPU), 1"),
]


def test_a_service_that_cannot_have_its_gpu_ends_with_one_sentence(model, tmp_path):
    processes = []
    for number, (engine, local, _) in enumerate(GPUS_THAT_ARE_NOT_THERE):
        file = tmp_path / f"{number}.yml"
        file.write_text(yaml.safe_dump(configuration(model.program.parent, native={"engine": engine}, local=local)))
        processes.append(start(["serve", "--config", str(file)], stderr=-1))
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    for (_, _, message), (said, status) in zip(GPUS_THAT_ARE_NOT_THERE, ended, strict=True):
        [sentence] = [line for line in said.splitlines() if line.startswith("regnetx: ")]
        assert status == 2 and message in sentence
        assert "Traceback" not in said


def test_what_is_asked_of_a_gpu_can_be_set_by_the_environment(tmp_path):
    (tmp_path / "config.yml").write_text("http_port: 0\nop: {r: {local_service_conf: {model_config: m}}}")
    asked = {
        "REGNETX__NATIVE__GPU_MEMORY_MB": "4000",
        "REGNETX__NATIVE__TF32": "true",
        "REGNETX__NATIVE__ENGINE_CACHE": "/cache",
        "REGNETX__OP__LOCAL_SERVICE_CONF__DEVICE_TYPE": "2",
        "REGNETX__OP__LOCAL_SERVICE_CONF__DEVICES": "1,3",
    }
    config = load_config(tmp_path / "config.yml", asked)
    assert (config.native.gpu_memory_mb, config.native.tf32, config.native.engine_cache) == (4000, True, "/cache")
    local = config.regnet.local_service_conf
    assert (local.on_gpu, local.on_tensorrt, local.gpus) == (True, True, (1, 3))


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("gpu_memory_mb", "63", "greater than or equal to 64"),
        ("tf32", "1", "a valid boolean"),
        ("engine_cache", "", "1"),
    ],
)
def test_what_a_gpu_cannot_be_asked_is_refused(key, value, accepted, tmp_path):
    (tmp_path / "config.yml").write_text("http_port: 0\nop: {r: {local_service_conf: {model_config: m}}}")
    with pytest.raises(ConfigError, match=rf"native\.{key}: .* is not accepted; accepted: .*{accepted}"):
        load_config(tmp_path / "config.yml", {f"REGNETX__NATIVE__{key.upper()}": value})


def test_the_configuration_in_the_documentation_is_one(cards, tmp_path):
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/gpu.md").read_text(), re.DOTALL)
    values = yaml.safe_load(text) | {"http_port": 0}
    values["op"]["regnet"]["local_service_conf"]["model_config"] = "m"
    (tmp_path / "config.yml").write_text(yaml.safe_dump(values))
    config = load_config(tmp_path / "config.yml", {})
    gpu.require_engines(config)
    assert [gpu.require_gpu(config, instance) for instance in range(2)] == [A100, A100]
    settings = config.regnet.local_service_conf
    precision.require_precision(settings, engine="onnxruntime", cpu=[], tensorrt=["fp16"])


# --- TF32 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("native", "local", "switch"), [({}, {}, "0"), ({"tf32": True}, {}, "1"), ({}, {"device_type": 0}, "1")]
)
def test_float32_on_a_gpu_is_not_tf32_unless_asked_for(native, local, switch, model):
    gpu.forbid_tf32(config_of(model, native=native, **local))
    assert os.environ[gpu.TF32_SWITCH] == switch


# --- Paddle --------------------------------------------------------------------------------------


class Recording:
    """Paddle's own Config, every call of which is noted. It has CUDA, as far as it says."""

    def __init__(self, *files):
        self.real = RealConfig(*files)
        self.calls = {}
        self.real.disable_glog_info()

    def __getattr__(self, name):
        call = getattr(self.real, name)

        def noted(*arguments, **named):
            try:
                answer = call(*arguments, **named)
            except RuntimeError as error:  # for other arguments than it takes it has a TypeError
                assert "please compile with TENSORRT" in str(error)
                answer = None
            self.calls[name] = named or arguments
            return {"use_gpu": True, "tensorrt_engine_enabled": "enable_tensorrt_engine" in self.calls}.get(
                name, answer
            )

        return noted


RealConfig = paddle.inference.Config
Precision = paddle.inference.PrecisionType


@pytest.fixture
def with_cuda(monkeypatch, cards):
    """A Paddle that says that it has CUDA and TensorRT, and computes on the CPU; what it was told, oldest first."""
    told = []

    def create(options):
        told.append(options.calls)
        folder = options.calls.get("set_optim_cache_dir")
        if folder:
            with open(f"{folder[0]}/trt_serialized_1", "w") as file:
                file.write("an engine")
        return really_create(options.real)

    really_create = paddle.inference.create_predictor
    monkeypatch.setattr(paddle.inference, "Config", Recording)
    monkeypatch.setattr(paddle.inference, "create_predictor", create)
    for name in ("get_trt_compile_version", "get_trt_runtime_version"):
        monkeypatch.setattr(paddle.inference, name, lambda: (8, 6, 1))
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    return told


def test_paddle_is_told_the_gpu_and_the_precision(with_cuda, model):
    for instance, one in enumerate(("fp32", "fp16", "bf16")):
        config = config_of(model, devices="1,0", precision=one, op={"concurrency": 2})
        engine = open_engine(config, model, instance=instance)
        assert engine.run(np.zeros((2, 3, 32, 32), np.float32)).shape == (2, 10)
    assert [told["enable_use_gpu"] for told in with_cuda] == [
        (500, 1, Precision.Float32),
        (500, 0, Precision.Half),
        (500, 1, Precision.Bfloat16),
    ]
    assert not any("enable_tensorrt_engine" in told for told in with_cuda)
    assert all("enable_mkldnn" not in told for told in with_cuda)


@pytest.mark.parametrize(("tf32", "expected"), [(False, False), (True, True)])
def test_paddle_is_told_the_bound_of_memory_and_whether_tf32_will_do(tf32, expected, with_cuda, model):
    open_engine(config_of(model, native={"gpu_memory_mb": 300, "tf32": tf32}), model)
    assert with_cuda[0]["enable_use_gpu"][0] == 300
    assert paddle.get_flags("FLAGS_gpu_memory_limit_mb") == {"FLAGS_gpu_memory_limit_mb": 300}
    assert (core.get_cublas_switch(), core.get_cudnn_switch()) == (expected, expected)


def test_paddle_builds_with_tensorrt_for_every_batch_and_keeps_it(with_cuda, model, tmp_path):
    native = {"engine_cache": str(tmp_path / "kept"), "gpu_memory_mb": 600}
    config = config_of(model, device_type=2, precision="fp16", min_subgraph_size=7, native=native)
    for _ in range(2):
        open_engine(config, model)
    for told in with_cuda:
        assert told["enable_use_gpu"] == (500, 0, Precision.Float32)
        assert told["enable_tensorrt_engine"] == {
            "workspace_size": 600 << 20, "max_batch_size": 8, "min_subgraph_size": 7,
            "precision_mode": Precision.Half, "use_static": True, "use_calib_mode": False,
        }  # fmt: skip
        assert told["set_trt_dynamic_shape_info"] == (
            {"x": [1, 3, 32, 32]}, {"x": [8, 3, 32, 32]}, {"x": [8, 3, 32, 32]},
        )  # fmt: skip
    [kept] = (tmp_path / "kept").glob("*/trt_serialized_1")
    assert kept.read_text() == "an engine"


def test_another_card_precision_batch_or_tf32_is_another_engine_for_tensorrt(with_cuda, model, cards, tmp_path):
    def entries(native=None, op=None, **local):
        native = {"engine_cache": str(tmp_path / "kept"), **(native or {})}
        open_engine(config_of(model, native=native, op=op, **{"device_type": 2, **local}), model)
        return len(list((tmp_path / "kept").glob("*/manifest.json")))

    assert entries() == entries() == entries(thread_num=4) == 1
    assert entries(precision="fp16") == 2
    assert entries(op={"batch_size": 4}) == 3
    assert entries(native={"tf32": True}) == 4
    cards(T4)
    assert entries() == 5


def test_without_ir_optim_paddle_would_take_plain_kernels_and_is_not_asked(with_cuda, model):
    for local in ({"device_type": 2}, {"precision": "fp16"}):
        with pytest.raises(ConfigError, match=r"needs ir_optim: true with native\.engine: paddle"):
            open_engine(config_of(model, ir_optim=False, **local), model)
    open_engine(config_of(model, ir_optim=False), model)


@pytest.mark.parametrize(
    ("built_with", "found", "message"),
    [
        ((0, 0, 0), (0, 0, 0), "is built without TensorRT; accepted: 1, or native.engine: onnxruntime"),
        ((8, 6, 1), (0, 0, 0), "is built with TensorRT 8.6.1 and finds none; accepted: 1, or install TensorRT 8"),
        ((8, 6, 1), None, "is built with TensorRT 8.6.1 and finds none; accepted: 1, or install TensorRT 8"),
        ((8, 6, 1), (10, 9, 0), "is built with TensorRT 8.6.1 and finds 10.9.0; accepted: 1, or install TensorRT 8"),
    ],
)
def test_a_tensorrt_that_paddle_cannot_use_is_named(built_with, found, message, with_cuda, model, monkeypatch):
    def runtime():
        if found is None:
            raise RuntimeError("(Unavailable) Load tensorrt api getInferLibVersion failed")
        return found

    monkeypatch.setattr(paddle.inference, "get_trt_compile_version", lambda: built_with)
    monkeypatch.setattr(paddle.inference, "get_trt_runtime_version", runtime)
    with pytest.raises(ConfigError) as refusal:
        open_engine(config_of(model, device_type=2), model)
    assert message in str(refusal.value)


def quantised_program():
    """One operator, as a program of PaddleSlim has them."""
    paddle.enable_static()
    try:
        with OldIrGuard():
            program = paddle.static.Program()
            block = program.global_block()
            names = {"X": "x", "Scale": "scale", "ZeroPoint": "zero", "Y": "y"}
            variables = {key: block.create_var(name=name, shape=[1], dtype="float32") for key, name in names.items()}
            block.append_op(
                type="quantize_linear",
                inputs={key: variables[key] for key in ("X", "Scale", "ZeroPoint")},
                outputs={"Y": variables["Y"]},
                attrs={"quant_axis": -1, "bit_length": 8},
            )
            return program.desc.serialize_to_string()
    finally:
        paddle.disable_static()


def test_int8_needs_a_calibration_table_or_a_quantised_program(with_cuda, model, digits_model, tmp_path):
    folder = shutil.copytree(digits_model.parent, tmp_path / "digits") / "serving_server"
    copied, native = load_model(folder), {"engine_cache": str(tmp_path / "kept")}
    plain = config_of(copied, device_type=2, precision="int8", native=native)
    calibrated = config_of(copied, device_type=2, precision="int8", use_calib=True, native=native)
    with pytest.raises(
        ConfigError, match=r"precision: int8, but .*inference\.pdmodel is not quantised; accepted: fp32"
    ):
        open_engine(plain, copied)
    with pytest.raises(
        ConfigError, match=r"use_calib: true, but .*_opt_cache has no trt_calib_\*, the calibration table"
    ):
        open_engine(calibrated, copied)
    (tmp_path / "quantised.pdmodel").write_bytes(quantised_program())
    quantised = dataclasses.replace(copied, program=tmp_path / "quantised.pdmodel")
    assert paddle_inference._calibration_tables(plain.regnet.local_service_conf, quantised) == []
    (folder / "_opt_cache").mkdir()
    (folder / "_opt_cache/trt_calib_7").write_text("TRT-8601-EntropyCalibration2")
    open_engine(calibrated, copied)
    asked = with_cuda[-1]["enable_tensorrt_engine"]
    assert (asked["precision_mode"], asked["use_calib_mode"]) == (Precision.Int8, True)
    assert list((tmp_path / "kept").glob("*/trt_calib_7"))


def test_a_calibration_table_that_paddle_passes_over_is_refused(with_cuda, digits_model, tmp_path, monkeypatch):
    """It would calibrate anew, with what it is sent, and answer in float32."""
    folder = shutil.copytree(digits_model.parent, tmp_path / "digits") / "serving_server"
    (folder / "_opt_cache").mkdir()
    (folder / "_opt_cache/trt_calib_7").write_text("of another program")
    monkeypatch.setattr(paddle_inference, "BUILT", "nothing_*")
    copied, native = load_model(folder), {"engine_cache": str(tmp_path / "kept")}
    with pytest.raises(ModelError, match="trt_calib_7: is of another program or another Paddle"):
        open_engine(config_of(copied, device_type=2, precision="int8", use_calib=True, native=native), copied)


def test_a_paddle_that_takes_the_cpu_and_only_logs_it_is_refused(with_cuda, model, monkeypatch):
    """As the CPU build does."""
    monkeypatch.setattr(paddle.inference, "Config", RealConfig)
    with pytest.raises(ConfigError, match=r"device_type: 1 \(GPU\), but Paddle did not take it"):
        open_engine(config_of(model), model)


# --- ONNX Runtime --------------------------------------------------------------------------------


def providers(model, cache=None, number=3, **config):
    return onnx_runtime.gpu_providers(config_of(model, "onnxruntime", **config), "x:{}x3x32x32", number, cache)


def test_onnx_runtime_is_told_the_gpu_the_memory_and_the_precision(model):
    [(name, options)] = providers(model)
    assert name == "CUDAExecutionProvider"
    assert options == {"device_id": 3, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
    [(_, options)] = providers(model, native={"gpu_memory_mb": 2000, "tf32": True})
    assert options.items() >= {"use_tf32": 1, "gpu_mem_limit": 2000 << 20}.items()
    assert options["arena_extend_strategy"] == "kSameAsRequested"


def test_onnx_runtime_builds_with_tensorrt_for_every_batch(model, tmp_path):
    native = {"gpu_memory_mb": 600}
    (name, options), (fallback, of_cuda) = providers(
        model, tmp_path, device_type=2, precision="fp16", native=native, min_subgraph_size=7, op={"batch_size": 16}
    )
    assert (name, fallback) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert of_cuda["gpu_mem_limit"] == options["trt_max_workspace_size"] == 600 << 20
    assert options == {
        "device_id": 3, "trt_fp16_enable": True, "trt_int8_enable": False, "trt_min_subgraph_size": 7,
        "trt_max_workspace_size": 600 << 20, "trt_profile_min_shapes": "x:1x3x32x32",
        "trt_profile_opt_shapes": "x:16x3x32x32", "trt_profile_max_shapes": "x:16x3x32x32",
        "trt_engine_cache_enable": True, "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": True, "trt_timing_cache_path": str(tmp_path),
    }  # fmt: skip
    [(_, options), _] = providers(model, device_type=2)
    assert not options["trt_engine_cache_enable"] and "trt_engine_cache_path" not in options
    assert options["trt_max_workspace_size"] == 1024 << 20


def test_every_option_is_one_that_onnx_runtime_documents(model, tmp_path):
    [(_, tensorrt), (_, cuda)] = providers(model, tmp_path, device_type=2, native={"gpu_memory_mb": 600})
    assert set(cuda) <= CUDA_OPTIONS
    assert set(tensorrt) <= TENSORRT_OPTIONS


def onnxruntime_class():
    """What has the methods of a session."""
    return onnxruntime.capi.onnxruntime_inference_collection.Session


class Sessions(list):
    """(providers, the entry about the CPU, other arguments) of each, and their files."""

    def __init__(self):
        super().__init__()
        self.files = []


@pytest.fixture
def sessions(monkeypatch, cards):
    """An ONNX Runtime that says that it has CUDA and TensorRT, and computes on the CPU; what it was asked for."""
    asked = Sessions()
    real, gpus = onnxruntime.InferenceSession, ["TensorrtExecutionProvider", "CUDAExecutionProvider"]

    def session(file, options, providers, **named):
        if providers[0][0] == "CPUExecutionProvider":
            return real(file, options, providers=providers, **named)
        asked.files.append(file)
        asked.append((dict(providers), options.get_session_config_entry("session.disable_cpu_ep_fallback"), named))
        recording = onnxruntime.SessionOptions()
        recording.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        opened = real(file, recording, providers=["CPUExecutionProvider"])
        monkeypatch.setattr(opened, "get_providers", lambda: [name for name, _ in providers], raising=False)
        return opened

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*gpus, "CPUExecutionProvider"])
    return asked


@pytest.mark.parametrize("device_type", [1, 2])
def test_an_engine_of_onnx_runtime_on_a_gpu_never_takes_the_cpu_instead(device_type, sessions, model, tmp_path):
    config = config_of(
        model, "onnxruntime", device_type=device_type, devices="1", native={"engine_cache": str(tmp_path)}
    )
    assert open_engine(config, model).run(np.zeros((2, 3, 32, 32), np.float32)).shape == (2, 10)
    [(named, no_fallback, arguments)] = sessions
    assert next(iter(named)) == {1: "CUDAExecutionProvider", 2: "TensorrtExecutionProvider"}[device_type]
    assert {options["device_id"] for options in named.values()} == {1}
    assert (no_fallback, arguments) == ("1", {"enable_fallback": 0})


def test_the_entry_that_forbids_the_cpu_is_one_that_this_onnx_runtime_obeys(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(Exception, match="fallback to CPU EP has been explicitly disabled"):
        # Of the CPU build, the one other provider; it has no kernels.
        onnxruntime.InferenceSession(str(model.onnx), options, providers=["AzureExecutionProvider"], enable_fallback=0)


def test_the_entry_that_records_who_computes_what_is_one_that_this_onnx_runtime_obeys(model):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(model.onnx), options, providers=["CPUExecutionProvider"])
    [part, *_] = session.get_provider_graph_assignment_info()
    assert part.ep_name == "CPUExecutionProvider"
    assert part.get_nodes()[0].op_type == "Conv"


def test_what_tensorrt_does_not_take_is_told(sessions, model, monkeypatch, tmp_path, caplog):
    session = onnxruntime.InferenceSession

    def with_parts(*arguments, **named):
        opened = session(*arguments, **named)
        nodes = [SimpleNamespace(op_type=name) for name in ("Conv", "Conv", "Relu")]
        parts = [
            SimpleNamespace(ep_name="TensorrtExecutionProvider", get_nodes=lambda: nodes),
            SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: nodes[1:]),
        ]
        monkeypatch.setattr(opened, "get_provider_graph_assignment_info", lambda: parts, raising=False)
        return opened

    monkeypatch.setattr(onnxruntime, "InferenceSession", with_parts)
    open_engine(config_of(model, "onnxruntime", device_type=2, native={"engine_cache": str(tmp_path)}), model)
    assert "has not taken the whole model: 1 Conv, 1 Relu are computed by CUDA in float32" in caplog.text


def test_int8_for_tensorrt_is_that_of_the_quantised_file_and_refused_where_it_does_not_take_it(
    sessions, model, monkeypatch, tmp_path
):
    quantised = shutil.copy(model.onnx, tmp_path / "inference.int8.onnx")
    asked = []

    def graph_file(model, **named):
        asked.append(named)
        return quantised

    monkeypatch.setattr(onnx_runtime, "graph_file", graph_file)
    config = config_of(
        model, "onnxruntime", device_type=2, precision="int8", native={"engine_cache": str(tmp_path / "kept")}
    )
    # Here the CPU takes all of it, as CUDA would of an asymmetric model.
    with pytest.raises(ConfigError, match=r"int8, but TensorRT does not take 44 Conv, .* a model with symmetric int8"):
        open_engine(config, model)
    monkeypatch.delattr(onnxruntime_class(), "get_provider_graph_assignment_info")  # as in an older one
    open_engine(config, model)
    assert asked == [{"engine": "onnxruntime", "precision": "int8"}] * 2
    named, _, _ = sessions[-1]
    assert named["TensorrtExecutionProvider"]["trt_int8_enable"]
    assert {str(file) for file in sessions.files} == {str(quantised)}


def test_a_provider_that_does_not_open_is_refused(sessions, model, monkeypatch):
    session = onnxruntime.InferenceSession

    def on_the_cpu(*arguments, **named):
        opened = session(*arguments, **named)
        monkeypatch.setattr(opened, "get_providers", lambda: ["CPUExecutionProvider"], raising=False)
        return opened

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    with pytest.raises(ConfigError, match=r"ONNX Runtime could not open CUDAExecutionProvider .* accepted: 0"):
        open_engine(config_of(model, "onnxruntime"), model)


@pytest.mark.parametrize("linked", [b"\0libnvinfer.so.10\0", b"\0"])
def test_a_tensorrt_that_onnx_runtime_is_linked_with_and_the_loader_does_not_find_is_named(
    linked, sessions, model, monkeypatch, tmp_path
):
    (tmp_path / "provider.so").write_bytes(linked)
    monkeypatch.setattr(onnx_runtime, "TENSORRT_PROVIDER", tmp_path / "provider.so")

    def load(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    config = config_of(model, "onnxruntime", device_type=2, native={"engine_cache": str(tmp_path / "kept")})
    if linked == b"\0":
        open_engine(config, model)
        return
    with pytest.raises(ConfigError, match=r"does not find libnvinfer\.so\.10; accepted: 1, or install that TensorRT"):
        open_engine(config, model)


def test_a_first_run_that_fails_is_a_refusal_with_the_file_and_why(sessions, model, monkeypatch):
    session = onnxruntime.InferenceSession

    def fails(*arguments, **named):
        opened = session(*arguments, **named)

        def run(*_):
            raise RuntimeError("CUDA error:\n out of memory")

        monkeypatch.setattr(opened, "run", run, raising=False)
        return opened

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(ModelError, match=r"inference\.onnx: ONNX Runtime cannot run it: CUDA error: out of memory$"):
        open_engine(config_of(model, "onnxruntime"), model)
