"""Label files, and the list of ImageNet's labels that is kept here."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import pytest

from service.errors import ModelError
from serving_models.class_labels import IMAGENET_LABELS, labels_for, read_labels


def test_the_imagenet_labels_are_those_that_official_weights_were_trained_with() -> None:
    paddleclas = Path(str(distribution("paddleclas").locate_file("paddleclas")))

    assert read_labels(IMAGENET_LABELS) == read_labels(paddleclas / "ppcls/utils/imagenet1k_label_list.txt")
    assert len(read_labels(IMAGENET_LABELS)) == 1000


def test_a_label_that_is_a_number_is_not_taken_for_an_index(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("0\n1\n2\n")

    assert read_labels(tmp_path / "labels.txt") == ("0", "1", "2")


def test_only_a_file_that_is_numbered_throughout_loses_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("0 ant\n1 bee\n3 gnu\n")

    assert read_labels(tmp_path / "labels.txt") == ("0 ant", "1 bee", "3 gnu")


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf0 ant\n1 bee\n", b"0 ant\r\n1 bee\r\n", b" 0 ant \n1 bee\n\n\n"])
def test_how_an_editor_writes_a_file_makes_no_difference(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.txt").write_bytes(content)

    assert read_labels(tmp_path / "labels.txt") == ("ant", "bee")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a\n\nb\n", "line 2 is empty"), (b"", "line 1 is empty"), (b"\xff\xfe", "not a label file; accepted is UTF-8")],
)
def test_a_file_that_is_no_list_of_labels_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content)

    with pytest.raises(ModelError, match=message):
        read_labels(tmp_path / "labels.txt")


def test_classes_without_labels_are_called_by_their_numbers() -> None:
    assert labels_for(3, None, Path("model")) == ("0", "1", "2")


def test_labels_must_be_as_many_as_classes() -> None:
    with pytest.raises(ModelError, match="model: 3 classes, but 2 labels"):
        labels_for(3, ("a", "b"), Path("model"))
