"""The network beside PaddleClas's own: the same names, the same shapes, the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
import reference

from service.errors import ModelError
from serving_models import network, weights
from serving_models.layers import parameter_shapes
from serving_models.variants import VARIANTS

SMALL = ["RegNetX_200MF", "RegNetX_400MF", "RegNetX_600MF", "RegNetX_800MF"]
CLASSES = 17


@pytest.fixture
def cheap_weights():
    """All parameters of a new network one constant: drawing a hundred million random numbers takes seconds."""
    paddle.nn.initializer.set_global_initializer(paddle.nn.initializer.Constant(0.5))
    yield
    paddle.nn.initializer.set_global_initializer(None)


def shapes_of(layer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in layer.state_dict().items()}


def randomised(layer):
    """The layer in evaluation mode, with running statistics and affine parameters as if it had been trained."""
    random = np.random.default_rng(7)
    for name, value in layer.state_dict().items():
        if "_batch_norm" in name:
            low, high = (0.5, 1.5) if name.endswith(("weight", "_variance")) else (-0.5, 0.5)
            value.set_value(random.uniform(low, high, value.shape).astype(np.float32))
    layer.eval()
    return layer


def logits(layer, images) -> np.ndarray:
    with paddle.no_grad():
        return layer(paddle.to_tensor(images)).numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_have_paddleclas_names_and_shapes_in_its_order(variant, cheap_weights):
    ours = shapes_of(network.build(variant, CLASSES))
    theirs = reference.shapes(variant, CLASSES)
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_computed_shapes_are_those_of_paddleclas(variant):
    assert parameter_shapes(VARIANTS[variant], CLASSES) == reference.shapes(variant, CLASSES)


@pytest.mark.parametrize("variant", SMALL)
def test_logits_equal_the_reference_with_the_same_random_weights(variant, tmp_path):
    paddle.seed(3)
    theirs = randomised(reference.network(variant, CLASSES))
    ours = network.build(variant, CLASSES)
    weights.load_strictly(ours, saved_and_read(theirs, tmp_path / f"{variant}.pdparams"), source=tmp_path)
    ours.eval()
    images = np.random.default_rng(5).normal(size=(2, 3, 64, 64)).astype(np.float32)
    expected = logits(theirs, images)
    assert np.abs(expected).max() > 1e-2
    assert np.abs(logits(ours, images) - expected).max() <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_loads_strictly_from_a_paddleclas_state_dict(variant, cheap_weights):
    theirs = reference.network(variant, CLASSES)
    arrays = {name: value.numpy() for name, value in theirs.state_dict().items()}
    arrays["s4_b1.conv1._batch_norm._variance"] += np.arange(VARIANTS[variant].widths[-1], dtype=np.float32)
    ours = network.build(variant, CLASSES)
    weights.load_strictly(ours, arrays, source=Path(variant))
    loaded = ours.state_dict()["s4_b1.conv1._batch_norm._variance"].numpy()
    assert np.array_equal(loaded, arrays["s4_b1.conv1._batch_norm._variance"])


def test_any_image_size_and_any_batch_give_one_row_of_logits_an_image():
    layer = network.build("RegNetX_200MF", 3)
    layer.eval()
    assert logits(layer, np.zeros((2, 3, 33, 65), np.float32)).shape == (2, 3)
    assert logits(layer, np.zeros((1, 3, 224, 224), np.float32)).shape == (1, 3)


def test_the_network_answers_logits_not_probabilities():
    layer = network.build("RegNetX_200MF", 3)
    layer.eval()
    layer.out.bias.set_value(np.array([5, 0, -5], np.float32))
    assert logits(layer, np.zeros((1, 3, 32, 32), np.float32)).sum() == pytest.approx(0, abs=1e-3)


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ModelError, match=r"no variant is called 'RegNetY_200MF'; accepted are RegNetX_200MF, .*32GF"):
        network.build("RegNetY_200MF", 10)


def test_a_network_without_classes_is_refused():
    with pytest.raises(ModelError, match="0 classes; accepted is 1 or more"):
        network.build("RegNetX_200MF", 0)


def saved_and_read(layer, path: Path) -> weights.Weights:
    paddle.save(layer.state_dict(), str(path))
    return weights.read_weights(path)
