"""Engines: all give Paddle's scores; what cannot be loaded or run is refused at the start, by name."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from client_calls import sync_batch
from digit_scores import digits_for, scores_by
from running import ROOT, configuration, serving

from service import engines
from service.config import Config
from service.engines import VENDORS, open_engine, precision, warm_up
from service.errors import ConfigError, ModelError
from service.ops.model import load_model

ENGINES = list(VENDORS)
OTHERS = [name for name in ENGINES if name != "paddle"]
needs_bf16 = pytest.mark.skipif(
    not precision.BF16_FLAGS & precision.cpu_flags(), reason="this CPU has no bfloat16 instructions"
)


@pytest.fixture(scope="module")
def model(digits_model):
    return load_model(digits_model)


@pytest.fixture(scope="module")
def digits(model):
    """The held-out digits as one array (445, 3, 32, 32), and what they show."""
    return digits_for(model)


@pytest.fixture(scope="module")
def expected(model, digits):
    """Paddle's float32 scores of the digits."""
    return scores_of(model, digits[0])


def config_of(model, engine="paddle", **local):
    return Config.model_validate(configuration(model.program.parent, native={"engine": engine}, local=local))


def scores_of(model, images, **config):
    return scores_by(open_engine(config_of(model, **config), model), images)


class Answering:
    """An engine that answers what it was given."""

    def __init__(self, answer):
        self.run = answer


@pytest.mark.parametrize("engine", OTHERS)
def test_an_engine_gives_paddles_scores_of_held_out_digits(engine, model, digits, expected):
    images, labels = digits
    scores = scores_of(model, images, engine=engine)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
    assert (scores.argmax(1) == expected.argmax(1)).all()
    assert (scores.argmax(1) == labels).mean() > 0.95


@needs_bf16
@pytest.mark.parametrize("engine", ["paddle", "openvino"])
def test_bfloat16_changes_scores_by_a_little_and_hardly_an_answer(engine, model, digits, expected):
    scores = scores_of(model, digits[0], engine=engine, precision="bf16")
    difference = np.abs(scores - expected).max()
    assert 1e-4 < difference < 5e-2  # not float32 under another name; measured 0.019 and 0.023
    assert (scores.argmax(1) == expected.argmax(1)).mean() > 0.99  # measured 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_gives_the_scores_of_its_images_one_by_one(engine, model):
    engine = open_engine(config_of(model, engine), model)
    batch = np.random.default_rng(0).normal(size=(5, 3, model.height, model.width)).astype(np.float32)
    together = engine.run(batch).copy()
    assert (together.shape, together.dtype) == ((5, model.classes), np.float32)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
    for row, image in zip(together, batch, strict=True):
        np.testing.assert_allclose(engine.run(image[None])[0], row, atol=1e-5)


@pytest.mark.parametrize("engine", OTHERS)
def test_a_service_with_another_engine_answers_as_one_with_paddle(engine, digits_model, service, tmp_path):
    samples = sorted((ROOT / "serving_models/bundled/digits/samples").glob("*.png"))
    images = [path.read_bytes() for path in samples]
    with serving(tmp_path, configuration(digits_model, native={"engine": engine})) as other:
        [process] = other.children()["engine"]
        with open(f"/proc/{process}/maps") as maps:
            loaded = maps.read()
        answers = [[best.label for [best] in sync_batch(running.url, images)] for running in (service, other)]
        assert other.stop() == 0
    assert answers[0] == answers[1]
    assert answers[0] == [path.stem for path in samples]
    assert engine in loaded
    assert not [name for name in (*ENGINES, "telemetry") if name != engine and f"/{name}" in loaded]


def test_one_dnn_and_plain_kernels_agree(model):
    batch = np.random.default_rng(1).normal(size=(2, 3, model.height, model.width)).astype(np.float32)
    scores = [open_engine(config_of(model, use_mkldnn=on), model).run(batch) for on in (True, False)]
    np.testing.assert_allclose(*scores, atol=1e-4)


