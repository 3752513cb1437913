"""Image -> model input, equal to PaddleClas's own operators."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from photographs import NAMES, encode, photograph, picture, with_orientation
from PIL import Image

from service.errors import ImageError
from service.ops.decode import Limits, decode
from service.ops.model import Model
from service.ops.preprocess import center_crop, preprocess, resize_short

MODEL = Model(
    name="regnetx_200mf",
    architecture="RegNetX_200MF",
    program=Path("inference.pdmodel"),
    params=Path("inference.pdiparams"),
    input_name="x",
    height=224,
    width=224,
    resize_short=256,
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    output_name="softmax_0.tmp_0",
    labels=("one", "two"),
)
SMALL = replace(
    MODEL, height=32, width=32, resize_short=36, scale=1.0, mean=(127.5, 120.0, 90.0), std=(60.0, 61.0, 2.0)
)


def tensor(image: np.ndarray, model: Model = MODEL) -> np.ndarray:
    out = np.full((3, model.height, model.width), np.nan, np.float32)
    preprocess(image, model, out)
    return out


@pytest.fixture(scope="module")
def operators():
    pytest.importorskip("paddle", reason="PaddleClas's operators import Paddle")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import reference

        return reference.preprocess_operators()


def expected(operators, data: bytes, model: Model = MODEL) -> np.ndarray:
    """What PaddleClas makes of the bytes of a file, with an inference.yml of this model's facts."""
    normalise = {"scale": model.scale, "mean": list(model.mean), "std": list(model.std), "order": ""}
    image = data
    for operator in operators.create_operators(
        [
            {"DecodeImage": {"to_rgb": True, "channel_first": False}},
            {"ResizeImage": {"resize_short": model.resize_short}},
            {"CropImage": {"size": model.height}},
            {"NormalizeImage": normalise},
            {"ToCHWImage": None},
        ]
    ):
        image = operator(image)
    return image


def by_the_formula(image: np.ndarray, model: Model = MODEL) -> np.ndarray:
    """The same in plain NumPy, for rooms without Paddle."""
    crop = center_crop(resize_short(image, model.resize_short), model.height, model.width)
    mean, std = np.float32(model.mean), np.float32(model.std)
    return ((crop.astype(np.float32) * np.float32(model.scale) - mean) / std).transpose(2, 0, 1)


# --- equal to PaddleClas -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("crop", [(256, 224), (256, 256), (232, 224), (36, 32), (321, 320)])
def test_a_photograph_becomes_the_input_paddleclas_makes_of_it(operators, name, crop):
    model = replace(MODEL, resize_short=crop[0], height=crop[1], width=crop[1])
    ours = tensor(decode(photograph(name), Limits()), model)
    np.testing.assert_allclose(ours, expected(operators, photograph(name), model), rtol=0, atol=0)


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (256, 256), (512, 512), (257, 911), (1000, 61), (61, 1000), (8, 8)]
)
@pytest.mark.parametrize("model", [MODEL, SMALL], ids=["ImageNet", "small"])
def test_sizes_and_aspects_make_no_difference(operators, size, model):
    data = encode(picture(*size), "PNG")
    np.testing.assert_allclose(
        tensor(decode(data, Limits()), model), expected(operators, data, model), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_turned_back_as_paddleclas_does(operators, orientation):
    data = encode(picture(320, 240), "JPEG", exif=with_orientation(orientation))
    np.testing.assert_allclose(tensor(decode(data, Limits())), expected(operators, data), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA"])
def test_the_colours_of_a_png_become_what_paddleclas_sees(operators, mode):
    data = encode(picture(320, 240).convert(mode), "PNG")
    np.testing.assert_allclose(tensor(decode(data, Limits())), expected(operators, data), rtol=0, atol=0)


@pytest.mark.parametrize("model", [MODEL, SMALL], ids=["ImageNet", "small"])
def test_normalising_is_bit_equal_to_the_float32_formula_for_every_value(model):
    values = np.arange(256, dtype=np.uint8).repeat(256 * 3).reshape(256, 256, 3)
    np.testing.assert_array_equal(tensor(values, model), by_the_formula(values, model))


# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 100), (100, 1), (3, 7), (2000, 20), (20, 2000), (333, 334)])
def test_tiny_and_long_images_fill_the_whole_input(shape):
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(tensor(image), by_the_formula(image))
    assert np.isfinite(tensor(image)).all()


@pytest.mark.parametrize("shape", [(1, 101), (101, 1), (1, 16384), (16384, 100)])
def test_an_image_that_would_grow_without_bound_is_refused(shape):
    size = f"{shape[1]}x{shape[0]}"
    with pytest.raises(ImageError, match=rf"^{size} pixels, but one side may be at most 100 times the other$"):
        tensor(np.zeros((*shape, 3), np.uint8))


def test_height_and_width_may_differ():
    image = np.asarray(picture(500, 375))
    wide = tensor(image, replace(MODEL, height=128, width=256))
    square = tensor(image, replace(MODEL, height=256, width=256))
    np.testing.assert_array_equal(wide, square[:, 64:192, :])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((0, 9, 3), np.uint8),
        np.zeros((3,), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(image):
    with pytest.raises(ImageError, match=r"but an image is uint8 \(height, width, 3\)$"):
        tensor(image)


def test_a_crop_larger_than_the_resized_image_is_refused():
    with pytest.raises(ImageError, match=r"^133x100 pixels after resizing, but the model takes 224x224$"):
        tensor(np.asarray(picture(400, 300)), replace(MODEL, resize_short=100))


# --- where it is written -------------------------------------------------------------------------


def test_the_input_is_written_in_place_and_nowhere_else():
    pool = np.full((5, 3, 224, 224), 7, np.float32)
    image = np.asarray(picture(500, 375))
    preprocess(image, MODEL, pool[2])
    np.testing.assert_array_equal(pool[2], tensor(image))
    assert (pool[[0, 1, 3, 4]] == 7).all()


def test_a_view_of_shared_memory_serves_at_any_float_boundary():
    image = np.asarray(picture(500, 375))
    memory = memoryview(bytearray(64 + 3 * 224 * 224 * 4))
    for offset in (0, 4, 60, 64):
        out = np.frombuffer(memory, np.float32, 3 * 224 * 224, offset).reshape(3, 224, 224)
        preprocess(image, MODEL, out)
        np.testing.assert_array_equal(out, tensor(image))


def test_an_image_that_is_itself_a_view_is_not_changed():
    whole = np.asarray(picture(500, 375)).copy()
    before = whole.copy()
    np.testing.assert_array_equal(tensor(whole[10:300:2, ::-1]), tensor(whole[10:300:2, ::-1].copy()))
    np.testing.assert_array_equal(whole, before)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((3, 224, 224), np.float64),
        np.zeros((224, 224, 3), np.float32),
        np.zeros((1, 3, 224, 224), np.float32),
        np.zeros((3, 224, 448), np.float32)[:, :, ::2],
    ],
)
def test_memory_of_another_layout_is_refused_and_never_silently_left_unwritten(out):
    with pytest.raises(ValueError, match=r"^out is float"):
        preprocess(np.asarray(picture()), MODEL, out)


def test_two_models_do_not_share_their_normalisation():
    image = np.asarray(Image.new("RGB", (50, 50), (255, 0, 0)))
    first, second = tensor(image), tensor(image, replace(MODEL, std=(1.0, 1.0, 1.0)))
    np.testing.assert_allclose(first[:, 0, 0], [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-6)
    np.testing.assert_allclose(second[:, 0, 0], [1 - 0.485, -0.456, -0.406], rtol=1e-6)
