"""What is no RegNetX, or not whole, or not clear: refused in one line with what was found, and nothing is written."""

from __future__ import annotations

import dataclasses
import io
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import model_files
import paddle
import pytest

from serving_models import network
from serving_models.__main__ import main
from serving_models.paddle_runtime import reproducible_names
from serving_models.variants import VARIANTS

Refusal = Callable[..., str]

PIR_WITH_A_NUMBER_FOR_A_NAME = (
    b'{"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [{"ops": '
    b'[{"#": "p", "A": [0, 0, 0, 7], "O": {"%": 1, "TT": {"D": [0, [1]]}}}]}]}]}}'
)


@pytest.fixture(scope="module")
def pdmodel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_files.save_program(model_files.small_network(), tmp_path_factory.mktemp("source") / "pdmodel")


@pytest.fixture(scope="module")
def json_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_files.save_program(model_files.small_network(), tmp_path_factory.mktemp("source") / "json", old=False)


@pytest.fixture
def folder(pdmodel: Path, tmp_path: Path) -> Path:
    """A good inference model, to be spoiled."""
    return Path(shutil.copytree(pdmodel, tmp_path / "source"))


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Export what must be refused; the line that says so."""

    def run(source: Path | str, *options: str) -> str:
        assert main(["export", str(source), "--to", str(tmp_path / "models"), *options]) == 2
        assert not list((tmp_path / "models").glob("*"))
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


def test_something_that_is_not_there(refusal: Refusal) -> None:
    line = refusal("RegNetX_500MF")

    assert "'RegNetX_500MF': no such file, folder or official model" in line
    assert "accepted are a folder or tar of a PaddleClas inference model" in line
    assert "RegNetX_32GF" in line


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("notes.txt", b"not a model\n", "a text file"),
        ("RegNetX_200MF.pdparams", b"not a model\n", "a text file"),
        ("model.onnx", b"\x08\x08\x12\x07pytorch\x1a\x051.0.0:", "an ONNX model"),
        ("RegNetX_200MF_infer.tar", b"", "an empty file"),
        ("RegNetX_200MF_infer.tar", b"x" * 4096, "not a tar, plain or compressed"),
        ("RegNetX_200MF.pdparams", b"", "an empty file"),
    ],
)
def test_a_file_of_another_kind(name: str, content: bytes, found: str, tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / name).write_bytes(content)

    assert found in refusal(tmp_path / name)


def test_one_file_of_an_inference_model_names_the_folder_to_give(folder: Path, refusal: Refusal) -> None:
    assert f"name its folder, {folder}" in refusal(folder / "inference.pdmodel")


def test_a_folder_without_a_program(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"")

    assert "no program among cat.jpg; accepted is a folder or tar with one program" in refusal(tmp_path / "photos")


def test_a_program_without_parameters(folder: Path, refusal: Refusal) -> None:
    (folder / "inference.pdiparams").unlink()

    assert "inference.pdmodel, but no parameters among" in refusal(folder)


def test_two_programs_are_ambiguous(folder: Path, json_model: Path, refusal: Refusal) -> None:
    shutil.copy(json_model / "inference.json", folder)

    assert "ambiguous, 2 programs: inference.json, inference.pdmodel" in refusal(folder)


def test_two_files_of_parameters_are_ambiguous(folder: Path, refusal: Refusal) -> None:
    shutil.copy(folder / "inference.pdiparams", folder / "other.pdiparams")

    assert "ambiguous, 2 files of parameters: inference.pdiparams, other.pdiparams" in refusal(folder)


def test_a_serving_model_is_not_exported_again(folder: Path, refusal: Refusal) -> None:
    (folder / "model.yml").write_text("name: x\n")

    assert "a serving model already" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 10, 30_000])
def test_a_program_that_is_cut_short(keep: int, folder: Path, refusal: Refusal) -> None:
    program = folder / "inference.pdmodel"
    program.write_bytes(program.read_bytes()[:keep])

    assert str(program) in refusal(folder)


@pytest.mark.parametrize(("keep", "found"), [(0, "an empty file"), (25_000, "cut short"), (-1, "cut short")])
def test_parameters_that_are_cut_short(keep: int, found: str, folder: Path, refusal: Refusal) -> None:
    params = folder / "inference.pdiparams"
    params.write_bytes(params.read_bytes()[:keep])

    line = refusal(folder)
    assert str(params) in line
    assert found in line


def test_parameters_of_another_head(tmp_path: Path, refusal: Refusal) -> None:
    ours, other = (_saved_as_first(classes, tmp_path / f"of_{classes}") for classes in (7, 8))
    shutil.copy(other / "inference.pdiparams", ours)

    assert "of shape (8,), but the program declares (7,)" in refusal(ours)


def _saved_as_first(classes: int, folder: Path) -> Path:
    # By what was built before in this process, names would sort differently from one network to the next.
    with reproducible_names():
        return model_files.save_program(model_files.small_network(classes), folder)


def test_parameters_that_are_no_numbers(folder: Path, refusal: Refusal) -> None:
    with (folder / "inference.pdiparams").open("r+b") as stream:
        stream.seek(-4, io.SEEK_END)
        stream.write(struct.pack("<f", float("nan")))

    assert "holds values that are not finite" in refusal(folder)


def test_parameters_with_something_behind_them(folder: Path, refusal: Refusal) -> None:
    with (folder / "inference.pdiparams").open("ab") as stream:
        stream.write(b"more")

    assert "4 bytes more than the program's" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"base_code": {"mag', "damaged or cut short, not JSON"),
        (b'{"a": 1}', "no Paddle program"),
        (b'{"base_code": {"magic": "pir"}, "program": {}}', "an unknown layout"),
        (PIR_WITH_A_NUMBER_FOR_A_NAME, "an unknown layout (TypeError: the name 7 is not text)"),
    ],
)
def test_json_that_is_no_program(
    content: bytes, found: str, json_model: Path, tmp_path: Path, refusal: Refusal
) -> None:
    folder = Path(shutil.copytree(json_model, tmp_path / "source"))
    (folder / "inference.json").write_bytes(content)

    assert found in refusal(folder)


@pytest.mark.parametrize("old", [True, False])
def test_a_resnet_is_told_apart_by_its_program(old: bool, tmp_path: Path, refusal: Refusal) -> None:
    resnet = paddle.vision.models.resnet18(num_classes=10)
    source = model_files.save_program(resnet, tmp_path / "resnet", old=old)

    line = refusal(source)
    assert "not a RegNetX: a convolution [64, 3, 7, 7]" in line
    assert "found 20 conv2d, 20 batch_norm" in line
    assert "accepted are the inference models of RegNetX_200MF" in line


def test_a_detector_is_told_apart_by_its_inputs(tmp_path: Path, refusal: Refusal) -> None:
    class Detector(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.head = paddle.nn.Linear(2, 4)

        def forward(self, image: paddle.Tensor, im_shape: paddle.Tensor) -> paddle.Tensor:
            return self.head(im_shape) * image.mean()

    inputs = [
        paddle.static.InputSpec([None, 3, 32, 32], "float32", name="image"),
        paddle.static.InputSpec([None, 2], "float32", name="im_shape"),
    ]
    paddle.jit.save(Detector(), str(tmp_path / "detector/inference"), input_spec=inputs)

    assert "2 inputs ['image', 'im_shape']" in refusal(tmp_path / "detector")


def test_a_regnetx_of_another_depth_names_the_differences(tmp_path: Path, refusal: Refusal) -> None:
    variant = dataclasses.replace(VARIANTS["RegNetX_200MF"], depths=(1, 1, 4, 6))
    source = model_files.save_program(network.RegNetX(variant, 7), tmp_path / "other")

    line = refusal(source)
    assert "missing s4_b7.conv0._conv.weight" in line
    assert "RegNetX_200MF" in line


def test_a_program_that_kills_paddle_kills_only_its_own_process(
    folder: Path, tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))

    assert "Paddle crashed on it (signal 11), it must be damaged" in refusal(folder)


def test_a_tar_that_is_cut_short(pdmodel: Path, tmp_path: Path, refusal: Refusal) -> None:
    whole = model_files.as_tar(pdmodel, tmp_path / "whole.tar").read_bytes()
    (tmp_path / "RegNetX_200MF_infer.tar").write_bytes(whole[: len(whole) // 2])

    assert "RegNetX_200MF_infer.tar: damaged or cut short" in refusal(tmp_path / "RegNetX_200MF_infer.tar")


def test_a_tar_without_a_model_is_called_by_its_own_name(tmp_path: Path, refusal: Refusal) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w"):
        pass

    assert f"{tmp_path / 'photos.tar'}: no program among" in refusal(tmp_path / "photos.tar")


def test_more_labels_than_classes(folder: Path, tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")

    assert "7 classes, but 2 labels ('a' … 'b')" in refusal(folder, "--labels", str(tmp_path / "labels.txt"))


def test_a_crop_that_is_larger_than_the_resized_image(folder: Path, refusal: Refusal) -> None:
    assert "resized to 32, 64x64 crop" in refusal(folder, "--image-size", "64", "--resize-short", "32")
