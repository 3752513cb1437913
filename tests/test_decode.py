"""bytes -> image: formats, orientation, colour, limits."""

import errno
import struct
from io import BytesIO

import cv2
import numpy as np
import pytest
from animations import animated_png
from image_files import FILES, noise, png
from photographs import NAMES, encode, photograph, picture, with_orientation
from PIL import Image, ImageOps

from service.errors import ConfigError, ImageError
from service.ops.decode import Limits, decode

LIMITS = Limits()


def reference(data: bytes) -> np.ndarray:
    """What PaddleClas sees: deploy/python/preprocess.py, DecodeImage."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


every_file = pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())


# --- what an image looks like --------------------------------------------------------------------


@every_file
def test_an_image_is_rgb_contiguous_writable_and_equal_to_opencv(data):
    image = decode(data, LIMITS)
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
    np.testing.assert_array_equal(image, reference(data))


@pytest.mark.parametrize("name", NAMES)
def test_a_photograph_decodes_as_the_reference_does(name):
    np.testing.assert_array_equal(decode(photograph(name), LIMITS), reference(photograph(name)))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind_are_accepted(kind):
    assert decode(kind(FILES["PNG"]), LIMITS).shape == (37, 61, 3)


@pytest.mark.parametrize(("image_format", "options"), [("JPEG", {}), ("PNG", {}), ("WebP", {"lossless": True})])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(image_format, options, orientation):
    data = encode(picture(), image_format, exif=with_orientation(orientation), **options)
    upright = Image.open(BytesIO(data))
    np.testing.assert_array_equal(decode(data, LIMITS), np.asarray(ImageOps.exif_transpose(upright)))
    np.testing.assert_array_equal(decode(data, LIMITS), reference(data))


def test_cmyk_is_converted():
    image = decode(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100), LIMITS)
    np.testing.assert_allclose(image.reshape(-1, 3), [[255, 0, 0]] * 256, atol=2)


@pytest.mark.parametrize("name", ["JPEG greyscale", "PNG greyscale", "PNG 1 bit", "PNG greyscale with alpha"])
def test_grey_becomes_three_equal_channels(name):
    red, green, blue = np.moveaxis(decode(FILES[name], LIMITS), 2, 0)
    assert np.array_equal(red, green) and np.array_equal(green, blue)


def test_alpha_is_dropped_and_what_it_hid_is_seen():
    np.testing.assert_array_equal(decode(FILES["PNG alpha"], LIMITS), np.asarray(picture()))
    np.testing.assert_array_equal(decode(FILES["BMP alpha"], LIMITS), np.asarray(picture()))


@pytest.mark.parametrize("shape", [(37, 61), (37, 61, 3), (37, 61, 4)])
def test_16_bits_are_cut_to_their_upper_8(shape):
    array = noise(*shape, dtype=np.uint16)
    upper = (array >> 8).astype(np.uint8)
    expected = np.repeat(upper[:, :, None], 3, 2) if array.ndim == 2 else upper[:, :, 2::-1]
    np.testing.assert_array_equal(decode(png(array), LIMITS), expected)


@pytest.mark.parametrize("image_format", ["PNG", "WebP", "GIF"])
def test_an_animation_is_its_first_frame(image_format):
    colours = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {} if image_format == "GIF" else {"lossless": True}
    data = encode(colours[0], image_format, save_all=True, append_images=colours[1:], duration=40, **options)
    np.testing.assert_array_equal(decode(data, LIMITS), np.asarray(colours[0]))


def test_an_icc_profile_is_ignored():
    with_profile = encode(picture(), "JPEG", icc_profile=bytes(500))
    np.testing.assert_array_equal(decode(with_profile, LIMITS), decode(FILES["JPEG"], LIMITS))


def test_bytes_behind_the_image_are_ignored():
    for data in FILES.values():
        np.testing.assert_array_equal(decode(data + b"\0trailing" * 9, LIMITS), decode(data, LIMITS))


def test_stray_bytes_between_jpeg_segments_are_skipped():
    data = FILES["JPEG"]
    first_segment = 2 + 2 + 16  # SOI, then JFIF
    stray = data[:first_segment] + b"stray\xff\x00\xff\xff" + data[first_segment:]
    np.testing.assert_array_equal(decode(stray, LIMITS), decode(data, LIMITS))


# --- large images, read with less memory; here everything is large --------------------------------


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr("service.ops.decode.LARGE", 1)
    monkeypatch.setattr("service.ops.decode.BAND", 200)


@every_file
def test_a_large_image_has_the_same_pixels(everything_is_large, data):
    image = decode(data, LIMITS)
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
    np.testing.assert_array_equal(image, reference(data))


@pytest.mark.parametrize(("image_format", "options"), [("JPEG", {}), ("PNG", {}), ("WebP", {"lossless": True})])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_image_is_turned(everything_is_large, image_format, options, orientation):
    data = encode(picture(), image_format, exif=with_orientation(orientation), **options)
    np.testing.assert_array_equal(decode(data, LIMITS), reference(data))


@pytest.mark.parametrize("blend", [0, 1])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_animated_png_is_its_default_image(everything_is_large, blend, dtype):
    pixels = noise(37, 61, 4, dtype=dtype)
    expected = reference(png(pixels))
    np.testing.assert_array_equal(decode(animated_png(pixels, blend=blend), LIMITS), expected)


@pytest.mark.parametrize("name", [name for name in FILES if "GIF" not in name and "animated" not in name])
def test_a_large_image_is_decoded_into_the_array_that_is_returned(everything_is_large, monkeypatch, name):
    expected = reference(FILES[name])
    monkeypatch.setattr("cv2.imdecode", None)
    np.testing.assert_array_equal(decode(FILES[name], LIMITS), expected)


def test_a_large_image_is_decoded_where_no_descriptor_is_left(everything_is_large, monkeypatch):
    def none_left(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("os.memfd_create", none_left)
    np.testing.assert_array_equal(decode(FILES["JPEG"], LIMITS), reference(FILES["JPEG"]))


def test_a_large_image_that_is_damaged_is_said_to_be(everything_is_large):
    data = bytearray(FILES["PNG"])
    pixels = data.index(b"IDAT") + 4
    data[pixels : pixels + 40] = bytes(40)
    with pytest.raises(ImageError, match=rf"^PNG damaged: {len(data)} bytes that cannot be decoded$"):
        decode(data, LIMITS)


# --- limits --------------------------------------------------------------------------------------


def test_nothing_is_refused_as_empty():
    with pytest.raises(ImageError, match=r"^empty$"):
        decode(b"", LIMITS)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_bytes=100), f"^{len(FILES['PNG'])} bytes, at most 100 accepted$"),
        (Limits(max_pixels=61 * 37 - 1), "^61x37 pixels, at most 2256 accepted$"),
        (Limits(max_side=60), "^61x37 pixels, at most 60 a side accepted$"),
    ],
)
def test_an_image_beyond_a_limit_is_refused_with_both_numbers(limits, message):
    with pytest.raises(ImageError, match=message):
        decode(FILES["PNG"], limits)


def test_an_image_at_every_limit_is_accepted():
    data = FILES["PNG"]
    assert decode(data, Limits(max_bytes=len(data), max_pixels=61 * 37, max_side=61)).shape == (37, 61, 3)


def test_an_animation_that_is_composed_may_have_a_quarter_of_the_pixels():
    assert decode(FILES["WebP animated"], Limits(max_pixels=4 * 61 * 37)).shape == (37, 61, 3)
    with pytest.raises(ImageError, match=r"^61x37 pixels of an animation, at most 2256 accepted$"):
        decode(FILES["WebP animated"], Limits(max_pixels=4 * 61 * 37 - 1))


@pytest.mark.parametrize("name", ["PNG", "PNG palette", "PNG animated", "WebP alpha", "GIF animated"])
def test_what_is_not_composed_may_have_all_of_the_pixels(name):
    assert decode(FILES[name], Limits(max_pixels=61 * 37)).shape == (37, 61, 3)


def test_a_bomb_is_refused_by_its_header_before_anything_else():
    bomb = bytearray(FILES["PNG"])
    bomb[16:24] = struct.pack(">II", 20000, 20000)
    with pytest.raises(ImageError, match=r"^20000x20000 pixels, at most 16384 a side accepted$"):
        decode(bomb, LIMITS)
    with pytest.raises(ImageError, match=r"^20000x20000 pixels, at most 50000000 accepted$"):
        decode(bomb[:33], Limits(max_side=30000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "^max_bytes is 0, accepted: whole numbers from 1$"),
        ({"max_side": "9"}, "^max_side is '9', accepted"),
        ({"max_pixels": 2**28 + 1}, "^max_pixels is 268435457, accepted: 1 to 268435456$"),
    ],
)
def test_a_limit_that_cannot_hold_is_a_configuration_error(options, message):
    with pytest.raises(ConfigError, match=message):
        Limits(**options)
