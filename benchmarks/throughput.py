"""The service beside the bare loop: images a second and latency at concurrency 1, 8 and 32, over HTTP and gRPC.

    python -m benchmarks.throughput [--seconds 5] [--rounds 3] [--config config.yml] [--out FILE]

RegNetX_200MF with random weights at 224x224 and a 500x375 JPEG. Each round measures the bare loop and every load one
after the other, so that a ratio compares neighbours in time; the table shows the median of the rounds.
The quick check of one configuration; `make bench` compares with others and writes benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.launch import told_in
from benchmarks.load import Result
from benchmarks.results import write_results
from benchmarks.subjects import export_random_model, write_photograph

ROOT = Path(__file__).parents[1]
LOADS = [(door, concurrency) for door in ("http", "grpc") for concurrency in (1, 8, 32)]
BARE_BATCHES = (1, 8)


@dataclass(frozen=True)
class Row:
    """One line of the table: medians over the rounds."""

    name: str
    result: Result
    ratio: float  # of images a second, to the fastest bare loop of the same round


def main() -> None:
    """Measure, print the table and write it down."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        image = write_photograph(Path(folder) / "photograph.jpg")
        model = export_random_model(Path(folder), "RegNetX_200MF", image_size=224)
        config = configuration(Path(folder), arguments.config, model)
        rounds = _measure(config, image, seconds=arguments.seconds, rounds=arguments.rounds)
    write_results(_rows(rounds), arguments.out, command=sys.argv[1:], overhead=_overhead(rounds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement; default: 5")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--config", type=Path, default=ROOT / "config.yml", help="default: config.yml")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    return parser.parse_args()


def configuration(folder: Path, source: Path, model: Path, *, admin: bool = False) -> Path:
    """The configuration as users have it, on free loopback ports and with this model; ``admin``: with metrics."""
    values = yaml.safe_load(source.read_text())
    values["http_port"] = values["rpc_port"] = 0
    # What is counted costs the same without its door.
    values["dag"] = {**values.get("dag", {}), "enable_prometheus": admin, "prometheus_port": 0}
    values["native"] = {**values.get("native", {}), "host": "127.0.0.1"}
    next(iter(values["op"].values()))["local_service_conf"]["model_config"] = str(model)
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump(values))
    return file


def _measure(config: Path, image: Path, *, seconds: float, rounds: int) -> list[dict[str, Result]]:
    with serving(config) as (_, ready):
        return [_round(config, image, ready, seconds) for _ in range(rounds)]


def _round(config: Path, image: Path, ready: Mapping[str, str], seconds: float) -> dict[str, Result]:
    results = {}
    for batch in BARE_BATCHES:
        results[f"bare loop, batch {batch}"] = run("bare_loop", str(config), str(batch), str(image), str(seconds))
    for door, concurrency in LOADS:
        name = f"{'HTTP' if door == 'http' else 'gRPC'}, concurrency {concurrency}"
        results[name] = run("load", door, ready[door], str(image), str(concurrency), str(seconds))
        print(f"{name}: {results[name].images_per_second:.0f} images/s", file=sys.stderr)
    return results


@contextmanager
def serving(config: Path) -> Iterator[tuple[subprocess.Popen[str], Mapping[str, str]]]:
    """A service that is ready, and where it answers: host:port by http, grpc and, if it has that door, admin."""
    command = [sys.executable, "-m", "service", "serve", "--config", str(config)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            addresses: dict[str, str] = {}
            while "http" not in addresses:
                line = service.stdout.readline()
                if not line:
                    raise SystemExit("the service did not start")
                addresses |= told_in(line)
            yield service, addresses
        finally:
            service.terminate()


def run(module: str, *arguments: str) -> Result:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Result(**json.loads(output.splitlines()[-1]))


def _rows(rounds: list[dict[str, Result]]) -> list[Row]:
    best = [max(one[f"bare loop, batch {batch}"].images_per_second for batch in BARE_BATCHES) for one in rounds]
    return [
        Row(
            name,
            _median([one[name] for one in rounds]),
            statistics.median(one[name].images_per_second / bare for one, bare in zip(rounds, best, strict=True)),
        )
        for name in rounds[0]
    ]


def _median(results: list[Result]) -> Result:
    return Result(
        statistics.median(result.images_per_second for result in results),
        statistics.median(result.p50 for result in results),
        statistics.median(result.p99 for result in results),
        round(statistics.median(result.images for result in results)),
    )


def _overhead(rounds: list[dict[str, Result]]) -> dict[str, float]:
    """Seconds that a lone request takes longer than a turn of the bare loop, at the median."""
    return {
        door: statistics.median(one[f"{door}, concurrency 1"].p50 - one["bare loop, batch 1"].p50 for one in rounds)
        for door in ("HTTP", "gRPC")
    }


if __name__ == "__main__":
    main()
