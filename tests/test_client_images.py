"""Whatever holds an image arrives at the server as the bytes of an image file, pixel for pixel."""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from regnetx_client.errors import BadImage, RegnetError
from regnetx_client.images import all_encoded, encoded
from regnetx_client.png import png


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


# --- files and bytes -----------------------------------------------------------------------------


def test_a_file_is_sent_as_it_is_however_it_is_given(tmp_path: Path) -> None:
    content = b"\xff\xd8\xff not touched"
    path = tmp_path / "daisy.jpg"
    path.write_bytes(content)
    with path.open("rb") as file:
        given = [str(path), path, content, bytearray(content), memoryview(content), io.BytesIO(content), file]
        assert all_encoded(given) == [content] * 7


def test_an_open_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"skip image")
    file.seek(5)
    assert encoded(file) == b"image"


def test_encoded_bytes_in_a_flat_array_are_a_file() -> None:
    done, buffer = cv2.imencode(".png", noise(4, 5, 3))
    assert done
    assert encoded(buffer) == buffer.tobytes()


def test_a_file_that_cannot_be_read_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        encoded(tmp_path / "missing.jpg")
    with pytest.raises(IsADirectoryError):
        encoded(tmp_path)


@pytest.mark.parametrize("empty", [b"", bytearray(), io.BytesIO(), np.zeros(0, np.uint8)])
def test_no_bytes_are_no_image(empty: object) -> None:
    with pytest.raises(BadImage, match="0 bytes, not an image"):
        encoded(empty)


def test_a_file_opened_as_text_is_told() -> None:
    with pytest.raises(TypeError, match="reads as str: open it with mode 'rb'"):
        encoded(io.StringIO("text"))


@pytest.mark.parametrize("thing", [None, 5, object(), {"image": b""}])
def test_what_holds_no_image_is_told_with_what_is_accepted(thing: object) -> None:
    with pytest.raises(TypeError, match=f"{type(thing).__name__} is no image: pass a path, bytes"):
        encoded(thing)


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (224, 333, 3), (1, 1), (7, 5), (300, 1), (7, 5, 1)])
def test_an_array_loses_nothing(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    expected = pixels[..., 0] if shape[-1] == 1 and len(shape) == 3 else pixels
    assert np.array_equal(opened(encoded(pixels)), expected)


def test_opencv_reads_the_same_pixels() -> None:
    pixels = noise(30, 41, 3)
    read = cv2.imdecode(np.frombuffer(encoded(pixels), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(read[..., ::-1], pixels)


def test_views_with_strides_are_sent_as_they_look() -> None:
    pixels = noise(20, 30, 3)
    for view in (pixels[..., ::-1], pixels[::2, 3:17], pixels.transpose(1, 0, 2), np.asfortranarray(pixels)):
        assert np.array_equal(opened(encoded(view)), view)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 5, 3), np.float32), "an array of float32"),
        (np.zeros((4, 5), bool), "an array of bool"),
        (np.zeros((4, 5), np.int8), "an array of int8"),
        (np.zeros((4, 5), np.uint16), "an array of uint16"),
        (noise(4, 5, 4), r"an array of shape \(4, 5, 4\)"),
        (noise(3, 4, 5), r"an array of shape \(3, 4, 5\)"),
        (noise(1, 4, 5, 3), r"an array of shape \(1, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"an array of shape \(0, 5, 3\)"),
        (np.zeros((4, 0), np.uint8), r"an array of shape \(4, 0\)"),
    ],
)
def test_arrays_that_need_a_guess_are_refused(array: np.ndarray, found: str) -> None:
    with pytest.raises(BadImage, match=f"{found}: an image array is uint8 of shape"):
        encoded(array)


def test_arrays_need_no_numpy_of_ours() -> None:
    pixels = memoryview(bytes(range(24))).cast("B", (2, 4, 3))
    assert opened(encoded(pixels)).tobytes() == bytes(range(24))


def test_the_png_has_right_checksums_and_one_filter() -> None:
    data = png(bytes(range(12)), height=2, width=2, channels=3)
    kind, length = data[37:41], int.from_bytes(data[33:37], "big")
    assert kind == b"IDAT"
    assert zlib.decompress(data[41 : 41 + length]) == b"\0" + bytes(range(6)) + b"\0" + bytes(range(6, 12))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


# --- Pillow --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_a_pillow_image_is_sent_as_it_looks(mode: str) -> None:
    image = Image.fromarray(noise(9, 8, 3)).convert("RGB" if mode != "LA" else "L")
    image = image.convert(mode) if mode != "LAB" else Image.frombytes("LAB", (8, 9), noise(9, 8, 3).tobytes())
    sent = Image.open(io.BytesIO(encoded(image)))
    assert sent.format == "PNG"
    assert np.array_equal(np.asarray(sent.convert("RGB")), np.asarray(image.convert("RGB")))


def test_sixteen_bits_of_a_pillow_image_arrive() -> None:
    deep = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000
    assert np.array_equal(opened(encoded(Image.fromarray(deep))), deep)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_pillow_mode_without_an_agreed_range_is_refused(mode: str) -> None:
    with pytest.raises(BadImage, match=f"mode '{mode}', convert it to 'RGB' or 'L' first"):
        encoded(Image.new(mode, (3, 3)))


def test_a_photograph_opened_with_pillow_keeps_its_orientation() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    Image.fromarray(noise(4, 6, 3)).save(file, "PNG", exif=exif)
    image = Image.open(io.BytesIO(file.getvalue()))
    sent = Image.open(io.BytesIO(encoded(image)))
    assert np.array_equal(np.asarray(sent), np.rot90(noise(4, 6, 3), -1))
    assert sent.getexif().get(0x0112, 1) == 1


def test_a_truncated_pillow_image_is_a_bad_image() -> None:
    file = io.BytesIO()
    Image.fromarray(noise(50, 50, 3)).save(file, "JPEG")
    with pytest.raises(BadImage, match=r"Pillow cannot read it: .*truncated"):
        encoded(Image.open(io.BytesIO(file.getvalue()[:-500])))


def test_the_callers_pillow_image_is_left_as_it_was() -> None:
    image = Image.fromarray(noise(4, 6, 3))
    before = image.tobytes()
    encoded(image)
    assert (image.mode, image.size, image.tobytes()) == ("RGB", (6, 4), before)


def test_without_pillow_loaded_no_one_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "PIL.Image")
    assert encoded(noise(2, 2, 3)).startswith(b"\x89PNG")


# --- several -------------------------------------------------------------------------------------


def test_several_images_may_come_from_anything_that_iterates(tmp_path: Path) -> None:
    stack = noise(3, 4, 5, 3)
    assert all_encoded(iter([b"a", b"b"])) == [b"a", b"b"]
    assert [opened(data).tobytes() for data in all_encoded(stack)] == [image.tobytes() for image in stack]


@pytest.mark.parametrize(
    "one", ["daisy.jpg", Path("daisy.jpg"), b"bytes", io.BytesIO(b"x"), noise(4, 5, 3), noise(4, 5)]
)
def test_one_image_is_not_taken_for_several(one: object) -> None:
    with pytest.raises(TypeError, match="call classify"):
        all_encoded(one)


def test_the_bad_one_of_several_is_named_by_its_place() -> None:
    with pytest.raises(RegnetError, match="image 2: an array of float64"):
        all_encoded([b"a", b"b", np.zeros((2, 2, 3)), b"d"])