@pytest.mark.parametrize(
    ("engine", "local", "message"),
    [
        ("paddle", {"device_type": 1}, "device_type: 1 (GPU), but the installed paddlepaddle"),
        ("paddle", {"devices": "0"}, "device_type: 1 (GPU), but the installed paddlepaddle"),
        ("onnxruntime", {"device_type": 1}, "CPUExecutionProvider; accepted: 0, or install onnxruntime-gpu"),
        ("openvino", {"devices": "0"}, "device_type: 1 is not built in with native.engine: openvino; accepted: 0"),
        ("paddle", {"device_type": 4}, "4 is not built in with native.engine: paddle; accepted: 0 (CPU), 1 (GPU)"),
        ("openvino", {"device_type": 4}, "4 is not built in with native.engine: openvino; accepted: 0 (CPU)"),
        ("paddle", {"precision": "int8"}, "int8 is not built in with native.engine: paddle; accepted: fp32"),
        ("paddle", {"precision": "fp16"}, "fp16 is not built in with native.engine: paddle; accepted: fp32"),
        ("openvino", {"precision": "fp16"}, "fp16 is not built in with native.engine: openvino; accepted: fp32"),
        ("onnxruntime", {"precision": "bf16"}, "is not built in with native.engine: onnxruntime; accepted: fp32"),
        ("paddle", {"precision": "bf16", "device_type": 1}, "device_type: 1 (GPU), but the installed paddlepaddle"),
        ("paddle", {"precision": "int8", "device_type": 1}, "and device_type: 1 (GPU); accepted: fp32, fp16, bf16"),
        ("paddle", {"precision": "bf16", "device_type": 2}, "2 (GPU with TensorRT); accepted: fp32, fp16, int8"),
        ("paddle", {"device_type": 2}, "device_type: 2 (GPU with TensorRT), but the installed paddlepaddle"),
        ("onnxruntime", {"device_type": 2}, "accepted: 0, or install onnxruntime-gpu and TensorRT"),
        ("onnxruntime", {"device_type": 1, "precision": "fp16"}, "and device_type: 1 (GPU); accepted: fp32"),
        ("openvino", {"device_type": 2}, "device_type: 2 is not built in with native.engine: openvino; accepted: 0"),
    ],
)
def test_what_this_build_cannot_do_is_named(model, engine, local, message):
    with pytest.raises(ConfigError) as refusal:
        open_engine(config_of(model, engine, **local), model)
    assert message in str(refusal.value)


@pytest.mark.parametrize("engine", ["paddle", "openvino"])
@pytest.mark.parametrize("facts", ["flags\t\t: fpu avx512f\n", "", None])
def test_bfloat16_is_refused_on_a_cpu_without_it(engine, facts, model, monkeypatch, tmp_path):
    if facts is not None:
        (tmp_path / "cpuinfo").write_text(facts)
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "cpuinfo")
    with pytest.raises(ConfigError, match=r"bf16 needs a CPU with amx_bf16 or avx512_bf16; accepted: fp32$"):
        open_engine(config_of(model, engine, precision="bf16"), model)


@needs_bf16
@pytest.mark.parametrize("off", ["use_mkldnn", "ir_optim"])
def test_bfloat16_is_refused_where_paddle_would_silently_take_float32(off, model):
    with pytest.raises(ConfigError, match="bf16 needs use_mkldnn: true and ir_optim: true"):
        open_engine(config_of(model, precision="bf16", **{off: False}), model)


@pytest.mark.parametrize(("engine", "vendor"), [("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")])
def test_an_onnx_file_that_cannot_be_read_is_named(engine, vendor, model, tmp_path):
    damaged = tmp_path / "inference.onnx"
    damaged.write_bytes(model.onnx.read_bytes()[:1000])
    with pytest.raises(ModelError, match=rf"inference\.onnx: {vendor} cannot load it: "):
        open_engine(config_of(model, engine), dataclasses.replace(model, onnx=damaged))


