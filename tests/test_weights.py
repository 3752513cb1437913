"""Weights: what PaddleClas writes is read, loaded strictly and recognised."""

from __future__ import annotations

import collections
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from service.errors import ModelError
from serving_models import network, weights
from serving_models.layers import parameter_shapes
from serving_models.variants import VARIANTS

CLASSES = 5
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def layer():
    return network.build("RegNetX_200MF", CLASSES)


def zeros(variant: str = "RegNetX_200MF", classes: int = CLASSES) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(VARIANTS[variant], classes).items()}


def pickled(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def refusal_to_load(layer, arrays: dict[str, np.ndarray]) -> str:
    with pytest.raises(ModelError) as caught:
        weights.load_strictly(layer, arrays, source=Path("w.pdparams"))
    return str(caught.value)


# --- what PaddleClas writes ---


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_is_read_to_the_bit(layer, tmp_path, protocol):
    path = tmp_path / "RegNetX_200MF.pdparams"
    paddle.save(layer.state_dict(), str(path), protocol=protocol)
    read = weights.read_weights(path)
    saved = {name: value.numpy() for name, value in layer.state_dict().items()}
    assert list(read) == list(saved)
    assert all(np.array_equal(read[name], saved[name]) for name in saved)
    assert {array.dtype for array in read.values()} == {np.dtype(np.float32)}


def test_pickles_of_numpy_1_are_read_like_those_of_numpy_2(tmp_path):
    content = pickle.dumps({"a": np.arange(3, dtype=np.float32)}, 2)
    path = tmp_path / "numpy1.pdparams"
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert np.array_equal(weights.read_weights(path)["a"], [0, 1, 2])


def test_pickles_of_python_2_are_read(tmp_path):
    # Written out by hand: the data of an array as a str of Python 2, opcode U.
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02f4I00\nI01\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
    array = empty + b"(I1\n(I2\nt" + dtype + b"I00\nU\x08\x00\x00\x80?\x00\x00\x00\xc0tb"
    path = tmp_path / "python2.pdparams"
    path.write_bytes(b"\x80\x02}U\x01a" + array + b"s.")
    assert np.array_equal(weights.read_weights(path)["a"], [1, -2])


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(6, dtype=">f4"),
        np.arange(6, dtype=np.float16),
        np.zeros((0, 3), np.float32),
    ],
    ids=["fortran order", "big endian", "half precision", "empty"],
)
def test_arrays_keep_their_values_however_they_were_laid_out(tmp_path, array):
    read = weights.read_weights(pickled(tmp_path / "w.pdparams", collections.OrderedDict(a=array)))["a"]
    assert read.dtype == np.float32
    assert np.array_equal(read, array)


def test_reading_needs_no_paddle():
    code = "import sys; from serving_models import weights; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


# --- strict loading ---


def test_loading_fills_every_parameter_and_running_statistic():
    layer = network.build("RegNetX_200MF", CLASSES)
    random = np.random.default_rng(2)
    arrays = {name: random.normal(size=zero.shape).astype(np.float32) for name, zero in zeros().items()}
    weights.load_strictly(layer, arrays, source=Path("w.pdparams"))
    assert all(np.array_equal(value.numpy(), arrays[name]) for name, value in layer.state_dict().items())


def test_a_missing_parameter_is_named(layer):
    arrays = zeros()
    del arrays["s2_b1.short._batch_norm._mean"]
    assert "missing s2_b1.short._batch_norm._mean;" in refusal_to_load(layer, arrays)


def test_an_extra_parameter_is_named(layer):
    arrays = zeros() | {"s1_b1.se_block.squeeze.weight": np.zeros((24, 6), np.float32)}
    assert "extra s1_b1.se_block.squeeze.weight;" in refusal_to_load(layer, arrays)


def test_a_misshapen_parameter_is_named_with_both_shapes(layer):
    arrays = zeros(classes=6)
    message = refusal_to_load(layer, arrays)
    assert "out.weight is (368, 6), not (368, 5), out.bias is (6,), not (5,);" in message


def test_a_refused_load_changes_nothing(layer):
    before = {name: value.numpy() for name, value in layer.state_dict().items()}
    refusal_to_load(layer, zeros(classes=6))
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in layer.state_dict().items())


def test_of_many_differences_the_first_are_named_and_the_rest_counted(layer):
    message = refusal_to_load(layer, {})
    assert "missing conv._conv.weight, missing conv._batch_norm.weight," in message
    assert f" and {len(zeros()) - 5} more;" in message


# --- which variant, how many classes ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_is_known_by_its_shapes(variant):
    shapes = parameter_shapes(VARIANTS[variant], 7)
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    assert weights.variant_of(arrays, Path("best_model.pdparams")) == variant
    assert weights.variant_of(arrays, Path(f"{variant}_pretrained.pdparams")) == variant
    assert weights.classes_of(arrays, Path("best_model.pdparams")) == 7


def test_a_file_named_after_another_variant_is_refused():
    with pytest.raises(ModelError, match="named after RegNetX_1600MF, but has the shapes of RegNetX_200MF; rename it"):
        weights.variant_of(zeros(), Path("regnetx_1600mf.pdparams"))


def test_a_damaged_state_dict_is_compared_with_the_variant_it_is_named_after():
    arrays = zeros()
    del arrays["conv._conv.weight"]
    with pytest.raises(ModelError, match=r"not the parameters of RegNetX_400MF: missing conv\._conv\.weight, missing"):
        weights.variant_of(arrays, Path("RegNetX_400MF.pdparams"))


def test_a_damaged_state_dict_of_no_name_is_compared_with_the_nearest_variant():
    arrays = zeros("RegNetX_400MF")
    del arrays["conv._conv.weight"]
    with pytest.raises(ModelError, match=r"not the parameters of RegNetX_400MF: missing conv\._conv\.weight;"):
        weights.variant_of(arrays, Path("best.pdparams"))


def test_another_network_is_refused_with_what_it_holds():
    resnet = paddle.vision.models.resnet18(num_classes=3)
    arrays = {name: value.numpy() for name, value in resnet.state_dict().items()}
    with pytest.raises(ModelError, match=r"no out\.weight, so no head of a RegNetX, among conv1\.weight, bn1\.weight,"):
        weights.variant_of(arrays, Path("ResNet18.pdparams"))
