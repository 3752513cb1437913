"""A label file -> the labels of the classes, in class order."""

from __future__ import annotations

from pathlib import Path

from service.errors import ModelError, shown
from serving_models.variants import IMAGENET_CLASSES

IMAGENET_LABELS = Path(__file__).parent / "labels" / "imagenet1k.txt"


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line; PaddleClas's ``0 tench`` form, numbered from 0, loses its numbers.

    Raises ModelError for a file that is not there, is not UTF-8 text, or has an empty line.
    """
    try:
        # Windows' editors begin a file with a byte order mark; "utf-8-sig" takes it off where there is one.
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except OSError as error:
        raise ModelError(f"{path}: label file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not a label file; accepted is UTF-8 text with one label a line") from None
    labels = [line.strip() for line in lines]
    if "" in labels:
        raise ModelError(f"{path}: line {labels.index('') + 1} is empty; accepted is one label a line")
    if all(line.startswith(f"{index} ") for index, line in enumerate(labels)):
        labels = [line.partition(" ")[2].strip() for line in labels]
    return tuple(labels)


def labels_for(classes: int, given: tuple[str, ...] | None, source: Path) -> tuple[str, ...]:
    """The labels given; else ImageNet's where there are 1000 classes, else the numbers of the classes.

    Raises ModelError where there are more or fewer labels than classes.
    """
    if given is None:
        return read_labels(IMAGENET_LABELS) if classes == IMAGENET_CLASSES else tuple(map(str, range(classes)))
    if len(given) != classes:
        raise ModelError(
            f"{source}: {classes} classes, but {len(given)} labels ({shown(given[0])} … {shown(given[-1])})"
        )
    return given
