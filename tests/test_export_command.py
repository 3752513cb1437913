"""The words of the command line, and a terminal that knows few letters: one line and a status, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import model_files
import pytest

from serving_models.__main__ import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_files.save_weights(model_files.small_network(), tmp_path_factory.mktemp("source") / "w.pdparams")


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["export", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("source", ["~nobody-of-that-name/model", "a\0b", ""])
def test_a_source_that_can_be_none(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert "accepted " in refusal(capsys, source)


@pytest.mark.parametrize("name", ["", "../elsewhere", ".hidden", "a/b", "a b", "dög", "a\n"])
def test_a_name_that_is_no_plain_file_name(name: str, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"name {name!r}: accepted are letters" in refusal(capsys, str(weights), "--name", name)


def test_a_folder_whose_name_paddle_cannot_write(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")

    assert "/\\udcff': accepted is a path of UTF-8" in refusal(capsys, str(weights), "--to", root)
    assert not list(tmp_path.iterdir())


def test_paths_with_spaces_and_any_letters_are_paths_like_others(weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "Modelle für später 模型"

    assert main(["export", str(weights), "--to", str(root), "--name", "m"]) == 0
    assert (root / "m/model.yml").is_file()


def test_a_terminal_that_knows_ascii_only_is_told_all_the_same(weights: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving_models", "export", str(weights), "--to", str(tmp_path), "--name", "m"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, env=ascii_only, capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"7: 0 \u2026 6" in done.stdout


def test_a_disk_that_is_full_under_the_output_is_one_line() -> None:
    command = [sys.executable, "-m", "serving_models", "list"]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, env=buffered, stdout=full, stderr=subprocess.PIPE, check=False)

    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")
