"""Records -> rows and aims: medians over the rounds, ratios within each round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.matrix import ENGINES, MAIN
from benchmarks.measure import BARE, LOOP
from benchmarks.records import Record
from benchmarks.servers import SERVERS

FLAT_REQUESTS = 100_000  # over which memory is to stay flat
PEERS = tuple(name for name, server in SERVERS.items() if server.kind == "peer")
ORDER = (*MAIN[:2], *ENGINES, *MAIN[2:])
FIGURES = ("images_per_second", "p50", "p99", "images", "cpu_seconds", "peak_bytes", "rate")


@dataclass(frozen=True)
class Row:
    """One line: medians over the rounds that came out well, or the error of one that did not."""

    subject: str
    door: str
    concurrency: int | None
    share: float | None
    figures: dict[str, float]
    error: str = ""


def rows(records: Sequence[Record]) -> list[Row]:
    """Of one situation, in the order of the table. A cell with an error in any round has no figures."""
    cells: dict[tuple[str, str, int | None, float | None], list[Record]] = {}
    for record in records:
        if "door" in record:
            key = (record["subject"], record["door"], record.get("concurrency"), record.get("share"))
            cells.setdefault(key, []).append(record)
    found = [Row(*key, *_median(of)) for key, of in cells.items()]
    return sorted(found, key=lambda row: ORDER.index(row.subject))


def _median(records: Sequence[Record]) -> tuple[dict[str, float], str]:
    for record in records:
        if "error" in record:
            return {}, record["error"]
    present = [name for name in FIGURES if all(name in record for record in records)]
    figures = {name: float(statistics.median(record[name] for record in records)) for name in present}
    if "cpu_seconds" in figures:
        figures["cpu_an_image"] = statistics.median(record["cpu_seconds"] / record["images"] for record in records)
    return figures, ""


def ratio(records: Sequence[Record], ours: Callable[[Record], bool], theirs: Callable[[Record], bool]) -> float | None:
    """The best of ours to the best of theirs, in images a second, in each round; the median over the rounds.

    None where a round lacks one of them.
    """
    rounds = sorted({record["round"] for record in records})
    best = [(_best(records, number, ours), _best(records, number, theirs)) for number in rounds]
    both = [one / other for one, other in best if one and other]
    return statistics.median(both) if both and len(both) == len(rounds) else None


def _best(records: Sequence[Record], number: int, wanted: Callable[[Record], bool]) -> float:
    rates = [r["images_per_second"] for r in records if r["round"] == number and "images_per_second" in r and wanted(r)]
    return max(rates, default=0.0)


def at(subjects: Sequence[str], door: str, concurrency: int | None = None) -> Callable[[Record], bool]:
    """Whether a record is of one of the subjects at that door, and at that concurrency if one is given."""

    def wanted(record: Record) -> bool:
        fits = concurrency is None or record.get("concurrency") == concurrency
        return record["subject"] in subjects and record["door"] == door and fits

    return wanted


def ratios(records: Sequence[Record], row: Row) -> list[float | None]:
    """Of a row of the closed loop: to plain stock, tuned stock, the best peer and the bare loop."""
    if row.error or row.concurrency is None or row.subject == BARE:
        return [None] * 4
    own = at([row.subject], row.door, row.concurrency)
    same = [at(subjects, row.door, row.concurrency) for subjects in (["stock"], ["stock-tuned"], PEERS)]
    return [ratio(records, own, theirs) for theirs in (*same, at([BARE], LOOP))]


@dataclass(frozen=True)
class Aim:
    """What the project aims at, and what was measured; None: not measured."""

    text: str
    value: float | None
    limit: float
    at_least: bool = True

    @property
    def verdict(self) -> str:
        """In one word or two."""
        if self.value is None:
            return "not measured"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "met" if met else "not met"


def aims(records: Sequence[Record], memory_slope: float | None) -> list[Aim]:
    """Judged at the smallest model and image; a server's throughput is that at its best concurrency."""
    here = [record for record in records if "door" in record]
    auto = at(["auto"], "http")
    return [
        Aim("throughput to plain stock, base64", ratio(here, auto, at(["stock"], "http")), 8),
        Aim("throughput to tuned stock, base64", ratio(here, auto, at(["stock-tuned"], "http")), 5),
        Aim("throughput to the best peer, base64", ratio(here, auto, at(PEERS, "http")), 1.25),
        Aim("throughput to the best peer, raw", ratio(here, at(["auto"], "http-raw"), at(PEERS, "http-raw")), 1.25),
        Aim("throughput to the bare loop, base64", ratio(here, auto, at([BARE], LOOP)), 0.9),
        Aim("p99 / p50 at 70 % of capacity", _tail(here), 3, at_least=False),
        Aim("memory, KiB more for each 1000 of 100 000 requests", memory_slope, 10, at_least=False),
    ]


def _tail(records: Sequence[Record]) -> float | None:
    open_ = [r for r in records if r["subject"] == "auto" and r.get("share") == 0.7]
    if not open_ or any("error" in record for record in open_):
        return None
    return statistics.median(record["p99"] / record["p50"] for record in open_)
