"""Engines: what cannot be loaded or run is refused at the start, by name."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from running import configuration

from service.config import Config
from service.engines import open_engine, warm_up
from service.errors import ConfigError, ModelError
from service.ops.model import load_model


@pytest.fixture(scope="module")
def model(digits_model):
    return load_model(digits_model)


def config_of(model, **local):
    return Config.model_validate(configuration(model.program.parent, local=local))


class Answering:
    """An engine that answers what it was given."""

    def __init__(self, answer):
        self.run = answer


def test_a_batch_gives_the_scores_of_its_images_one_by_one(model):
    engine = open_engine(config_of(model), model)
    batch = np.random.default_rng(0).normal(size=(5, 3, model.height, model.width)).astype(np.float32)
    together = engine.run(batch)
    assert (together.shape, together.dtype) == ((5, model.classes), np.float32)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
    for row, image in zip(together, batch, strict=True):
        np.testing.assert_allclose(engine.run(image[None])[0], row, atol=1e-5)


def test_one_dnn_and_plain_kernels_agree(model):
    batch = np.random.default_rng(1).normal(size=(2, 3, model.height, model.width)).astype(np.float32)
    scores = [open_engine(config_of(model, use_mkldnn=on), model).run(batch) for on in (True, False)]
    np.testing.assert_allclose(*scores, atol=1e-4)


@pytest.mark.parametrize(
    ("local", "message"),
    [
        ({"device_type": 1}, "device_type: 1 (GPU), but the installed paddlepaddle"),
        ({"devices": "0"}, "device_type: 1 (GPU), but the installed paddlepaddle"),
        ({"device_type": 4}, "device_type: 4 is not built in; accepted: 0 (CPU), 1 (GPU)"),
        ({"precision": "int8"}, "precision: int8 is not built in; accepted: fp32"),
        ({"precision": "bf16"}, "precision: bf16 is not built in; accepted: fp32"),
        ({"precision": "fp16"}, "precision: fp16 is not built in; accepted: fp32"),
    ],
)
def test_what_this_build_cannot_do_is_named(model, local, message):
    with pytest.raises(ConfigError) as refusal:
        open_engine(config_of(model, **local), model)
    assert message in str(refusal.value)


def test_a_program_that_paddle_cannot_read_is_named(model, tmp_path):
    damaged = tmp_path / "inference.pdmodel"
    damaged.write_bytes(model.program.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"inference\.pdmodel: Paddle cannot load it"):
        open_engine(config_of(model), dataclasses.replace(model, program=damaged))


def test_a_missing_package_is_named_with_what_to_install(model, monkeypatch):
    monkeypatch.delitem(sys.modules, "service.engines.paddle_inference", raising=False)
    monkeypatch.setitem(sys.modules, "paddle.inference", None)
    with pytest.raises(ConfigError, match=r"paddle cannot be imported: .*; accepted: paddlepaddle"):
        open_engine(config_of(model), model)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: np.zeros((len(batch), 3), np.float32), r"answers \(4, 3\), expected \(4, 10\)"),
        (lambda batch: np.zeros((1, 10), np.float32), r"answers \(1, 10\), expected \(4, 10\)"),
        (lambda batch: np.full((len(batch), 10), np.nan, np.float32), "not finite"),
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
    assert sorted(sizes) == [1, 2, 3, 4, 5]
