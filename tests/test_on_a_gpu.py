"""Engines on a real GPU, for whoever has one: docs/gpu.md. Skipped where the driver shows none, or a build cannot."""

from __future__ import annotations

import numpy as np
import pytest
from client_calls import sync_batch
from digit_scores import digits_for, scores_by
from running import ROOT, configuration, serving

from service.config import Config
from service.engines import open_engine, warm_up
from service.engines.choice import TOLERANCE
from service.engines.gpu import visible_gpus
from service.errors import ConfigError
from service.ops.model import load_model

pytestmark = pytest.mark.skipif(not visible_gpus(), reason="no NVIDIA GPU is visible")

CUDA, TENSORRT = 1, 2


@pytest.fixture(scope="module")
def model(digits_model):
    return load_model(digits_model)


@pytest.fixture(scope="module")
def digits(model):
    """The held-out digits as one array (445, 3, 32, 32), what they show, and Paddle's float32 scores on the CPU."""
    images, labels = digits_for(model)
    return images, labels, scores_by(open_engine(config_of(model, "paddle", device_type=0), model), images)


def config_of(model, engine, *, native=None, **local):
    return Config.model_validate(
        configuration(model.program.parent, native={"engine": engine, **(native or {})}, local=local)
    )


def opened(config, model):
    try:
        return open_engine(config, model)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("engine", "device_type", "precision"),
    [
        ("paddle", CUDA, "fp32"),
        ("paddle", CUDA, "fp16"),
        ("paddle", CUDA, "bf16"),
        ("paddle", TENSORRT, "fp32"),
        ("paddle", TENSORRT, "fp16"),
        ("onnxruntime", CUDA, "fp32"),
        ("onnxruntime", TENSORRT, "fp32"),
        ("onnxruntime", TENSORRT, "fp16"),
    ],
)
def test_a_gpu_gives_the_scores_of_the_cpu(engine, device_type, precision, model, digits, tmp_path):
    images, labels, expected = digits
    native = {"engine_cache": str(tmp_path)}
    gpu = opened(config_of(model, engine, native=native, device_type=device_type, precision=precision), model)
    warm_up(gpu, model, batch_size=8)
    scores = scores_by(gpu, images)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE[precision])
    assert (scores.argmax(1) == expected.argmax(1)).mean() > 0.99
    assert (scores.argmax(1) == labels).mean() > 0.95


@pytest.mark.parametrize("engine", ["paddle", "onnxruntime"])
def test_an_engine_for_tensorrt_is_built_once(engine, model, tmp_path, caplog):
    caplog.set_level("INFO")
    config = config_of(model, engine, native={"engine_cache": str(tmp_path)}, device_type=TENSORRT)
    first, second = (opened(config, model) for _ in range(2))
    image = np.random.default_rng(0).normal(size=(1, 3, model.height, model.width)).astype(np.float32)
    np.testing.assert_allclose(first.run(image), second.run(image), atol=1e-6)
    assert caplog.text.count("an engine for TensorRT is built, which takes minutes") == 1
    assert len(list(tmp_path.glob("*/manifest.json"))) == 1


@pytest.mark.parametrize("engine", ["paddle", "onnxruntime"])
def test_a_service_on_every_gpu_answers_as_one_on_the_cpu(engine, model, service, tmp_path):
    count = len(visible_gpus())
    local = {"device_type": CUDA, "devices": ",".join(map(str, range(count)))}
    opened(config_of(model, engine, device_type=CUDA), model)
    samples = sorted((ROOT / "serving_models/bundled/digits/samples").glob("*.png"))
    images = [path.read_bytes() for path in samples]
    config = configuration(model.program.parent, native={"engine": engine}, op={"concurrency": count}, local=local)
    with serving(tmp_path, config) as on_gpus:
        assert len(on_gpus.children()["engine"]) == count
        answers = [[best.label for [best] in sync_batch(one.url, images)] for one in (service, on_gpus)]
        assert on_gpus.stop() == 0
    assert answers[0] == answers[1] == [path.stem for path in samples]
