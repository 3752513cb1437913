"""A folder of a person's images -> some to calibrate with and others to compare with, as inputs of a model."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.errors import ImageError, ModelError
from service.ops.decode import Limits, decode
from service.ops.model import Model
from service.ops.preprocess import preprocess

Inputs = npt.NDArray[np.float32]  # (n, 3, height, width)

_LIMITS = Limits()


@dataclass
class Sample:
    """Files that hold an image, no two the same bytes, none in both parts."""

    calibration: list[Path] = field(default_factory=list)
    comparison: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)  # and why
    repeated: int = 0  # files left out because another has the same bytes
    sha256: str = ""  # of the SHA-256 of the calibration images, sorted: the same for the same images


def sample_images(folder: Path, model: Model, *, limit: int, holdout: float) -> Sample:
    """At most ``limit`` of the images in a folder and the folders within it, the same ones each time.

    ``holdout``: the share that is not calibrated with, above 0 and below 1. Every image is decoded once to know that it
    can be. Raises ModelError where there are fewer than two.
    """
    paths = _files(folder)
    # By name the first ones would all be of one class.
    random.Random(0).shuffle(paths)
    found, digests = Sample(), dict[str, Path]()
    for path in paths:
        if len(digests) == limit:
            break
        _take(path, model, found, digests)
    if len(digests) < 2:
        raise ModelError(f"{folder}: {_found(found, len(paths), len(digests))}; accepted are two images or more")
    compared = min(len(digests) - 1, max(1, round(holdout * len(digests))))
    chosen = list(digests.items())
    found.comparison = [path for _, path in chosen[:compared]]
    found.calibration = [path for _, path in chosen[compared:]]
    found.sha256 = hashlib.sha256("".join(sorted(digest for digest, _ in chosen[compared:])).encode()).hexdigest()
    return found


def batches(paths: Sequence[Path], model: Model, size: int) -> Iterator[Inputs]:
    """``size`` images at a time, (n, 3, height, width), prepared by the very functions that the service runs.

    Raises ModelError for one that has changed and cannot be read any more.
    """
    for first in range(0, len(paths), size):
        part = paths[first : first + size]
        batch = np.empty((len(part), 3, model.height, model.width), np.float32)
        for path, out in zip(part, batch, strict=True):
            try:
                preprocess(decode(_read(path), _LIMITS), model, out)
            except (ImageError, OSError) as error:
                raise ModelError(f"{path}: has changed while it was used: {_reason(error)}") from None
        yield batch


def _files(folder: Path) -> list[Path]:
    """In order of their names; hidden ones are file managers' and editors'. Links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise ModelError(f"{error.filename}: {error.strerror or error}; accepted is a folder of images")

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [Path(place, name) for name in sorted(files) if name[0] != "."]
    return found


def _take(path: Path, model: Model, found: Sample, digests: dict[str, Path]) -> None:
    try:
        data = _read(path)
        digest = hashlib.sha256(data).hexdigest()
        if digest in digests:
            found.repeated += 1
            return
        preprocess(decode(data, _LIMITS), model, np.empty((3, model.height, model.width), np.float32))
    except (ImageError, OSError) as error:
        found.unreadable.append((path, _reason(error)))
    else:
        digests[digest] = path


def _read(path: Path) -> bytes:
    """One byte too many is enough to be told so. A pipe or a device may have no end, and is no image."""
    if not path.is_file():
        raise ImageError("not a file")
    with path.open("rb") as stream:
        return stream.read(_LIMITS.max_bytes + 1)


def _reason(error: ImageError | OSError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _found(sample: Sample, files: int, images: int) -> str:
    if not files:
        return "no files in it"
    first = f", {sample.unreadable[0][0]}: {sample.unreadable[0][1]}" if sample.unreadable else ""
    repeated = f", {sample.repeated} repeated" if sample.repeated else ""
    return f"{images} of {files} files can be used{repeated}{first}"
