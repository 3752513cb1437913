"""What becomes of requests when far more come than can be answered: ours beside stock, in benchmarks/OVERLOAD.md.

    python -m benchmarks.overload [--subjects auto,stock-tuned] [--factors 1,2,5,10] [--seconds 4] [--bound 1.0]
                                  [--together]

Finds what each subject can do in a closed loop, then offers multiples of that as an open loop: RegNetX_200MF with
random weights, a 500x375 JPEG, base64 over HTTP. Needs h2load; each subject that listens on every interface gets a
network of its own. The server gets one half of the cores and the load the other, unless they are to be together.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from benchmarks.h2load import missing
from benchmarks.network import own_network
from benchmarks.overload_load import BROKEN, GOOD, LATE, LOST
from benchmarks.overload_run import MARGIN, PATIENCE, SETTLE, SLOTS, Record, Task, subject
from benchmarks.results import machine, versions
from benchmarks.servers import SERVERS
from benchmarks.subjects import ROOT, describe_for_peers, export_random_model, write_photograph

FILE = Path(__file__).parent / "OVERLOAD.md"
AIM = 0.9
START_SECONDS = 130  # of one server, at most
CALLERS_SEE = (
    "| load | offered/s | goodput/s | of capacity | answered p50 ms | p99 ms | refused p50 ms | p99 ms | what became of"
    " all |",
    "|--:|--:|--:|--:|--:|--:|--:|--:|---|",
)
IT_COSTS = (
    "| load | server, cores | good a CPU second | of capacity's | generator, cores | late, p99 ms | connections |",
    "|--:|--:|--:|--:|--:|--:|--:|",
)
HOW = """\
Capacity is what h2load gets in a closed loop. A load is a Poisson process at a multiple of it: requests leave when
they are due, whether earlier ones are answered or not, and times are from the moment they were due. A good answer
within {bound:g} s counts; goodput is how many of those came a second, after the first {settle:g} s in which queues
fill. What is unanswered {patience:g} s after the last request was due is lost. Every load meets a fresh server.
Each request says that its caller waits no longer than that (Grpc-Timeout, which stock's gateway knows as well).
{cores} Good answers are also given for each CPU second of the server's
processes. "Late" is by how much the generator sent after the due time.
"""


@dataclass(frozen=True)
class Cores:
    """Which cores the server has, and which the load."""

    server: list[int]
    load: list[int]

    @classmethod
    def of_this_machine(cls, *, together: bool) -> Cores:
        """Half for each, unless they are to be together or there is only one."""
        all_ = sorted(os.sched_getaffinity(0))
        half = len(all_) // 2
        return cls(all_, all_) if together or not half else cls(all_[:half], all_[half : 2 * half])

    @property
    def told(self) -> str:
        """In words."""
        if self.server == self.load:
            return "The load comes from the server's own cores and takes its share of them."
        return f"The server has {len(self.server)} of the cores, the load {len(self.load)} others."


def main() -> int:
    """Measure, print and write down; 2 where a tool is missing."""
    arguments = _arguments()
    if why := missing():
        print(f"regnetx: {why}", file=sys.stderr)
        return 2
    cores = Cores.of_this_machine(together=arguments.together)
    measured: dict[str, list[Record]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = write_photograph(folder / "photograph.jpg")
        model = export_random_model(folder, "RegNetX_200MF", image_size=224)
        describe_for_peers(model)
        for name in arguments.subjects:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            what = arguments.factors, arguments.seconds, arguments.bound
            measured[name] = _measured(Task(name, str(model), str(image), *what, cores.load), cores)
    text = page(measured, arguments.bound, cores, command=sys.argv[1:])
    arguments.out.write_text(text)
    print(text)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--subjects", type=_subjects, default=["auto", "stock-tuned"], help="default: auto,stock-tuned")
    parser.add_argument("--factors", type=_factors, default=[1.0, 2.0, 5.0, 10.0], help="default: 1,2,5,10")
    parser.add_argument("--seconds", type=float, default=4, help="of each load, once queues are full; default: 4")
    parser.add_argument("--bound", type=float, default=1.0, help="seconds an answer may take to count; default: 1.0")
    parser.add_argument("--together", action="store_true", help="server and load on the same cores, all of them")
    parser.add_argument("--out", type=Path, default=FILE, help="default: benchmarks/OVERLOAD.md")
    return parser.parse_args()


def _subjects(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SERVERS or "http" not in SERVERS[name].doors]:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is not known; accepted: {', '.join(SERVERS)}")
    return names


def _factors(text: str) -> list[float]:
    factors = [float(part) for part in text.split(",")]
    if min(factors) <= 0:
        raise argparse.ArgumentTypeError(f"{text}: factors are more than 0")
    return factors


def _measured(task: Task, cores: Cores) -> list[Record]:
    prefix = [] if SERVERS[task.subject].on_loopback else own_network()
    if not prefix and not SERVERS[task.subject].on_loopback:
        return [{"error": "it listens on every interface, and this user may give it no network of its own"}]
    limit = (len(task.factors) + 1) * (START_SECONDS + task.seconds + SETTLE + PATIENCE + MARGIN)
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "benchmarks.overload_run"],
        preexec_fn=lambda: os.sched_setaffinity(0, cores.server),
        cwd=ROOT, input=json.dumps(asdict(task)), stdout=subprocess.PIPE, text=True, timeout=limit,
    )  # fmt: skip
    records: list[Record] = [json.loads(line) for line in done.stdout.splitlines()]
    return records or [{"error": f"measuring ended with {done.returncode}"}]


def page(measured: dict[str, list[Record]], bound: float, cores: Cores, *, command: Sequence[str]) -> str:
    """The whole file."""
    what = " ".join(["python -m benchmarks.overload", *command])
    lines = [
        "# Overload",
        "",
        f"`{what}`, {date.today()}, on {machine()}; load average when it ended: {os.getloadavg()[0]:.1f}.",
        f"RegNetX_200MF, 224x224, random weights; 500x375 JPEG, base64 over HTTP; {versions()}.",
        "",
        HOW.format(bound=bound, cores=cores.told, settle=SETTLE, patience=PATIENCE),
    ]
    for name, records in measured.items():
        lines += _subject(name, records)
    return "\n".join(lines)


def _subject(name: str, records: Sequence[Record]) -> list[str]:
    server = subject(name)
    capacity, *loads = records
    lines = [f"## {server.title}", "", f"{capacity.get('told', server.told)}.", ""]
    if "error" in capacity:
        return [*lines, f"No figures: {_one_line(capacity['error'])}", ""]
    images = capacity["capacity"]
    lines.append(
        f"Capacity {images:.1f} images/s, with {capacity['callers']} callers (p99 {capacity['p99'] * 1e3:.0f} ms),"
        f" {capacity['cpu_an_image'] * 1e3:.2f} CPU ms an image."
    )
    if server.kind == "ours":
        lines.append(f"Slots / capacity: {SLOTS / images:.2f} s, what an accepted request takes while all are taken.")
    lines += ["", *CALLERS_SEE, *(_seen(load, images) for load in loads)]
    lines += ["", *IT_COSTS, *(_cost(load, capacity) for load in loads if "error" not in load), ""]
    return lines + _aim(loads, images) + _probes(loads) + _afterwards(loads)


def _seen(load: Record, capacity: float) -> str:
    head = f"| {load['factor']:g}x |"
    if "error" in load:
        return f"{head} error: {_one_line(load['error'])} | | | | | | | |"
    accepted, refused = (_times(load[kind]) for kind in ("accepted", "refused"))
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in _in_order(load["outcomes"]))
    rates = f"{load['offered']:.0f} | {load['goodput']:.1f} | {load['goodput'] / capacity:.0%}"
    return f"{head} {rates} | {accepted} | {refused} | {outcomes} |"


def _times(times: Record) -> str:
    return f"{times['p50'] * 1e3:.1f} | {times['p99'] * 1e3:.1f}" if times["number"] else " | "


def _in_order(outcomes: dict[str, int]) -> list[tuple[str, int]]:
    order = [GOOD, LATE, *sorted(set(outcomes) - {GOOD, LATE, BROKEN, LOST}), BROKEN, LOST]
    return [(outcome, outcomes[outcome]) for outcome in order if outcome in outcomes]


def _cost(load: Record, capacity: Record) -> str:
    seconds = load["seconds"]
    a_second = load["outcomes"].get(GOOD, 0) / load["server_cpu_seconds"]
    figures = f"{load['server_cpu_seconds'] / seconds:.2f} | {a_second:.1f} | {a_second * capacity['cpu_an_image']:.0%}"
    own = f"{load['cpu_seconds'] / seconds:.2f} | {load['lag']['p99'] * 1e3:.1f}"
    return f"| {load['factor']:g}x | {figures} | {own} | {load['connections']} |"


def _aim(loads: Sequence[Record], capacity: float) -> list[str]:
    largest = max(loads, key=lambda load: load["factor"], default={"error": "not measured"})
    if "error" in largest:
        return []
    share = largest["goodput"] / capacity
    verdict = "met" if share >= AIM else "not met"
    return [f"Aim: at {largest['factor']:g}x goodput is at least {AIM:.0%} of capacity: {share:.0%}, {verdict}.", ""]


def _probes(loads: Sequence[Record]) -> list[str]:
    probed = [load for load in loads if load.get("probes")]
    if not probed:
        return []
    names = list(probed[0]["probes"])
    lines = [
        "Health meanwhile, ten times a second: p50 and p99 in ms, and how many were not answered with 200.",
        "",
    ]
    lines += [f"| load | {' | '.join(names)} |", f"|--:|{'---|' * len(names)}"]
    for load in probed:
        cells = (
            f"{load['probes'][name]['p50'] * 1e3:.1f}, {load['probes'][name]['p99'] * 1e3:.1f},"
            f" {load['failed_probes'][name]}"
            for name in names
        )
        lines.append(f"| {load['factor']:g}x | {' | '.join(cells)} |")
    return [*lines, ""]


def _afterwards(loads: Sequence[Record]) -> list[str]:
    failed = [f"after {load['factor']:g}x: {_one_line(load['afterwards'])}" for load in loads if load.get("afterwards")]
    if failed:
        return [f"The next request was not answered {'; '.join(failed)}.", ""]
    return ["The next request was answered after each of them.", ""] if any("goodput" in load for load in loads) else []


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]


if __name__ == "__main__":
    sys.exit(main())
