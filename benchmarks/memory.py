"""Whether the service's memory stays flat: many requests, and the PSS of all its processes every few seconds.

    python -m benchmarks.memory [--requests 100000] [--every 5] [--concurrency 32]

RegNetX_200MF with random weights at 224x224 and a 500x375 JPEG, base64 over HTTP, by h2load. The slope is that of a
line through the samples after the first tenth of the requests. `make bench` reads what it
appends to benchmarks/memory.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import settings
from benchmarks.h2load import COUNTS, missing
from benchmarks.launch import launched
from benchmarks.load import http_body
from benchmarks.measure import answered
from benchmarks.processes import memory
from benchmarks.report import MEMORY
from benchmarks.servers import SERVERS, Place
from benchmarks.subjects import export_random_model, write_photograph

WARM_UP = 0.1  # of the requests
FEWEST = 3  # samples that make a line
Sample = tuple[float, float]  # requests so far, bytes


def main() -> None:
    """Measure, print, keep."""
    arguments = _arguments()
    if why := missing():
        raise SystemExit(f"regnetx: {why}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = write_photograph(folder / "photograph.jpg")
        model = export_random_model(folder, "RegNetX_200MF", image_size=224)
        samples = _samples(Place(folder, model), image, arguments)
    found: dict[str, Any] = {"date": str(date.today()), "requests": arguments.requests, "samples": samples}
    found["kib_per_1000"] = slope(samples, after=WARM_UP * arguments.requests) * 1000 / 1024
    with MEMORY.open("a") as stream:
        stream.write(json.dumps(found) + "\n")
    print(f"{arguments.requests} requests: {found['kib_per_1000']:+.1f} KiB for each 1000 after the first tenth")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--every", type=float, default=5, help="seconds between two looks; default: 5")
    parser.add_argument("--concurrency", type=int, default=32, help="default: 32")
    return parser.parse_args()


def slope(samples: Sequence[Sample], *, after: float) -> float:
    """Bytes a request, of the line through the samples from ``after`` requests on. Raises ValueError for too few."""
    late = [sample for sample in samples if sample[0] >= after]
    if len(late) < FEWEST:
        raise ValueError(f"{len(late)} samples after the warm-up, at least {FEWEST} needed: ask for more requests")
    return statistics.linear_regression(*zip(*late, strict=True)).slope


def _samples(place: Place, image: Path, arguments: argparse.Namespace) -> list[Sample]:
    body, content_type = http_body("http", image.read_bytes())
    (place.folder / "body").write_bytes(body)
    what = [f"--data={place.folder / 'body'}", f"--header=content-type: {content_type}"]
    load = [f"--clients={arguments.concurrency}", f"--requests={arguments.requests}"]
    with launched(SERVERS["auto"], place, image.read_bytes()) as running:
        pids = running.pids()
        url = f"http://{running.addresses['http']}/{settings.NAME}/prediction"
        with (place.folder / "h2load.txt").open("w") as told:
            process = subprocess.Popen(["h2load", "--h1", *load, *what, url], stdout=told)
        samples = []
        while process.poll() is None:
            samples.append((answered(running).get("answered", 0.0), float(sum(map(memory, pids)))))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(arguments.every)
    counts = COUNTS.search((place.folder / "h2load.txt").read_text())
    if not counts or int(counts[1]) != arguments.requests:
        raise SystemExit(f"not all of {arguments.requests} requests were answered well: {counts and counts[0]}")
    return samples


if __name__ == "__main__":
    main()
