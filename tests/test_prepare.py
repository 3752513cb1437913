"""`prepare` prints the path of a model that can be served, at once where there is one."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import model_files
import pytest
from running import configuration

from service.compare_decoding import Comparer
from service.config import Config
from service.errors import ModelError
from service.ops.model import load_model
from service.predict import LocalClassifier
from serving_models.__main__ import main
from serving_models.download import ADDRESS_VARIABLE, PATIENCE, DownloadError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No official model in the cache, and an address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ADDRESS_VARIABLE, f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield


@pytest.fixture
def models(digits_model: Path, tmp_path: Path) -> Path:
    """A folder of exported models, with the digits in it."""
    shutil.copytree(digits_model.parent, tmp_path / "models/digits")
    return tmp_path / "models"


def test_without_a_network_the_bundled_digits_are_exported_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--to", str(tmp_path / "models")]) == 0

    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'models/digits/serving_server'}\n"
    (line,) = printed.err.splitlines()
    assert line.startswith("serving the bundled model of handwritten digits, because ")
    assert "no connection to 127.0.0.1:" in line
    assert line.endswith("for ImageNet, with a network: python -m serving_models export RegNetX_200MF")
    assert load_model(tmp_path / "models/digits").labels[:3] == ("zero", "one", "two")


def test_a_later_start_uses_them_again_and_needs_no_paddle(models: Path) -> None:
    program = "import sys; from serving_models.__main__ import main; main(); assert 'paddle' not in sys.modules"

    command = [sys.executable, "-c", program, "prepare", "--to", str(models)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == f"{models / 'digits/serving_server'}\n"


@pytest.mark.parametrize("there_already", [True, False])
def test_where_there_is_a_model_to_serve_a_better_one_is_not_waited_for_long(
    there_already: bool, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def nobody(*_: object, patience: float) -> Path:
        waited.append(patience)
        raise DownloadError("nobody there")

    monkeypatch.setattr("serving_models.prepare.fetch_official", nobody)
    assert main(["prepare", "--to", str(models if there_already else tmp_path / "empty")]) == 0
    assert waited == [1.0 if there_already else PATIENCE]


@pytest.mark.parametrize("name", ["digits", "{models}/digits", "{models}/digits/serving_server"])
def test_a_name_or_a_path_of_a_model_is_answered_by_its_path(
    name: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", name.format(models=models), "--to", str(models)]) == 0

    assert capsys.readouterr() == (f"{models / 'digits/serving_server'}\n", "")


def test_the_official_model_goes_first_where_it_is_there(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(models / "digits", models / "regnetx_200mf")

    assert main(["prepare", "--to", str(models)]) == 0

    assert capsys.readouterr() == (f"{models / 'regnetx_200mf/serving_server'}\n", "")


def test_an_official_model_that_is_in_the_cache_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = model_files.save_program(model_files.small_network(1000), tmp_path / "official")
    tar = model_files.as_tar(source, tmp_path / "RegNetX_200MF_infer.tar")
    monkeypatch.setattr("serving_models.sources.fetch_official", lambda *_: tar)

    assert main(["prepare", "regnetx_200mf", "--to", str(tmp_path / "models")]) == 0

    assert capsys.readouterr().out == f"{tmp_path / 'models/regnetx_200mf/serving_server'}\n"
    assert load_model(tmp_path / "models/regnetx_200mf").labels[0] == "tench, Tinca tinca"


def test_an_official_model_that_cannot_be_exported_does_not_keep_the_service_from_starting(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("no model")
    tar = model_files.as_tar(tmp_path / "other", tmp_path / "RegNetX_200MF_infer.tar")
    for module in ("prepare", "sources"):
        monkeypatch.setattr(f"serving_models.{module}.fetch_official", lambda *_, **__: tar)

    assert main(["prepare", "--to", str(models)]) == 0

    printed = capsys.readouterr()
    assert printed.out == f"{models / 'digits/serving_server'}\n"
    (line,) = printed.err.splitlines()
    assert line.startswith(f"serving the bundled model of handwritten digits, because {tar}: no program among ")


def test_an_official_model_that_cannot_be_fetched_is_one_line(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "RegNetX_4GF", "--to", str(models)]) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: RegNetX_4GF_infer.tar could not be downloaded: no connection to 127.0.0.1:")


def test_a_name_that_is_nothing_says_what_is_accepted(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "regnet", "--to", str(models)]) == 2

    assert "'regnet': no model of that name" in capsys.readouterr().err


def test_a_damaged_model_is_not_served(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "digits/serving_server/inference.pdiparams").unlink()

    assert main(["prepare", "digits", "--to", str(models)]) == 2
    assert "inference.pdiparams: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["inference.pdiparams", "inference.onnx"])
def test_a_model_with_a_changed_file_is_not_prepared_and_predicts_nothing(
    models: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = models / "digits/serving_server" / file
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)

    assert main(["prepare", "digits", "--to", str(models)]) == 2
    assert re.search(
        rf"{file}: SHA-256 is \w{{64}}, model\.yml says \w{{64}}; export it again", capsys.readouterr().err
    )
    config = Config.model_validate(configuration(models / "digits"))
    for opened in (LocalClassifier, Comparer):
        with pytest.raises(ModelError, match=r"export it again"):
            opened(config)
