"""A serving model made by Paddle Serving's own converter (recorded/converted, made by recorded/convert.py) serves here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from running import ROOT, configuration

from service.errors import ModelError
from service.ops.model import Model, load_model, verify_files

CONVERTED = Path(__file__).parent / "recorded/converted"
DIGITS = sorted((ROOT / "serving_models/bundled/digits/samples").glob("*.png"))
CONF = "serving_server_conf.prototxt"


@pytest.fixture
def converted(tmp_path: Path, digits_model: Path) -> Path:
    """As the converter left it; the parameters are those of our own export, byte for byte."""
    shutil.copytree(CONVERTED, tmp_path / "Digits_serving")
    shutil.copy(digits_model / "inference.pdiparams", tmp_path / "Digits_serving/serving_server")
    return tmp_path / "Digits_serving"


@pytest.mark.parametrize("inside", [".", "serving_server"])
def test_names_and_shapes_are_read_and_the_rest_is_paddleclass(converted, inside):
    server = converted / "serving_server"
    half = Model(
        name="Digits_serving",
        architecture="architecture not recorded",
        program=server / "inference.pdmodel",
        params=server / "inference.pdiparams",
        input_name="x",
        height=32,
        width=32,
        resize_short=256,
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        output_name="softmax_0.tmp_0",
        labels=tuple("0123456789"),
    )
    assert load_model(converted / inside) == half
    verify_files(half)


def test_a_folder_of_any_name_will_do(converted):
    server = (converted / "serving_server").rename(converted.parent / "ResNet50_vd_serving")
    assert load_model(server).name == "ResNet50_vd_serving"


def predicted(folder: Path, model: Path) -> list[dict]:
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump(configuration(model)))
    command = [sys.executable, "-m", "service", "predict", "--json", "--config", str(file), *map(str, DIGITS)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return [json.loads(line)["top_k"] for line in result.stdout.splitlines()]


def test_it_answers_as_an_exported_model_that_is_fed_like_that(converted, digits_model, tmp_path):
    ours = shutil.copytree(digits_model.parent, tmp_path / "ours")
    facts = yaml.safe_load((ours / "model.yml").read_text())
    facts["input"].update(resize_short=256, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    (ours / "model.yml").write_text(yaml.safe_dump(facts))
    shutil.copy(ours / "labels.txt", converted)
    reference, answered = predicted(tmp_path, ours), predicted(tmp_path, converted)
    assert len(answered) == 10
    for one, two in zip(answered, reference, strict=True):
        assert [each["label"] for each in one] == [each["label"] for each in two]
        assert np.allclose([each["prob"] for each in one], [each["prob"] for each in two], atol=1e-5)


def rewritten(folder: Path, old: str, new: str) -> Path:
    file = folder / "serving_server" / CONF
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return file


def test_what_people_write_by_hand_is_read_too(converted):
    rewritten(converted, "feed_var {\n", "# the input\nfeed_var: {\n")
    rewritten(converted, '"prediction"', "'prediction' # PaddleClas wants it")
    assert load_model(converted).classes == 10


def test_a_thousand_classes_are_imagenets(converted):
    rewritten(converted, "shape: 10", "shape: 1000")
    assert load_model(converted).labels[:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus")


@pytest.mark.parametrize("place", [".", "serving_server"])
def test_labels_beside_it_come_first(converted, place):
    (converted / place / "labels.txt").write_text("a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n")
    assert load_model(converted).labels == tuple("abcdefghij")


def test_as_many_labels_as_classes_are_needed(converted):
    (converted / "labels.txt").write_text("a\nb\n")
    with pytest.raises(ModelError, match=rf"labels.txt: 2 labels, but {CONF} says 10 classes"):
        load_model(converted)


def test_a_large_input_is_resized_to_its_own_size(converted):
    rewritten(converted, "shape: 32\n  shape: 32", "shape: 300\n  shape: 320")
    assert (load_model(converted).resize_short, load_model(converted).height) == (320, 300)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("feed_type: 1", "feed_type: 0", "feed_var 'x' is type 0 of shape [3, 32, 32], accepted: float32, 3 x height"),
        ("shape: 3\n", "shape: 1\n", "feed_var 'x' is type 1 of shape [1, 32, 32], accepted: float32, 3 x height"),
        ("shape: 32\n", "", "feed_var 'x' is type 1 of shape [3], accepted: float32, 3 x height x width"),
        ("shape: 32\n", "shape: -1\n", "feed_var 'x' is type 1 of shape [3, -1, -1], accepted"),
        ("shape: 10\n", "shape: 10\n  shape: 7\n", "fetch_var 'softmax_0.tmp_0' is type 1 of shape [10, 7], accepted"),
        ('name: "x"\n', 'name: ""\n', "feed_var '' is type 1"),
        ("fetch_var {", "feed_var {", "2 feed_var, accepted: one"),
        ("fetch_var {", "other {", "0 fetch_var, accepted: one"),
    ],
)
def test_what_is_no_image_classifier_is_refused(converted, old, new, said):
    file = rewritten(converted, old, new)
    with pytest.raises(ModelError) as refusal:
        load_model(converted)
    assert str(refusal.value).startswith(f"{file}: ") and said in str(refusal.value)


@pytest.mark.parametrize("name", ["inference.pdmodel", "inference.pdiparams"])
def test_a_file_that_is_not_there_is_named(converted, name):
    (converted / "serving_server" / name).unlink()
    with pytest.raises(ModelError, match=f"serving_server: no .{Path(name).suffix} and no __"):
        load_model(converted)


def test_the_names_of_old_converters_are_found(converted):
    for name, old in (("inference.pdmodel", "__model__"), ("inference.pdiparams", "__params__")):
        (converted / "serving_server" / name).rename(converted / "serving_server" / old)
    assert load_model(converted).program.name == "__model__"
