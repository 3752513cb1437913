"""What the form of an upload costs: CPU time of one image in the service's frontend, and bytes on the wire.

    python -m benchmarks.uploads [--seconds 4] [--rounds 5] [--config config.yml]

RegNetX_200MF with random weights at 224x224, JPEGs of 500x375 and 4000x3000, concurrency 8. In each round every form is
measured once, in turn, in one running service; the table shows the median of the rounds. CPU time is the kernel's count
for the frontend alone, so neither the engines nor the load generator are in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.cost import PHOTOGRAPHS
from benchmarks.load import grpc_request, http_body
from benchmarks.processes import Used, used
from benchmarks.subjects import export_random_model, write_photograph
from benchmarks.throughput import ROOT, configuration, run, serving

CONCURRENCY = 8
FORMS = {
    "http": "HTTP, JSON with base64",
    "http-raw": "HTTP, the file as the body",
    "http-form": "HTTP, multipart/form-data",
    "grpc": "gRPC, base64",
    "grpc-bytes": "gRPC, bytes in a tensor",
}


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = export_random_model(Path(folder), "RegNetX_200MF", image_size=224)
        with serving(configuration(Path(folder), arguments.config, model)) as (service, ready):
            print("| JPEG | form | request bytes | frontend ms | event loop ms | images/s |")
            print("|---|---|--:|--:|--:|--:|")
            for name, (width, height) in PHOTOGRAPHS.items():
                image = write_photograph(Path(folder) / f"{name}.jpg", width=width, height=height)
                for line in _lines(name, image, service.pid, ready, arguments):
                    print(line, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uploads", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement; default: 4")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--config", type=Path, default=ROOT / "config.yml", help="default: config.yml")
    return parser.parse_args()


def _lines(
    name: str, image: Path, supervisor: int, ready: Mapping[str, str], arguments: argparse.Namespace
) -> list[str]:
    rounds = [
        {door: _measure(door, image, supervisor, ready, arguments.seconds) for door in FORMS}
        for _ in range(arguments.rounds)
    ]
    lines = []
    for door, form in FORMS.items():
        frontend, loop, rate = (
            statistics.median(values) for values in zip(*(one[door] for one in rounds), strict=True)
        )
        size = _size(door, image.read_bytes())
        lines.append(f"| {name} | {form} | {size:,} | {frontend * 1e3:.2f} | {loop * 1e3:.2f} | {rate:.0f} |")
    return lines


def _measure(
    door: str, image: Path, supervisor: int, ready: Mapping[str, str], seconds: float
) -> tuple[float, float, float]:
    """CPU seconds of one image in the frontend, of them in its event loop, and images a second."""
    before = used(supervisor)
    result = run("load", door, ready[door.partition("-")[0]], str(image), str(CONCURRENCY), str(seconds))
    spent: Used = used(supervisor).since(before)
    return spent.frontend / result.images, spent.loop / result.images, result.images_per_second


def _size(door: str, file: bytes) -> int:
    return len(http_body(door, file)[0]) if door.startswith("http") else grpc_request(door, file).ByteSize()


if __name__ == "__main__":
    main()
