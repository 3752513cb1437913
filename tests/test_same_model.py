"""What the processes of a service are told of its model, and how an engine sees that files are not that model's any more."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from running import configuration

from service.config import Config
from service.errors import ModelError
from service.native.same_model import note_files, require_noted, share_model, shared_model
from service.ops import content
from service.ops.content import SETTLED_NS, sha256_of, stamp_of
from service.ops.model import load_model


@pytest.fixture
def folder(digits_model, tmp_path):
    """A model of its own, whose files have not just been written."""
    copy = tmp_path / "digits"
    shutil.copytree(digits_model.parent, copy)
    time.sleep(2 * SETTLED_NS / 1e9)
    return copy / "serving_server"


@pytest.fixture
def reads(monkeypatch):
    """The names of files as they are read."""
    names, read = [], content._read
    monkeypatch.setattr(content, "_read", lambda file: names.append(file.name) or read(file))
    return names


def noted(folder, engine="openvino", **local):
    config = Config.model_validate(configuration(folder, native={"engine": engine}, local=local))
    return json.loads(json.dumps(note_files(config, load_model(folder))))  # as a process is told it


def test_the_facts_arrive_as_they_were(folder):
    model = load_model(folder)
    descriptor = share_model(model)
    assert shared_model(descriptor) == shared_model(descriptor) == model
    os.close(descriptor)


@pytest.mark.parametrize(
    ("engine", "names"),
    [
        ("paddle", ["inference.pdmodel", "inference.pdiparams"]),
        ("onnxruntime", ["inference.onnx"]),
        ("openvino", ["inference.onnx"]),
    ],
)
def test_the_files_that_the_engine_reads_are_noted_and_no_others(folder, engine, names):
    assert [os.path.basename(file) for file, _, _ in noted(folder, engine)] == names


def test_files_that_stay_are_read_once(folder, reads):
    note = noted(folder)
    for _ in range(3):
        require_noted(note)
        sha256_of(folder / "inference.onnx")
    assert reads == ["inference.onnx"]


def test_a_file_that_was_put_back_is_the_same_and_read_again(folder, reads):
    note, file = noted(folder), folder / "inference.onnx"
    bytes_of_it = file.read_bytes()
    file.unlink()
    file.write_bytes(bytes_of_it)
    require_noted(note)
    assert reads == ["inference.onnx"] * 2


def test_another_content_is_seen_though_size_and_time_stay(folder):
    note, file = noted(folder), folder / "inference.onnx"
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(before.st_size // 2)
        stream.write(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stamp_of(file).size == before.st_size and stamp_of(file).modified == before.st_mtime_ns
    with pytest.raises(ModelError, match=r"inference\.onnx: is not the file that the service runs with"):
        require_noted(note)


def test_a_file_that_has_just_been_written_is_not_trusted_by_its_times(folder, reads, monkeypatch):
    """Another write within the same tick of the file system's clock would leave them as they are."""
    monkeypatch.setattr(content, "SETTLED_NS", 3600 * 10**9)  # a machine may take its time between two lines
    file = folder / "inference.onnx"
    file.write_bytes(file.read_bytes())
    note = noted(folder)
    require_noted(note)
    assert len(reads) > 1


def test_a_file_that_is_gone_is_named_with_the_remedy(folder):
    note = noted(folder, "paddle")
    (folder / "inference.pdiparams").unlink()
    with pytest.raises(ModelError) as error:
        require_noted(note)
    told = (
        "No such file or directory; the service runs with that file, put it back, or let the service reload the model"
    )
    assert str(error.value) == f"{folder / 'inference.pdiparams'}: {told}"
