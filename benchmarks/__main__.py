"""The service beside the bare loop, the stock runtime and its peers, in one table: benchmarks/RESULTS.md.

    make bench    or    python -m benchmarks [--full] [--continue] [--subjects ...] [--models ...] [--images ...]

Each subject is started, measured and ended by itself, in a network of its own where that can be; the subjects take
turns in rounds. What was measured is kept line by line in benchmarks/results.jsonl, and the table written from it.
Any of --subjects, --models, --images, --doors, --concurrency, --open-loop chooses a matrix of your own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import matrix, records
from benchmarks.environments import NotInstalled, install
from benchmarks.h2load import missing
from benchmarks.matrix import Part
from benchmarks.measure import Task
from benchmarks.network import own_network
from benchmarks.report import write_report
from benchmarks.servers import SERVERS
from benchmarks.subjects import ROOT, describe_for_peers, export_random_model, labels_of, write_photograph

FOLDER = Path(__file__).parent
RECORDS = FOLDER / "results.jsonl"
REPORT = FOLDER / "RESULTS.md"
SECONDS_A_CELL = 90  # beyond what is asked for, until a subject is given up
ENVIRONMENTS = {
    "fastapi": "fastapi",
    "mosec": "mosec",
    "litserve": "litserve",
    "bentoml": "bentoml",
    "ray": "ray_serve",
}


def main() -> int:
    """Measure what is not there yet and write it down; 2 where a tool is missing."""
    arguments = _arguments()
    if why := missing():
        print(f"regnetx: {why}", file=sys.stderr)
        return 2
    parts = _parts(arguments)
    if not arguments.go_on:
        RECORDS.unlink(missing_ok=True)
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            _measure(part, Path(folder), arguments, command)
    write_report(records.read(RECORDS), arguments.out, command=command)
    print(arguments.out.read_text())
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every subject in every situation at every door")
    parser.add_argument("--continue", action="store_true", dest="go_on", help="keep what an earlier run has measured")
    for name, of, values in (
        ("subjects", str, matrix.SUBJECTS),
        ("models", str, matrix.MODELS),
        ("images", str, tuple(matrix.IMAGES)),
        ("doors", str, matrix.DOORS),
    ):
        parser.add_argument(f"--{name}", type=_list(of, values), help=f"of {','.join(values)}")
    parser.add_argument("--concurrency", type=_list(int), help="default: 1,8,32,128")
    parser.add_argument("--open-loop", type=_list(float), help="shares of capacity; default: 0.5,0.7,0.9; 0: none")
    parser.add_argument("--seconds", type=float, default=3, help="of one cell; default: 3")
    parser.add_argument("--rounds", type=int, default=2, help="default: 2; situations at the corners have one")
    parser.add_argument("--out", type=Path, default=REPORT, help="default: benchmarks/RESULTS.md")
    return parser.parse_args()


def _list(of: type, accepted: Sequence[object] = ()) -> object:
    def parse(text: str) -> list[object]:
        values = [of(part) for part in text.split(",")]
        if unknown := [value for value in values if accepted and value not in accepted]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is not known; accepted: {', '.join(map(str, accepted))}")
        return values

    return parse


def _parts(arguments: argparse.Namespace) -> list[Part]:
    chosen = (arguments.subjects, arguments.models, arguments.images, arguments.doors, arguments.concurrency)
    if arguments.full or any(chosen) or arguments.open_loop:
        shares = matrix.SHARES if arguments.open_loop is None else [share for share in arguments.open_loop if share]
        return [
            Part(
                arguments.models or matrix.MODELS,
                arguments.images or list(matrix.IMAGES),
                arguments.subjects or matrix.SUBJECTS,
                arguments.doors or matrix.DOORS,
                arguments.concurrency or matrix.CONCURRENCY,
                shares,
                arguments.rounds,
            )
        ]
    return matrix.usual(arguments.rounds)


def _measure(part: Part, folder: Path, arguments: argparse.Namespace, command: str) -> None:
    done = records.finished(records.read(RECORDS))
    for block in part.blocks():
        if block in done:
            continue
        round_, variant, image_name, subject = block
        print(f"round {round_ + 1}: {variant}, {image_name}: {subject}", file=sys.stderr, flush=True)
        what = {"round": round_, "model": variant, "image": image_name, "subject": subject}
        cells = part.cells(subject)
        if why := _refusal(subject):
            found = [{"door": door, "concurrency": concurrency, "error": why} for door, concurrency in cells]
        else:
            model, image, labels = _prepared(folder, variant, image_name)
            shares = [] if subject == matrix.BARE else list(part.shares)
            task = Task(
                subject, str(model), str(image), labels, cells, shares, arguments.seconds, max(5.0, arguments.seconds)
            )
            found = _run(task)
        for record in found:
            records.append(RECORDS, what | record)
        records.append(RECORDS, what | {"finished": True})
        write_report(records.read(RECORDS), arguments.out, command=command)


def _refusal(subject: str) -> str:
    """Why a subject cannot be measured here; empty where it can."""
    if subject in ENVIRONMENTS:
        try:
            install(ENVIRONMENTS[subject])
        except NotInstalled as error:
            return f"not installed: {error}"
    if subject in SERVERS and not SERVERS[subject].on_loopback and not own_network():
        return "it listens on every interface, and this user may give it no network of its own (unshare --net)"
    return ""


def _prepared(folder: Path, variant: str, image_name: str) -> tuple[Path, Path, list[str]]:
    image = folder / f"{image_name}.jpg"
    if not image.exists():
        width, height = matrix.IMAGES[image_name]
        write_photograph(image, width=width, height=height)
    home = folder / variant
    if not home.exists():
        home.mkdir()
        describe_for_peers(export_random_model(home, variant, image_size=224))
    model = home / "random/serving_server"
    labels = home / f"{image_name}.json"
    if not labels.exists():
        labels.write_text(json.dumps(labels_of(image, model)))
    return model, image, json.loads(labels.read_text())


def _run(task: Task) -> list[records.Record]:
    cells = len(task.cells) + len(task.shares)
    limit = 240 + cells * (SECONDS_A_CELL + task.open_seconds)
    command = [*own_network(), sys.executable, "-m", "benchmarks.measure"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, input=json.dumps(asdict(task)), stdout=subprocess.PIPE, text=True, timeout=limit
        )
        printed, error = done.stdout, f"measuring ended with {done.returncode}"
    except subprocess.TimeoutExpired as late:
        printed, error = (late.stdout or b"").decode(), f"no end within {limit:.0f} s"
    found: list[records.Record] = [json.loads(line) for line in printed.splitlines()]
    seen = {(record["door"], record.get("concurrency")) for record in found}
    missed = [cell for cell in task.cells if tuple(cell) not in seen]
    return found + [{"door": door, "concurrency": concurrency, "error": error} for door, concurrency in missed]


if __name__ == "__main__":
    sys.exit(main())
