"""native.jpeg_decode: scaled. Large JPEGs reduced while they are decoded, near to exact; everything else untouched."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import stock
from image_files import FILES, noise
from photographs import NAMES, encode, picture, with_orientation
from PIL import Image
from running import ROOT, configuration, serving
from test_preprocess import MODEL, tensor

from regnetx_client import Client
from service.config import load_config
from service.errors import ConfigError, ImageError
from service.ops.decode import Limits, decode
from service.ops.header import ImageHeader
from service.ops.model import load_model
from service.ops.preprocess import resize_short
from service.ops.scaled import reduction
from serving_models.bundled.digits.held_out import held_out, training

LIMITS = Limits()
SHORT = MODEL.resize_short  # 256


def levels(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Absolute differences between two inputs of the model, in the 256 levels of a pixel."""
    return np.abs(one - other) * np.array(MODEL.std)[:, None, None] * 255


def assert_near(data: bytes) -> None:
    """Scaled and exact decoding give the model nearly the same: the tolerance for pictures without pixel-sized detail.

    A side that is no multiple of the reduction is rounded up, which moves the picture by a fraction of a pixel.
    """
    exact, scaled = decode(data, LIMITS), decode(data, LIMITS, SHORT)
    assert scaled.shape[0] < exact.shape[0] and scaled.dtype == np.uint8 and scaled.flags.c_contiguous
    difference = levels(tensor(exact), tensor(scaled))
    factor = round(exact.shape[0] / scaled.shape[0])
    mean, most = (0.5, 4) if exact.shape[0] % factor == exact.shape[1] % factor == 0 else (2.5, 32)
    assert difference.mean() < mean
    assert np.quantile(difference, 0.999) < most


def enlarged(width: int, height: int, name: str = "china.jpg") -> Image.Image:
    """A photograph whose smallest detail is several pixels wide, as after enlarging it."""
    return picture(160, 107, name).resize((width, height), Image.Resampling.BICUBIC)


# --- how far --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((4000, 3000), 256, 4),
        ((6000, 4096), 256, 8),
        ((4095, 6000), 256, 4),
        ((2048, 1024), 256, 2),
        ((1023, 2048), 256, 1),
        ((500, 375), 256, 1),
        ((500, 375), 32, 4),
        ((16000, 160), 32, 2),
        ((16001, 160), 32, 1),
    ],
)
def test_the_largest_reduction_that_leaves_twice_the_size_is_taken(size, short, expected):
    assert reduction(ImageHeader("JPEG", *size), short) == expected
    assert reduction(ImageHeader("PNG", *size), short) == 1


@pytest.mark.parametrize(
    ("size", "factor"), [((1024, 1024), 2), ((2051, 1033), 2), ((2049, 2055), 4), ((4099, 4101), 8)]
)
def test_a_reduced_image_has_its_sides_divided_and_rounded_up(size, factor):
    image = decode(encode(enlarged(*size), "JPEG"), LIMITS, SHORT)
    assert image.shape == (-(-size[1] // factor), -(-size[0] // factor), 3)


# --- near to exact --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1366, 1024), (2050, 2049), (1031, 2001), (4000, 3000), (4105, 4099)])
def test_an_enlarged_photograph_becomes_nearly_the_same_input(name, size):
    assert_near(encode(enlarged(*size, name), "JPEG", quality=90))


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"restart_marker_blocks": 3}, {"quality": 60}],
    ids=str,
)
def test_every_way_to_write_a_jpeg_is_reduced(options):
    assert_near(encode(enlarged(2050, 1366), "JPEG", **options))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_colours_are_converted_as_without_reduction(mode, progressive):
    data = encode(enlarged(1537, 1111).convert(mode), "JPEG", progressive=progressive)
    assert_near(data)
    if mode == "L":
        red, green, blue = np.moveaxis(decode(data, LIMITS, SHORT), 2, 0)
        assert np.array_equal(red, green) and np.array_equal(green, blue)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_a_reduced_image(orientation):
    data = encode(enlarged(1500, 1125), "JPEG", exif=with_orientation(orientation))
    assert_near(data)
    others = [encode(enlarged(1500, 1125), "JPEG", exif=with_orientation(other)) for other in {1, 8} - {orientation}]
    ours = tensor(decode(data, LIMITS, SHORT))
    assert all(levels(ours, tensor(decode(other, LIMITS))).mean() > 10 for other in others)


