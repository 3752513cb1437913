"""Where the CPU time of one image goes between its bytes and the model's input, stage by stage, in one thread.

    python -m benchmarks.decoding [FILE...] [--seconds 1] [--resize-short 256] [--crop 224]

Without files: scikit-learn's photograph of a temple at 500x375 and 4000x3000, as JPEG, PNG and WebP. Milliseconds of
CPU, the median of as many rounds as fit into --seconds (at least 5); prints a table and writes nothing. `exact` is all
of decode(), the three before it included; `scaled` is the same with native.jpeg_decode: scaled, and `1/n` the reduction
it took. What that changes of the answers is measured by `python -m service compare-decoding`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.results import machine, versions
from benchmarks.subjects import write_photograph
from service.ops.completeness import check_complete
from service.ops.decode import Limits, decode
from service.ops.header import read_header
from service.ops.preprocess import _normalisation_tables, center_crop, resize_short
from service.ops.scaled import reduction

SIZES = {"500x375": (500, 375), "4000x3000": (4000, 3000)}
FORMATS = (".jpg", ".png", ".webp")
STAGES = ("bytes()", "header", "complete", "exact", "scaled", "resize", "crop", "normalise")
LEAST_ROUNDS = 5
IMAGENET = (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Feeding:
    """What an image becomes."""

    resize_short: int
    crop: int


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    feeding = Feeding(arguments.resize_short, arguments.crop)
    with tempfile.TemporaryDirectory() as folder:
        files = arguments.files or list(_photographs(Path(folder)))
        rows = [_row(file, feeding, arguments.seconds) for file in files]
    print(f"`{' '.join(['python -m benchmarks.decoding', *sys.argv[1:]])}`, on {machine()}; {versions()}.")
    print("CPU ms of one image in one thread.\n")
    print("\n".join([f"| | KiB | {' | '.join(STAGES)} | 1/n |", f"|---|--:|{'--:|' * len(STAGES)}--:|", *rows]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="image files of yours")
    parser.add_argument("--seconds", type=float, default=1, help="of each stage of each file; default: 1")
    parser.add_argument("--resize-short", type=int, default=256, help="default: 256")
    parser.add_argument("--crop", type=int, default=224, help="default: 224")
    return parser.parse_args()


def _photographs(folder: Path) -> Iterator[Path]:
    for name, (width, height) in SIZES.items():
        for suffix in FORMATS:
            yield write_photograph(folder / f"{name}{suffix}", width=width, height=height)


def _row(file: Path, feeding: Feeding, seconds: float) -> str:
    data = file.read_bytes()
    figures = [f"{_cpu_seconds(stage, seconds) * 1e3:.2f}" for stage in _stages(data, feeding)]
    denominator = reduction(read_header(data), feeding.resize_short)
    return f"| {file.name} | {len(data) // 1024} | {' | '.join(figures)} | {denominator} |"


def _stages(data: bytes, feeding: Feeding) -> Iterator[Callable[[], object]]:
    """The work of each of STAGES, in that order, on what those before it left."""
    limits, header = Limits(max_bytes=sys.maxsize), read_header(data)
    image = decode(data, limits)
    resized = resize_short(image, feeding.resize_short)
    crop = center_crop(resized, feeding.crop, feeding.crop)
    out = np.empty((3, feeding.crop, feeding.crop), np.float32)

    def normalise() -> None:
        for plane, table, target in zip(cv2.split(crop), _normalisation_tables(*IMAGENET), out, strict=True):
            cv2.LUT(plane, table, dst=target)

    yield lambda: bytes(data)
    yield lambda: read_header(data)
    yield lambda: check_complete(data, header)
    yield lambda: decode(data, limits)
    yield lambda: decode(data, limits, feeding.resize_short)
    yield lambda: resize_short(image, feeding.resize_short)
    yield lambda: center_crop(resized, feeding.crop, feeding.crop)
    yield normalise


def _cpu_seconds(work: Callable[[], object], seconds: float) -> float:
    """The median of the rounds, the first left out: it fills caches and asks for memory."""
    work()
    rounds: list[float] = []
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up or len(rounds) < LEAST_ROUNDS:
        began = time.thread_time()
        work()
        rounds.append(time.thread_time() - began)
    return statistics.median(rounds)


if __name__ == "__main__":
    main()
