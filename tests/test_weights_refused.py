"""Weights files that are hostile, damaged or something else: refused with what was found, and nothing is executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest

from service.errors import ModelError
from serving_models import restricted_pickle, weights


class Call:
    """Pickles as a call of a function: what a hostile file does."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickled(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        weights.read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# --- hostile files ---


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_a_command_is_refused_by_name_and_runs_nothing(tmp_path, protocol):
    trace = tmp_path / "executed"
    path = pickled(tmp_path / "w.pdparams", {"out.weight": Call(os.mkdir, str(trace))}, protocol)
    assert f"refers to {os.mkdir.__module__}.mkdir" in refusal(path)
    assert not trace.exists()
    # The file is live: an ordinary unpickler runs it.
    pickle.loads(path.read_bytes())
    assert trace.is_dir()


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, tuple, np.load, np.frombuffer, paddle.load])
def test_no_other_function_can_be_named(tmp_path, function):
    path = pickled(tmp_path / "w.pdparams", {"a": Call(function, "1")})
    assert f".{function.__name__}, which no state dict needs (nothing was executed)" in refusal(path)


def test_a_dotted_name_below_an_accepted_one_is_refused(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.")
    assert "refers to numpy.ndarray.__init__" in refusal(path)


def test_arrays_of_objects_are_refused(tmp_path):
    path = pickled(tmp_path / "w.pdparams", {"a": np.array([None, None])})
    assert refusal(path).startswith("refers to arrays of numpy type 'O8', which no state dict needs")


def test_an_array_larger_than_its_data_is_refused_without_allocating_it(tmp_path):
    content = pickle.dumps({"a": np.zeros(3, np.float32)}, 2)
    path = tmp_path / "w.pdparams"
    # K\x03: the shape (3,); J: a four-byte number instead.
    path.write_bytes(content.replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"))
    assert "damaged or cut short" in refusal(path)


def test_an_array_that_was_never_built_is_empty(tmp_path):
    path = tmp_path / "w.pdparams"
    # NEWOBJ makes an instance without calling anything.
    path.write_bytes(b"\x80\x04}\x8c\x01acnumpy\nndarray\n)\x81s.")
    assert weights.read_weights(path)["a"].shape == (0,)


def test_a_codec_other_than_that_of_pickled_bytes_is_refused(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    assert "the codec 'rot13'" in refusal(path)


@pytest.mark.parametrize(
    ("put", "index"),
    [(b"r\xff\xff\xff\xff", 2**32 - 1), (b"p2147483647\n", 2**31 - 1), (b"p-1\n", -1), (b"q\xff", 255)],
    ids=["four bytes", "a decimal", "below 0", "one byte"],
)
def test_a_memo_that_would_take_memory_without_bound_is_refused(tmp_path, put, index):
    content = pickle.dumps({"a": np.zeros(3, np.float32)}, 2)
    assert content.count(b"q\x01") == 1
    path = tmp_path / "w.pdparams"
    path.write_bytes(content.replace(b"q\x01", put))
    assert refusal(path).startswith(f"refers to the index {index} of its memo after ")


def test_a_pickle_of_endless_opcodes_is_given_up(tmp_path, monkeypatch):
    content = pickle.dumps({"a": np.zeros(3, np.float32)})
    path = tmp_path / "w.pdparams"
    path.write_bytes(content[:-1] + b"N0" * 30 + b".")
    assert list(weights.read_weights(path)) == ["a"]
    monkeypatch.setattr(restricted_pickle, "MOST_OPCODES", 60)
    assert "damaged or cut short (more than 60 opcodes)" in refusal(path)


# --- damaged and foreign files ---


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    content = pickle.dumps({"a": np.zeros(8, np.float32), "b": np.ones((2, 2), np.float32)}, 4)
    path = tmp_path / "w.pdparams"
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        assert "damaged or cut short" in refusal(path), length


def test_damaged_bytes_are_read_to_arrays_or_refused_and_nothing_else(tmp_path):
    content = pickle.dumps({"a": np.zeros(8, np.float32), "b": np.ones((2, 2), np.float32)}, 2)
    path = tmp_path / "w.pdparams"
    random = np.random.default_rng(1)
    for _ in range(500):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            assert all(array.dtype == np.float32 for array in weights.read_weights(path).values())
        except ModelError as error:
            assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html>\n<title>404</title>", "a text file"),
        ("十二个网络\n".encode(), "a text file"),
        (b"\x08\x0a\x12\x06pytorch\x1a\x052.4.0", "an ONNX model"),
        (b"PK\x03\x04\x00\x00", "a zip archive, as PyTorch writes it"),
        (b"\x0a\x5b\x0a\x04feed\x00\x01", "begins with the bytes 0a 5b 0a 04 66 65 65 64, so no pickle"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_it_is(tmp_path, content, found):
    path = tmp_path / "w.pdparams"
    path.write_bytes(content)
    assert refusal(path) == f"{found}; {weights.ACCEPTED}"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "holds a pickled list"),
        ({}, "holds no parameters"),
        ({3: np.zeros(1, np.float32)}, "has a int where the name of a parameter is expected"),
        ({"epoch": 3}, "'epoch' is a int, not an array"),
        ({"model": {"a": np.zeros(1, np.float32)}}, "'model' is a dict, not an array"),
        ({"a": np.zeros(1)}, "'a' is of type float64; accepted are float32 and float16"),
        ({"a": np.zeros(1, np.int32)}, "'a' is of type int32"),
        ({"a": np.array([1, np.nan], np.float32)}, "'a' holds values that are not finite"),
    ],
)
def test_a_pickle_of_something_else_is_refused_with_what_it_holds(tmp_path, content, found):
    assert refusal(pickled(tmp_path / "w.pdparams", content)).startswith(found)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    assert refusal(tmp_path / "none.pdparams") == "cannot be read: No such file or directory"
    assert refusal(tmp_path) == "cannot be read: Is a directory"