# --- untouched ------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_a_small_image_is_decoded_exactly(data):
    np.testing.assert_array_equal(decode(data, LIMITS, SHORT), decode(data, LIMITS))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (16384, 163), (1023, 1024), (640, 427)])
def test_a_jpeg_whose_shorter_side_is_not_large_is_decoded_exactly(size):
    data = encode(picture(*size), "JPEG")
    np.testing.assert_array_equal(decode(data, LIMITS, SHORT), decode(data, LIMITS))


@pytest.mark.parametrize("image_format", ["PNG", "WebP", "BMP", "GIF"])
def test_a_large_image_of_another_format_is_decoded_exactly(image_format):
    data = encode(enlarged(1100, 1050), image_format)
    image = decode(data, LIMITS, SHORT)
    assert image.shape == (1050, 1100, 3)
    np.testing.assert_array_equal(image, decode(data, LIMITS))


def test_without_the_setting_a_large_jpeg_is_what_opencv_makes_of_it():
    data = encode(enlarged(4000, 3000), "JPEG")
    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    np.testing.assert_array_equal(decode(data, LIMITS), reference)


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_pixels=1600 * 1200 - 1), r"^1600x1200 pixels, at most 1919999 accepted$"),
        (Limits(max_side=1599), r"^1600x1200 pixels, at most 1599 a side accepted$"),
        (Limits(max_bytes=1000), r"^\d+ bytes, at most 1000 accepted$"),
    ],
)
def test_limits_hold_for_the_image_as_it_is_in_the_file(limits, message):
    with pytest.raises(ImageError, match=message):
        decode(encode(enlarged(1600, 1200), "JPEG"), limits, SHORT)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_jpeg_is_refused(kept, progressive):
    data = encode(enlarged(1600, 1200), "JPEG", progressive=progressive)
    with pytest.raises(ImageError, match=r"^JPEG truncated: \d+ bytes end in scan"):
        decode(data[: int(len(data) * kept)], LIMITS, SHORT)


