"""What an export writes: a serving model whose scores are the source's, from every form a source can have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import paddle
import pytest
import yaml

from service.ops.model import load_model, verify_files
from serving_models import paddle_runtime, prototxt
from serving_models.__main__ import main
from serving_models.isolated_run import random_images
from serving_models.program_files import read_program
from serving_models.sources import file_sha256

IMAGES = random_images(8, model_files.SIDE, model_files.SIDE)
SERVER_FILES = [
    "inference.onnx",
    "inference.pdiparams",
    "inference.pdmodel",
    "serving_server_conf.prototxt",
    "serving_server_conf.stream.prototxt",
]
PROTOTXT = """\
feed_var {
  name: "x"
  alias_name: "x"
  is_lod_tensor: false
  feed_type: 1
  shape: 3
  shape: 32
  shape: 32
}
fetch_var {
  name: "softmax_0.tmp_0"
  alias_name: "prediction"
  is_lod_tensor: false
  fetch_type: 1
  shape: 7
}
"""
MODEL_FILES = ["labels.txt", "model.yml", "serving_client", "serving_server"]
CLIENT_FILES = ["serving_client_conf.prototxt", "serving_client_conf.stream.prototxt"]

Export = Callable[..., Path]
FORMS = ["pdmodel", "json", "fluid", "scattered", "tar", "fluid_output", "logits", "weights"]
SIDE_OF = dict.fromkeys(FORMS, ()) | {"weights": ("--image-size", str(model_files.SIDE))}  # programs declare theirs


@pytest.fixture(scope="module")
def network() -> Any:
    return model_files.small_network()


@pytest.fixture(scope="module")
def scores(network: Any) -> Any:
    return paddle_runtime.network_scores(network, IMAGES)


@pytest.fixture(scope="module")
def sources(network: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    whole = model_files.with_softmax(network)
    pdmodel = model_files.save_program(whole, folder / "pdmodel")
    return {
        "pdmodel": pdmodel,
        "json": model_files.save_program(whole, folder / "json", old=False),
        "fluid": model_files.as_fluid(pdmodel, folder / "fluid"),
        "scattered": model_files.as_scattered(pdmodel, folder / "scattered"),
        "tar": model_files.as_tar(pdmodel, folder / "RegNetX_200MF_infer.tar"),
        "fluid_output": model_files.save_program(model_files.Scaled(whole), folder / "fluid_output"),
        "logits": model_files.save_program(network, folder / "logits", input_name="inputs"),
        "weights": model_files.save_weights(network, folder / "weights/RegNetX_200MF_pretrained.pdparams"),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Run the command as a person does, once for the same words; the folder of the model."""
    root = tmp_path_factory.mktemp("serving_models")

    @cache
    def run(source: Path, *options: str) -> Path:
        name = f"{source.name}{len(list(root.iterdir()))}"
        assert main(["export", str(source), "--to", str(root), "--name", name, *options]) == 0
        return root / name

    return run


def answers(model: Path) -> Any:
    server = model / "serving_server"
    return paddle_runtime.program_scores(server / "inference.pdmodel", server / "inference.pdiparams", IMAGES)


@pytest.mark.parametrize("form", FORMS)
def test_the_exported_model_answers_what_the_network_answers(
    form: str, sources: dict[str, Path], scores: Any, exported: Export
) -> None:
    model = exported(sources[form], *SIDE_OF[form])

    assert np.abs(answers(model) - scores).max() < 1e-5
    facts = yaml.safe_load((model / "model.yml").read_text())
    assert facts["verified"]["inputs"] == 8
    assert facts["verified"]["max_abs_diff"] < 1e-6


def test_a_model_is_the_files_that_stock_and_service_expect(sources: dict[str, Path], exported: Export) -> None:
    model = exported(sources["tar"])

    assert sorted(path.name for path in model.iterdir()) == MODEL_FILES
    assert sorted(path.name for path in (model / "serving_server").iterdir()) == SERVER_FILES
    assert sorted(path.name for path in (model / "serving_client").iterdir()) == CLIENT_FILES
    assert not [path.name for path in model.parent.iterdir() if path.name.startswith(".")]


def test_the_service_loads_what_was_exported_at_the_declared_size(sources: dict[str, Path], exported: Export) -> None:
    model = load_model(exported(sources["tar"]))

    verify_files(model)
    assert (model.architecture, model.input_name, model.classes) == ("RegNetX_200MF", "x", 7)
    assert (model.height, model.width, model.resize_short) == (32, 32, 37)


@pytest.mark.parametrize("form", ["logits", "json", "weights"])
def test_there_is_exactly_one_softmax_at_the_end(form: str, sources: dict[str, Path], exported: Export) -> None:
    model = exported(sources[form], *SIDE_OF[form])

    program = read_program(model / "serving_server/inference.pdmodel")
    assert [node.kind for node in program.nodes].count("softmax") == 1
    assert program.nodes[-1].kind == "softmax"
    assert (list(program.feeds), program.fetches) == (["x"], (program.nodes[-1].output,))
    assert np.allclose(answers(model).sum(axis=1), 1)


