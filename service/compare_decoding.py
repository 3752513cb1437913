"""JPEG files -> what ``native.jpeg_decode: scaled`` changes of a model's answers, and the CPU time it saves."""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.config import Config
from service.engines import open_engine
from service.errors import ConfigError, ServiceError
from service.ops.decode import Limits, decode
from service.ops.header import read_header
from service.ops.model import load_verified
from service.ops.preprocess import preprocess
from service.ops.scaled import MARGIN, REDUCTIONS, reduction

SUFFIXES = frozenset({".jpg", ".jpeg"})  # of the files that are taken from a folder; others are never reduced


@dataclass(frozen=True)
class Change:
    """Of one image's scores, beside those after exact decoding."""

    same_answer: bool
    score: float  # the greatest absolute difference of any class's score


@dataclass(frozen=True)
class Compared:
    """One image. ``pixel`` is a yardstick: exact decoding again, without the first row and column of pixels."""

    reduction: int
    answers: tuple[str, str]  # exact, scaled: label and score
    scaled: Change
    pixel: Change
    seconds: tuple[float, float]  # of CPU, for decoding: exact, scaled


class Comparer:
    """One model on one engine, one image at a time."""

    def __init__(self, config: Config) -> None:
        """Load the model. Raises ConfigError or ModelError."""
        self._model = load_verified(Path(config.regnet.local_service_conf.model_config_))
        self._engine = open_engine(config, self._model)
        self._limits = Limits(max_bytes=config.native.max_image_bytes, max_pixels=config.native.max_image_pixels)
        self._input = np.empty((1, 3, self._model.height, self._model.width), np.float32)

    @property
    def least_side(self) -> int:
        """Pixels of the shorter side from which a JPEG is reduced."""
        return min(REDUCTIONS) * MARGIN * self._model.resize_short

    def compare(self, path: Path) -> Compared | None:
        """None for an image that is not reduced. Raises OSError, ImageError or EngineError."""
        with path.open("rb") as file:
            data = file.read(self._limits.max_bytes + 1)  # one too many is enough to be told so
        image, exact_seconds = self._decode(data, None)
        denominator = reduction(read_header(data), self._model.resize_short)
        if denominator == 1:
            return None
        reduced, scaled_seconds = self._decode(data, self._model.resize_short)
        exact, scaled, pixel = (self._scores(pixels) for pixels in (image, reduced, image[1:, 1:]))
        return Compared(
            denominator, (self._answer(exact), self._answer(scaled)),
            _change(exact, scaled), _change(exact, pixel), (exact_seconds, scaled_seconds),
        )  # fmt: skip

    def _decode(self, data: bytes, resize_short: int | None) -> tuple[np.ndarray, float]:
        began = time.thread_time()
        image = decode(data, self._limits, resize_short)
        return image, time.thread_time() - began

    def _scores(self, image: np.ndarray) -> np.ndarray:
        preprocess(image, self._model, self._input[0])
        return np.array(self._engine.run(self._input)[0])

    def _answer(self, scores: np.ndarray) -> str:
        best = int(scores.argmax())
        return f"{self._model.labels[best]} {scores[best]:.4f}"


def compare_decoding(config: Config, paths: Sequence[Path], *, least_agreement: float) -> int:
    """Print how exact and scaled decoding compare on the files, and on the JPEGs in the folders.

    0 where at least ``least_agreement`` percent of the reduced images keep their answer; 1 where fewer do, an image
    could not be read or none was large enough. Raises ConfigError where there is no file, ConfigError or ModelError
    where the model cannot be run.
    """
    files = list(_files(paths))
    if not files:
        raise ConfigError(f"{', '.join(map(str, paths))}: no JPEG in it; accepted: {', '.join(sorted(SUFFIXES))}")
    comparer = Comparer(config)
    compared: list[Compared] = []
    failed = 0
    for path in files:
        try:
            found = comparer.compare(path)
        except (ServiceError, OSError) as error:
            failed += 1
            print(f"{path}: {error.strerror if isinstance(error, OSError) else error}", file=sys.stderr)
            continue
        if found is not None:
            compared.append(found)
            if not found.scaled.same_answer:
                print(f"{path}  {found.answers[0]} -> {found.answers[1]}  at 1/{found.reduction}")
    print(f"{len(files)} images, {failed} could not be read, {_reductions(compared, comparer.least_side)}")
    if compared:
        print("\n".join(_table(compared)))
    return 0 if compared and not failed and _agreement(one.scaled for one in compared) >= least_agreement else 1


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        else:
            yield path


def _change(exact: np.ndarray, other: np.ndarray) -> Change:
    return Change(bool(exact.argmax() == other.argmax()), float(np.abs(exact - other).max()))


def _agreement(changes: Iterable[Change]) -> float:
    return 100 * statistics.fmean(change.same_answer for change in changes)


def _reductions(compared: Sequence[Compared], least_side: int) -> str:
    counts = Counter(one.reduction for one in compared)
    each = ", ".join(f"{count} at 1/{denominator}" for denominator, count in sorted(counts.items()))
    return f"{len(compared)} reduced ({each})" if compared else f"none reduced: no JPEG with {least_side} pixels a side"


def _table(compared: Sequence[Compared]) -> Iterator[str]:
    yield "of the reduced images, beside exact decoding    same answer   score difference: mean     95 %  greatest"
    rows = {
        "scaled": [one.scaled for one in compared],
        "exact, without the first row and column": [one.pixel for one in compared],
    }
    for name, changes in rows.items():
        scores = sorted(change.score for change in changes)
        figures = (statistics.fmean(scores), scores[-(-95 * len(scores) // 100) - 1], scores[-1])
        yield f"{name:<46}{_agreement(changes):10.1f} %               " + "".join(f"{x:9.4f}" for x in figures)
    exact, scaled = (1e3 * statistics.fmean(one.seconds[i] for one in compared) for i in range(2))
    yield f"decoding, CPU ms an image: exact {exact:.1f}, scaled {scaled:.1f}"
