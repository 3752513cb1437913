"""An export that fails, is killed or finds no space leaves nothing; one that replaces a model never loses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_files
import pytest

from service.errors import ModelError
from service.ops.model import load_model, verify_files
from serving_models.__main__ import main
from serving_models.workspace import WriteError, publish, require_space, workspace

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    model_files.write_inference_yml(folder)
    return model_files.save_weights(model_files.small_network(), folder / "RegNetX_200MF.pdparams")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def a_model(folder: Path, text: str) -> Path:
    """What counts as a serving model here, told apart by a text."""
    (folder / "serving_server").mkdir(parents=True)
    (folder / "model.yml").write_text(text)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_existing_model_is_replaced_only_by_force(
    weights: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_model(models / "regnetx_200mf", "old")

    assert main(["export", str(weights), "--to", str(models)]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert (models / "regnetx_200mf/model.yml").read_text() == "old"

    assert main(["export", str(weights), "--to", str(models), "--force"]) == 0
    verify_files(load_model(models / "regnetx_200mf"))
    assert names(models) == ["regnetx_200mf"]


def test_not_even_force_replaces_what_is_no_model(
    weights: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "labels").mkdir(parents=True)
    (models / "labels/imagenet1k.txt").touch()

    assert main(["export", str(weights), "--to", str(models), "--force", "--name", "labels"]) == 2
    assert "exists, and is no serving model" in capsys.readouterr().err
    assert names(models / "labels") == ["imagenet1k.txt"]


def test_a_replaced_model_is_put_back_when_the_new_one_cannot_take_its_place(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = a_model(models / "model", "old")
    rename = os.rename

    def failing(source: Path, destination: Path) -> None:
        if source.name == "new":
            raise OSError("no")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="no"), workspace(models) as folder:
        publish(a_model(folder / "new", "new"), target, force=True)

    assert (target / "model.yml").read_text() == "old"
    assert names(models) == ["model"]


def test_a_model_moved_aside_by_a_killed_export_is_put_back_at_the_next_start(models: Path) -> None:
    a_model(models / ".export.1.x/replaced/model", "old")
    a_model(models / ".export.1.x/model", "new, but never published")

    with workspace(models):
        assert (models / "model/model.yml").read_text() == "old"
    assert names(models) == ["model"]


def test_a_living_export_is_left_alone(models: Path) -> None:
    with workspace(models) as one, workspace(models) as other:
        assert one.is_dir()
        assert other.is_dir()
    assert names(models) == []


def test_of_two_exports_of_one_name_the_second_is_refused(models: Path) -> None:
    with workspace(models) as one, workspace(models) as other:
        publish(a_model(one / "model", "first"), models / "model", force=False)
        with pytest.raises(ModelError, match="exists already"):
            publish(a_model(other / "model", "second"), models / "model", force=False)

    assert (models / "model/model.yml").read_text() == "first"


def test_killed_half_way_it_leaves_nothing_and_the_next_start_clears_up(weights: Path, models: Path) -> None:
    command = [sys.executable, "-m", "serving_models", "export", str(weights), "--to", str(models)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in until(lambda: list(models.glob(".export.*/model/serving_server"))):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert [name for name in names(models) if not name.startswith(".")] == []
    with workspace(models):
        pass
    assert names(models) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(weights: Path, models: Path) -> None:
    # The largest file a process may write stands in for the disk: Paddle notices neither.
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000));"
        "from serving_models.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "export", str(weights), "--to", str(models)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the model was not written whole, is the disk full?")
    assert names(models) == []


def test_too_little_space_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="MiB are free on that disk"):
        require_space(tmp_path, 1 << 60)


def test_a_folder_that_cannot_be_written_to_is_one_line(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert main(["export", str(weights), "--to", str(tmp_path / "file/models")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'file/models'}: Not a directory\n"


def until(condition: Any, timeout: float = 60) -> Iterator[None]:
    """Yield between looks, until the condition holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        yield
        time.sleep(0.01)