def test_the_same_weights_make_the_same_bytes_without_a_trace_of_this_machine(
    sources: dict[str, Path], exported: Export
) -> None:
    models = [exported(sources[form], *SIDE_OF[form]) for form in FORMS]

    for file in SERVER_FILES:
        assert len({(model / "serving_server" / file).read_bytes() for model in models}) == 1
    assert b".py" not in (models[0] / "serving_server/inference.pdmodel").read_bytes()


def test_the_prototxts_say_in_text_and_binary_how_stock_feeds_it(sources: dict[str, Path], exported: Export) -> None:
    model = exported(sources["logits"])

    for side in ("server", "client"):
        stem = model / f"serving_{side}/serving_{side}_conf"
        assert stem.with_suffix(".prototxt").read_text() == PROTOTXT
        assert prototxt.from_binary(stem.with_suffix(".stream.prototxt").read_bytes()) == prototxt.from_text(PROTOTXT)


def test_the_binary_form_has_the_field_numbers_of_general_model_config() -> None:
    config = prototxt.general_model_config(prototxt.Variable("a", "b", (3, 300)), prototxt.Variable("c", "d", ()))

    feed = bytes([0x0A, 1, ord("a"), 0x12, 1, ord("b"), 0x18, 0, 0x20, 1, 0x28, 3, 0x28, 0xAC, 0x02])
    fetch = bytes([0x0A, 1, ord("c"), 0x12, 1, ord("d"), 0x18, 0, 0x20, 1])
    assert config.SerializeToString() == bytes([0x0A, len(feed)]) + feed + bytes([0x12, len(fetch)]) + fetch


def test_the_facts_say_where_the_model_comes_from(sources: dict[str, Path], exported: Export) -> None:
    model = exported(sources["tar"])

    facts = yaml.safe_load((model / "model.yml").read_text())
    assert facts["source"]["kind"] == "inference_model"
    assert facts["source"]["path"] == "RegNetX_200MF_infer.tar"
    assert facts["source"]["sha256"] == file_sha256(sources["tar"])
    versions = {package: version(package) for package in ("onnx", "onnxruntime")}
    assert facts["versions"] == {"regnetx_serving": "0.1.0", "paddle": paddle.__version__, **versions}
    assert facts["output"] == {"name": "softmax_0.tmp_0", "alias": "prediction", "activation": "softmax", "classes": 7}
    assert facts["input"]["shape"] == [3, 32, 32]


@pytest.mark.parametrize("form", ["pdmodel", "weights"])
def test_an_inference_yml_beside_the_source_says_how_it_is_fed(
    form: str, sources: dict[str, Path], exported: Export, tmp_path: Path
) -> None:
    labels = ["ant", "bee's", "cat, tabby", "dög", "eel", "fox", "gnu"]
    original = sources[form] if sources[form].is_dir() else sources[form].parent
    folder = shutil.copytree(original, tmp_path / "source")
    model_files.write_inference_yml(folder, labels=labels)

    model = load_model(exported(folder if form == "pdmodel" else folder / sources[form].name))

    assert (model.height, model.resize_short) == (32, 40)
    assert (model.mean, model.std, model.scale) == ((0.5,) * 3, (0.25,) * 3, 1 / 255)
    assert model.labels == tuple(labels)


def test_weights_alone_are_fed_as_they_were_evaluated(sources: dict[str, Path], exported: Export) -> None:
    model = load_model(exported(sources["weights"]))

    assert (model.height, model.width, model.resize_short) == (256, 256, 256)
    assert model.mean == (0.485, 0.456, 0.406)
    assert model.labels == ("0", "1", "2", "3", "4", "5", "6")


def test_a_thousand_classes_have_imagenets_labels(exported: Export, tmp_path: Path) -> None:
    weights = model_files.save_weights(model_files.small_network(1000), tmp_path / "w.pdparams")

    model = load_model(exported(weights, "--image-size", "32"))

    assert model.labels[0] == "tench, Tinca tinca"
    assert model.labels[999] == "toilet tissue, toilet paper, bathroom tissue"


def test_given_labels_and_sizes_go_first(sources: dict[str, Path], exported: Export, tmp_path: Path) -> None:
    folder = model_files.write_inference_yml(shutil.copytree(sources["pdmodel"], tmp_path / "source"), labels=["x"] * 7)
    (tmp_path / "labels.txt").write_text("0 a\n1 b b\n2 c\n3 d\n4 e\n5 f\n6 g\n")

    options = ["--labels", str(tmp_path / "labels.txt"), "--image-size", "64", "--resize-short", "70"]
    model = load_model(exported(folder, *options))

    assert model.labels == ("a", "b b", "c", "d", "e", "f", "g")
    assert (model.height, model.width, model.resize_short) == (64, 64, 70)


def test_without_a_name_a_model_is_called_by_its_architecture_and_the_command_ends_with_a_summary(
    sources: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(sources["weights"]), "--to", str(tmp_path)]) == 0

    assert load_model(tmp_path / "regnetx_200mf").name == "regnetx_200mf"
    printed = capfd.readouterr()
    assert "regnetx_200mf: ready to serve" in printed.out
    assert "RegNetX_200MF" in printed.out
    assert printed.err == ""
