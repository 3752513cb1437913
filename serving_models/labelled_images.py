"""A folder with a folder a class, or a list of files -> images and the classes they show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import ModelError
from serving_models.class_folders import classes_of

USUAL_LIST = "val_list.txt"  # of PaddleClas


@dataclass(frozen=True)
class LabelledImage:
    """A file that should hold an image, and the class that it should show."""

    path: Path
    name: str  # as a person knows it: relative to the folder
    class_id: int


def labelled_images(source: Path, listing: Path | None, labels: Sequence[str]) -> list[LabelledImage]:
    """The images of a folder, or of a list whose paths are relative to the folder (or else to the list's own).

    Raises ModelError where there are none, or their classes are not all sure.
    """
    if listing is not None:
        if not source.is_dir():
            raise ModelError(f"{source}: no such folder; accepted with --list is the folder that its paths begin in")
        return _of_list(source, listing, len(labels))
    if source.is_file():
        return _of_list(source.parent, source, len(labels))
    return _of_folder(source, labels)


def _of_folder(root: Path, labels: Sequence[str]) -> list[LabelledImage]:
    folders = [entry.name for entry in _visible(root) if entry.is_dir()]
    if not folders:
        raise ModelError(
            f"{root}: no folders in it; accepted is a folder with a folder of images for each class{_or_list(root)}"
        )
    try:
        classes = classes_of(folders, labels)
    except ValueError as error:
        raise ModelError(f"{root}: {error}{_or_list(root)}") from None
    images = [
        LabelledImage(root / name, name, class_id)
        for folder, class_id in classes.items()
        for name in _files(root, folder)
    ]
    if not images:
        raise ModelError(f"{root}: no files in its {len(folders)} class folders")
    return images


def _or_list(root: Path) -> str:
    usual = root / USUAL_LIST
    return f", or with --list a file of lines PATH CLASS{f', as {usual}' if usual.is_file() else ''}"


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """In order of their names. Hidden files are those of file managers and editors."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from None


def _files(root: Path, folder: str) -> list[str]:
    """All files in a class's folder and in those within it, relative to the root; links within are not followed."""

    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error)

    found = []
    for place, folders, files in os.walk(root / folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [os.path.relpath(os.path.join(place, name), root) for name in sorted(files) if name[0] != "."]
    return found


def _of_list(root: Path, listing: Path, classes: int) -> list[LabelledImage]:
    try:
        # Names of files are bytes; Windows' editors begin a file with a byte order mark.
        text = listing.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise _unreadable(listing, error) from None
    lines = enumerate(text.split("\n"), start=1)
    images = [_of_line(root, f"{listing}: line {number}", line, classes) for number, line in lines if line.strip()]
    if not images:
        raise ModelError(f"{listing}: empty; accepted are lines of a path and the number of its class")
    return images


def _of_line(root: Path, where: str, line: str, classes: int) -> LabelledImage:
    name, _, class_id = line.strip().replace("\t", " ").rpartition(" ")
    if not name or not class_id.isdecimal():
        shown = line.strip() if len(line) <= 80 else f"{line.strip()[:80]}…"
        raise ModelError(f"{where}: {shown!r}; accepted are a path and the number of its class, from 0")
    if len(class_id) > 9 or int(class_id) >= classes:
        raise ModelError(
            f"{where}: class {class_id}, but the model has {classes} classes; accepted are 0 to {classes - 1}"
        )
    return LabelledImage(root / name.rstrip(), name.rstrip(), int(class_id))


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(f"{path}: {error.strerror or error}")
