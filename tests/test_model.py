"""model.yml and the files beside it -> Model."""

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from service.errors import ModelError
from service.ops.model import load_model, verify_files

PROGRAM, PARAMS = b"program", b"params"
FACTS = {
    "name": "regnetx_200mf",
    "architecture": "RegNetX_200MF",
    "input": {
        "name": "x",
        "dtype": "float32",
        "shape": [3, 224, 192],
        "resize_short": 256,
        "interpolation": "bilinear",
        "channel_order": "RGB",
        "scale": 0.00392156862745098,
        "mean": [0.485, 0.456, 0],
        "std": [0.229, 0.224, 1],
    },
    "output": {"name": "softmax_1.tmp_0", "alias": "prediction", "activation": "softmax", "classes": 3},
    "labels": "labels.txt",
    "files": {"program": "serving_server/inference.pdmodel", "params": "serving_server/inference.pdiparams"},
    "sha256": {"program": hashlib.sha256(PROGRAM).hexdigest(), "params": hashlib.sha256(PARAMS).hexdigest()},
}
NOTHING = object()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A serving model as export writes it; the contents of its two large files do not matter here."""
    server = tmp_path / "regnetx_200mf" / "serving_server"
    server.mkdir(parents=True)
    (server / "inference.pdmodel").write_bytes(PROGRAM)
    (server / "inference.pdiparams").write_bytes(PARAMS)
    (server.parent / "labels.txt").write_text("tench\ngoldfish, Carassius\nżółw \u2028\n", encoding="utf-8")
    write(server.parent, FACTS)
    return server.parent


def write(folder: Path, facts: object) -> None:
    (folder / "model.yml").write_text(yaml.safe_dump(facts), encoding="utf-8")


def changed(key: str, value: object) -> dict:
    """FACTS with one value, named like ``input.shape``, replaced or left out."""
    facts = yaml.safe_load(yaml.safe_dump(FACTS))
    *sections, last = key.split(".")
    place = facts
    for section in sections:
        place = place[section]
    if value is NOTHING:
        del place[last]
    else:
        place[last] = value
    return facts


def refusal(model_config: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(model_config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- a good model --------------------------------------------------------------------------------


def test_every_fact_is_read(folder):
    model = load_model(folder)
    assert (model.name, model.architecture) == ("regnetx_200mf", "RegNetX_200MF")
    assert model.program == folder / "serving_server" / "inference.pdmodel"
    assert model.params == folder / "serving_server" / "inference.pdiparams"
    assert (model.input_name, model.output_name) == ("x", "softmax_1.tmp_0")
    assert (model.height, model.width, model.resize_short) == (224, 192, 256)
    assert (model.scale, model.mean, model.std) == (0.00392156862745098, (0.485, 0.456, 0.0), (0.229, 0.224, 1.0))
    assert model.classes == 3


def test_a_label_is_a_line_whatever_unicode_is_in_it(folder):
    assert load_model(folder).labels == ("tench", "goldfish, Carassius", "żółw")


def test_labels_with_windows_line_ends_are_the_same_labels(folder):
    (folder / "labels.txt").write_bytes(b"tench\r\ngoldfish\r\nshark")
    assert load_model(folder).labels == ("tench", "goldfish", "shark")


def test_the_folder_stock_names_is_the_same_model(folder):
    assert load_model(folder / "serving_server") == load_model(folder)


def test_facts_of_later_versions_are_ignored(folder):
    write(folder, {**FACTS, "licence": "Apache-2.0"})
    assert load_model(folder).classes == 3


# --- what is missing -----------------------------------------------------------------------------


def test_a_missing_directory_is_named(tmp_path):
    assert refusal(tmp_path / "gone") == (
        f"{tmp_path}/gone: no such directory, accepted: serving_models/<name> or the serving_server in it"
    )


def test_a_file_is_not_a_model(folder):
    assert refusal(folder / "labels.txt").startswith(f"{folder}/labels.txt: a file, accepted: serving_models/<name>")


@pytest.mark.parametrize("inside", [".", "serving_server"])
def test_a_folder_without_facts_is_no_model(folder, inside):
    (folder / "model.yml").unlink()
    assert refusal(folder / inside) == f"{folder}: no model.yml in it, which python -m serving_models export writes"


@pytest.mark.parametrize("inside", [".", "serving_server"])
def test_without_facts_a_model_of_stocks_converter_is_looked_for(folder, inside):
    (folder / "model.yml").unlink()
    file = folder / "serving_server" / "serving_server_conf.prototxt"
    file.touch()
    assert refusal(folder / inside) == f"{file}: 0 feed_var, accepted: one"


@pytest.mark.parametrize("name", ["inference.pdmodel", "inference.pdiparams"])
def test_a_missing_or_empty_file_is_named(folder, name):
    file = folder / "serving_server" / name
    file.write_bytes(b"")
    assert refusal(folder) == f"{file}: empty, named by model.yml"
    file.unlink()
    assert refusal(folder) == f"{file}: no such file, named by model.yml"


def test_missing_labels_are_named(folder):
    (folder / "labels.txt").unlink()
    assert refusal(folder) == f"{folder}/labels.txt: No such file or directory"


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1, 2", "not YAML: while parsing a flow sequence"),
        (b"a: !!python/object/apply:os.system [true]", "not YAML: could not determine a constructor"),
        (b"[" * 900 + b"]" * 900, "not YAML: maximum recursion depth exceeded"),
        (b"name: 2001-13-45", "not YAML: month must be in 1..12"),
        (b"", "NoneType at the top, accepted: a mapping"),
        (b"- a\n- b\n", "list at the top, accepted: a mapping"),
        (b"name: \xff\xfe", "not UTF-8 text: byte 0xff at 6"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(folder, text, message):
    (folder / "model.yml").write_bytes(text)
    assert refusal(folder).startswith(f"{folder}/model.yml: {message}")


@pytest.mark.parametrize(
    "key",
    [
        *("name", "architecture", "labels", "input", "output", "files", "files.program", "files.params"),
        *("input.name", "input.dtype", "input.shape", "input.resize_short", "input.interpolation"),
        *("input.channel_order", "input.scale", "input.mean", "input.std"),
        *("output.name", "output.activation", "output.classes"),
    ],
)
def test_a_missing_fact_is_named(folder, key):
    write(folder, changed(key, NOTHING))
    assert refusal(folder) == f"{folder}/model.yml: {key} is missing"


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("name", 5, "text"),
        ("architecture", "", "text"),
        ("input", [], "a mapping"),
        ("input.name", None, "text"),
        ("input.dtype", "uint8", "float32"),
        ("input.shape", [224, 224], "a list of three whole numbers from 1"),
        ("input.shape", [3, 224, -1], "a list of three whole numbers from 1"),
        ("input.shape", [3, 224.0, 224], "a list of three whole numbers from 1"),
        ("input.shape", [1, 224, 224], "[3, height, width]"),
        ("input.resize_short", True, "a whole number from 1"),
        ("input.resize_short", 200, "a whole number from 224, the longer side of input.shape"),
        ("input.interpolation", "bicubic", "bilinear"),
        ("input.channel_order", "BGR", "RGB"),
        ("input.scale", "1/255", "a number above 0"),
        ("input.mean", [0.5, 0.5], "a list of three numbers"),
        ("input.mean", [0.5, 0.5, float("nan")], "a list of three numbers"),
        ("input.std", [0.2, 0.2, 0.0], "three numbers above 0"),
        ("output.activation", "none", "softmax"),
        ("output.classes", "3", "a whole number from 1"),
        ("labels", "../labels.txt", "the name of a file beside model.yml"),
        ("files.program", "/etc/passwd", "serving_server/<file>"),
        ("files.program", "serving_server/../../x", "serving_server/<file>"),
        ("files.params", "inference.pdiparams", "serving_server/<file>"),
    ],
)
def test_a_wrong_fact_is_refused_with_value_and_what_is_accepted(folder, key, value, accepted):
    write(folder, changed(key, value))
    assert refusal(folder) == f"{folder}/model.yml: {key} is {value!r}, accepted: {accepted}"


@pytest.mark.parametrize(("text", "count"), [("a\nb\n", 2), ("a\nb\nc\nd\n", 4), ("", 1)])
def test_another_number_of_labels_than_classes_is_refused(folder, text, count):
    (folder / "labels.txt").write_text(text, encoding="utf-8")
    assert refusal(folder) == f"{folder}/labels.txt: {count} labels, but output.classes of model.yml is 3"


def test_labels_that_are_no_text_are_refused(folder):
    (folder / "labels.txt").write_bytes(b"ok\n\xe9\n")
    assert refusal(folder) == f"{folder}/labels.txt: not UTF-8 text: byte 0xe9 at 3"


# --- verification --------------------------------------------------------------------------------


def test_the_files_that_were_exported_are_verified(folder):
    verify_files(load_model(folder))
    verify_files(load_model(folder / "serving_server"))


@pytest.mark.parametrize(("key", "name"), [("program", "inference.pdmodel"), ("params", "inference.pdiparams")])
def test_a_changed_file_is_found_by_its_sha256(folder, key, name):
    file = folder / "serving_server" / name
    file.write_bytes(file.read_bytes() + b"!")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=rf"^{re.escape(str(file))}: SHA-256 is {found}, model\.yml says "):
        verify_files(load_model(folder))


def test_a_model_without_checksums_cannot_be_verified(folder):
    write(folder, changed("sha256", NOTHING))
    with pytest.raises(ModelError, match=r"model\.yml: sha256 is missing$"):
        verify_files(load_model(folder))


def test_a_file_that_vanished_after_loading_is_named(folder):
    model = load_model(folder)
    model.params.unlink()
    with pytest.raises(ModelError, match=r"inference\.pdiparams: No such file or directory$"):
        verify_files(model)