@pytest.mark.parametrize("engine", OTHERS)
def test_a_model_without_an_onnx_file_is_to_be_exported_again(engine, model):
    with pytest.raises(ModelError) as refusal:
        open_engine(config_of(model, engine), dataclasses.replace(model, onnx=None))
    assert str(refusal.value) == (
        f"{model.program.parent}: has no ONNX file, which native.engine: {engine} reads; export the model again,"
        " or take native.engine: paddle"
    )


def test_a_service_does_not_start_with_another_onnx_file_than_was_exported(digits_model, tmp_path):
    folder = shutil.copytree(digits_model.parent, tmp_path / "digits") / "serving_server"
    with (folder / "inference.onnx").open("ab") as file:
        file.write(b"!")
    environment = {"REGNETX__NATIVE__ENGINE": "onnxruntime", "REGNETX__DAG__ENABLE_PROMETHEUS": "false"}
    command = [sys.executable, "-m", "service", "serve", "--model", str(folder)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "inference.onnx: SHA-256 is " in line


def test_a_program_that_paddle_cannot_read_is_named(model, tmp_path):
    damaged = tmp_path / "inference.pdmodel"
    damaged.write_bytes(model.program.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"inference\.pdmodel: Paddle cannot load it"):
        open_engine(config_of(model), dataclasses.replace(model, program=damaged))


@pytest.mark.parametrize(
    ("engine", "package"), [("paddle", "paddle.inference"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")]
)
def test_a_missing_package_is_named_with_what_to_install(engine, package, model, monkeypatch):
    monkeypatch.delitem(sys.modules, VENDORS[engine].module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{engine} cannot be imported: .*; accepted: {VENDORS[engine].packages[0]}"):
        open_engine(config_of(model, engine), model)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: np.zeros((len(batch), 3), np.float32), r"answers \(4, 3\), expected \(4, 10\)"),
        (lambda batch: np.zeros((1, 10), np.float32), r"answers \(1, 10\), expected \(4, 10\)"),
        (lambda batch: np.full((len(batch), 10), np.nan, np.float32), "not finite"),
        (lambda batch: 1 // 0, "4 images cannot be run: integer division or modulo by zero"),
    ],
)
def test_warm_up_believes_nothing(model, answer, message):
    with pytest.raises(ModelError, match=message):
        warm_up(Answering(answer), model, batch_size=4)


def test_warm_up_runs_every_batch_size(model):
    sizes = []

    def answer(batch):
        sizes.append(len(batch))
        return np.zeros((len(batch), 10), np.float32)

    warm_up(Answering(answer), model, batch_size=5)
    assert sizes == [5, 1, 4, 3, 2]
    sizes.clear()
    warm_up(Answering(answer), model, batch_size=1)
    assert sizes == [1]


def test_warm_up_ends_when_its_time_is_over_and_says_what_was_left_out(model, monkeypatch, caplog):
    sizes = []

    def answer(batch):
        sizes.append(len(batch))
        return np.zeros((len(batch), 10), np.float32)

    monkeypatch.setattr(engines, "WARM_UP_SECONDS", -1)
    warm_up(Answering(answer), model, batch_size=5)
    assert sizes == [5, 1]
    assert "batches of 2 to 4 images have not been run" in caplog.text


def test_no_engine_leaves_anything_in_the_home_folder(digits_model, tmp_path):
    """ONNX Runtime would keep a database of its telemetry there."""
    program = f"""
from pathlib import Path
from service.config import Config
from service.engines import VENDORS, open_engine
from service.ops.model import load_model
for engine in VENDORS:
    config = Config.model_validate({configuration(digits_model)!r} | {{"native": {{"engine": engine}}}})
    open_engine(config, load_model(Path({str(digits_model)!r})))
"""
    places = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, env=os.environ | places, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