def test_damaged_bytes_are_an_image_of_the_reduced_size_or_an_error():
    chance = random.Random(5)
    data = encode(enlarged(160, 120), "JPEG", progressive=True)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(2, len(data))] = chance.randrange(256)
        try:
            exact = decode(changed, LIMITS)
        except ImageError as error:
            with pytest.raises(ImageError) as refused:
                decode(changed, LIMITS, 30)
            assert str(refused.value) == str(error)
            continue
        reduced = decode(changed, LIMITS, 30)
        factor = round(exact.shape[0] / reduced.shape[0])
        assert reduced.shape == (-(-exact.shape[0] // factor), -(-exact.shape[1] // factor), 3)


def test_an_image_that_is_too_long_is_refused_by_the_size_that_it_has():
    data = encode(Image.new("L", (14402, 144)), "JPEG")
    with pytest.raises(ImageError, match=r"^14402x144 pixels, but one side may be at most 100 times the other$"):
        resize_short(decode(data, LIMITS, 32), 32)


# --- the key --------------------------------------------------------------------------------------


def load(tmp_path: Path, text: str, **environment: str):
    file = tmp_path / "config.yml"
    file.write_text("http_port: 1\nop: {r: {local_service_conf: {model_config: m}}}\n" + text)
    return load_config(file, environment)


def test_exact_is_what_an_absent_key_means(tmp_path):
    assert load(tmp_path, "").native.jpeg_decode == "exact" and not load(tmp_path, "").native.scales_jpeg
    assert load(tmp_path, "native: {jpeg_decode: scaled}").native.scales_jpeg
    assert load(tmp_path, "", REGNETX__NATIVE__JPEG_DECODE="scaled").native.scales_jpeg


@pytest.mark.parametrize("value", ["fast", "true", "2", "Scaled"])
def test_another_value_of_the_key_is_refused_with_those_that_are_accepted(tmp_path, value):
    with pytest.raises(ConfigError, match=r"native\.jpeg_decode: .* is not accepted; accepted: 'exact' or 'scaled'$"):
        load(tmp_path, f"native: {{jpeg_decode: {value}}}")


# --- the service ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_digit(tmp_path_factory) -> Path:
    """A 12-megapixel JPEG of a held-out digit, grainy, so that it matters how it is decoded."""
    small = cv2.imdecode(np.frombuffer(held_out().images[0], np.uint8), cv2.IMREAD_COLOR)
    large = cv2.resize(small, (4000, 3000), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    grain = cv2.resize(noise(1500, 2000).astype(np.int16) // 4 - 32, (4000, 3000), interpolation=cv2.INTER_NEAREST)
    file = tmp_path_factory.mktemp("large") / "digit.jpg"
    file.write_bytes(encode(Image.fromarray(np.clip(large + grain[:, :, None], 0, 255).astype(np.uint8)), "JPEG"))
    return file


def offline(model: Path, file: Path, jpeg_decode: str) -> dict[str, float]:
    """Probability by label, by the command that needs no server."""
    command = [sys.executable, "-m", "service", "predict", str(file), "--json", "--top-k", "10", "--model", str(model)]
    settings = {"REGNETX__NATIVE__ENGINE": "onnxruntime", "REGNETX__NATIVE__JPEG_DECODE": jpeg_decode}
    result = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return {entry["label"]: entry["prob"] for entry in json.loads(result.stdout)["top_k"]}


def test_a_large_photograph_is_reduced_over_http_and_gets_the_same_label(digits_model, large_digit, tmp_path):
    exact, scaled = (offline(digits_model, large_digit, mode) for mode in ("exact", "scaled"))
    native = {"engine": "onnxruntime", "jpeg_decode": "scaled"}
    with serving(tmp_path, configuration(digits_model, native=native)) as service, Client(service.url) as client:
        answer = {each.label: each.prob for each in client.classify(large_digit, top_k=10)}
    assert max(answer, key=answer.get) == max(exact, key=exact.get)
    differences = {label: abs(exact[label] - scaled[label]) for label in exact}
    assert max(differences.values()) > 1e-3, "the two ways give the same scores, so that this test shows nothing"
    assert answer == pytest.approx(scaled, abs=1e-5)


OF_STOCK = """
import sys
from pathlib import Path
import numpy as np
from service.config import load_config
from service.ops.model import load_model
from service.paddle_serving.web_service import RegnetService
config = load_config(Path(sys.argv[1]), {})
model = load_model(Path(config.regnet.local_service_conf.model_config_))
op = RegnetService(config, model, print).get_pipeline_response(None)
from service.contract.npy import Array
file = Path(sys.argv[2]).read_bytes()
feed, skip, code, text = op.preprocess({"request": {"image": Array("uint8", (len(file),), file)}})
np.save(sys.argv[3], feed[model.input_name][0])
"""


@pytest.mark.skipif(bool(stock.why_not()), reason=stock.why_not() or "it can be tested")
@pytest.mark.parametrize("jpeg_decode", ["exact", "scaled"])
def test_the_stock_runtime_feeds_its_model_the_same(digits_model, large_digit, tmp_path, jpeg_decode, monkeypatch):
    model = load_model(digits_model)
    monkeypatch.setenv("SERVING_LOG_PATH", str(tmp_path))
    config = stock.stock_configuration(digits_model, native={"jpeg_decode": jpeg_decode})
    (tmp_path / "config.yml").write_text(json.dumps(config))
    stock.output_of(
        [str(stock.PYTHON), "-c", OF_STOCK, str(tmp_path / "config.yml"), str(large_digit), str(tmp_path / "fed.npy")]
    )
    short = model.resize_short if jpeg_decode == "scaled" else None
    ours = tensor(decode(large_digit.read_bytes(), LIMITS, short), model)
    np.testing.assert_array_equal(np.load(tmp_path / "fed.npy"), ours)


# --- compare-decoding -----------------------------------------------------------------------------


def compare(model: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "compare-decoding", *map(str, arguments), "--model", str(model)]
    environment = os.environ | {"REGNETX__NATIVE__ENGINE": "onnxruntime"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def digit(number: int, size: tuple[int, int]) -> bytes:
    pixels = cv2.imdecode(np.frombuffer(training().images[number], np.uint8), cv2.IMREAD_COLOR)
    return encode(Image.fromarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)), "JPEG", quality=90)


def test_compare_decoding_counts_the_answers_that_stay_and_the_scores_that_move(digits_model, tmp_path):
    (tmp_path / "below").mkdir()
    for number in range(3):
        (tmp_path / f"below/{number}.JPG").write_bytes(digit(number, (300, 200)))
    (tmp_path / "half.jpeg").write_bytes(digit(3, (150, 140)))
    (tmp_path / "small.jpg").write_bytes(digit(4, (64, 64)))
    (tmp_path / "notes.txt").write_text("not looked at")
    result = compare(digits_model, tmp_path, "--least-agreement", "100")
    assert (result.returncode, result.stderr) == (0, "")
    counts, _, scaled, yardstick, times = result.stdout.splitlines()
    assert counts == "5 images, 0 could not be read, 4 reduced (4 at 1/2)"
    assert scaled.startswith("scaled ") and "100.0 %" in scaled and "100.0 %" in yardstick
    mean, most_of_them, greatest = (float(figure) for figure in scaled.split()[-3:])
    assert 0 < mean <= most_of_them <= greatest < 0.1
    assert times.startswith("decoding, CPU ms an image: exact ")


def test_compare_decoding_fails_where_more_answers_change_than_allowed(digits_model, tmp_path):
    rows, columns = np.indices((256, 256))
    checks = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)
    (tmp_path / "a.jpg").write_bytes(encode(Image.fromarray(checks), "JPEG", quality=100))
    for number in range(40):
        grain = np.random.default_rng(number).integers(0, 256, (256, 256), np.uint8)
        (tmp_path / f"grain{number}.jpg").write_bytes(encode(Image.fromarray(grain), "JPEG", quality=95))
    result = compare(digits_model, tmp_path, "--least-agreement", "100")
    assert result.returncode == 1 and " -> " in result.stdout and "at 1/4" in result.stdout
    assert compare(digits_model, tmp_path).returncode == 0


def test_compare_decoding_says_what_it_could_not_read_or_reduce(digits_model, tmp_path):
    (tmp_path / "half.jpg").write_bytes(digit(0, (300, 200))[:-900])
    (tmp_path / "small.jpg").write_bytes(digit(0, (100, 100)))
    result = compare(digits_model, tmp_path, tmp_path / "none.jpg")
    assert result.returncode == 1
    assert "half.jpg: JPEG truncated" in result.stderr and "none.jpg: No such file or directory" in result.stderr
    assert result.stdout == "3 images, 2 could not be read, none reduced: no JPEG with 128 pixels a side\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--least-agreement", "101"], "'101' is not a number from 0 to 100"),
        (["--least-agreement", "most"], "'most' is not a number from 0 to 100"),
        ([], "no JPEG in it; accepted: .jpeg, .jpg"),
    ],
)
def test_compare_decoding_refuses_what_it_cannot_do(digits_model, tmp_path, arguments, message):
    result = compare(digits_model, tmp_path, *arguments)
    assert result.returncode == 2 and message in result.stderr and result.stdout == ""
