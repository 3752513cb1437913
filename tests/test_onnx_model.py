"""The ONNX form of a model: valid, Paddle's scores, the same bytes each time, and nothing half done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import onnx
import pytest
import yaml

from service.errors import ModelError
from service.ops.model import load_model, verify_files
from serving_models import network, onnx_model, paddle_runtime
from serving_models.__main__ import main
from serving_models.isolated_run import random_images
from serving_models.weights import Weights

SMALLEST = ["RegNetX_200MF", "RegNetX_400MF", "RegNetX_600MF", "RegNetX_800MF"]
HEIGHT, WIDTH = 64, 48


def weights_of(layer: Any) -> Weights:
    return {name: value.numpy() for name, value in layer.state_dict().items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_files.save_weights(model_files.small_network(), tmp_path_factory.mktemp("source") / "w.pdparams")


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    assert exported(source, folder) == 0
    return folder / "model"


@pytest.fixture
def model_folder(whole: Path, tmp_path: Path) -> Path:
    """An exported model, to be spoiled."""
    return shutil.copytree(whole, tmp_path / "model")


def exported(source: Path, root: Path) -> int:
    return main(["export", str(source), "--to", str(root), "--name", "model", "--image-size", "32"])


@pytest.mark.parametrize("variant", SMALLEST)
def test_its_scores_are_those_of_the_network(variant: str, tmp_path: Path) -> None:
    layer = model_files.small_network(variant=variant)
    images = random_images(5, HEIGHT, WIDTH)
    file = tmp_path / "model.onnx"

    onnx_model.write_onnx(weights_of(layer), variant, file, height=HEIGHT, width=WIDTH)

    scores = onnx_model.onnx_scores(file, images)
    assert (scores.shape, scores.dtype) == ((5, model_files.CLASSES), np.float32)
    np.testing.assert_allclose(scores, paddle_runtime.network_scores(layer, images), rtol=0, atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 1e-3  # images are told apart


def test_it_takes_a_batch_of_any_size_and_one_image_size() -> None:
    model = onnx_model.onnx_model(weights_of(model_files.small_network()), "RegNetX_200MF", height=HEIGHT, width=WIDTH)

    onnx.checker.check_model(model, full_check=True)
    [images], [scores] = model.graph.input, model.graph.output
    assert (images.name, scores.name) == ("x", "prediction")
    assert [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim] == ["batch", 3, 64, 48]
    assert [side.dim_param or side.dim_value for side in scores.type.tensor_type.shape.dim] == ["batch", 7]
    assert {node.op_type for node in model.graph.node} == {
        "Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm", "Softmax",
    }  # fmt: skip
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]


def test_the_same_weights_in_any_order_make_the_same_bytes(tmp_path: Path) -> None:
    weights = weights_of(network.build("RegNetX_200MF", 7))
    files = [tmp_path / "one.onnx", tmp_path / "other.onnx"]
    for file, order in zip(files, (list(weights), list(reversed(weights))), strict=True):
        shuffled = {name: weights[name] for name in order}
        onnx_model.write_onnx(shuffled, "RegNetX_200MF", file, height=32, width=32)

    assert files[0].read_bytes() == files[1].read_bytes()
    assert str(tmp_path).encode() not in files[0].read_bytes()


def test_a_convolution_and_its_normalisation_become_one() -> None:
    random = np.random.default_rng(0)
    weights = {
        "c._conv.weight": random.normal(size=(2, 3, 1, 1)).astype(np.float32),
        "c._batch_norm.weight": np.array([2, 3], np.float32),
        "c._batch_norm.bias": np.array([5, 7], np.float32),
        "c._batch_norm._mean": np.array([0.5, -0.5], np.float32),
        "c._batch_norm._variance": np.array([4, 0.25], np.float32),
    }
    pixel = random.normal(size=3)

    kernel, bias = onnx_model.folded(weights, "c")

    convolved = weights["c._conv.weight"][:, :, 0, 0].astype(np.float64) @ pixel
    normalised = np.array([2, 3]) * (convolved - [0.5, -0.5]) / np.sqrt(np.array([4, 0.25]) + 1e-5) + [5, 7]
    np.testing.assert_allclose(kernel[:, :, 0, 0] @ pixel + bias, normalised, rtol=1e-12)


def test_an_export_writes_it_with_its_checksum_and_how_near_it_is(model_folder: Path) -> None:
    facts = yaml.safe_load((model_folder / "model.yml").read_text())
    assert facts["files"]["onnx"] == "serving_server/inference.onnx"
    assert facts["verified"]["onnx_max_abs_diff"] < 1e-5
    model = load_model(model_folder)
    assert model.onnx == model_folder / "serving_server/inference.onnx"
    verify_files(model)
    with model.onnx.open("ab") as file:
        file.write(b"!")
    with pytest.raises(ModelError, match=r"inference\.onnx: SHA-256 is .*, model\.yml says "):
        verify_files(model)


def test_a_file_that_is_gone_is_named(model_folder: Path) -> None:
    file = model_folder / "serving_server/inference.onnx"
    file.unlink()

    with pytest.raises(ModelError) as refusal:
        load_model(model_folder)
    assert str(refusal.value) == f"{file}: no such file, named by model.yml"


def test_a_model_that_was_exported_without_it_is_served_as_before(model_folder: Path) -> None:
    facts = yaml.safe_load((model_folder / "model.yml").read_text())
    del facts["files"]["onnx"], facts["sha256"]["onnx"]
    (model_folder / "model.yml").write_text(yaml.safe_dump(facts))
    (model_folder / "serving_server/inference.onnx").unlink()

    model = load_model(model_folder)
    verify_files(model)
    assert model.onnx is None


@pytest.mark.parametrize(("epsilon", "difference"), [(0.5, "0."), (np.nan, "nan; not exported")])
def test_scores_that_differ_stop_the_export(
    epsilon: float,
    difference: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(onnx_model, "EPSILON", epsilon)

    assert exported(source, tmp_path / "models") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"w.pdparams: the scores of its ONNX form differ from Paddle's by up to {difference}" in line
    assert line.endswith("; not exported")
    assert not list((tmp_path / "models").iterdir())
