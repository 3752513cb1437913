"""The cells of all processes -> the metric families that a scrape is answered with."""

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from service import __version__
from service.config import Config
from service.native.condition import Condition
from service.native.metric_block import Block
from service.native.metrics import RUNNING_IMAGES, SHOWN, SUBMITTED_IMAGES, Family, Kind, cell_of
from service.ops.facts import read_facts
from service.ops.model import FACTS_FILE, SERVER_FOLDER, Model

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/PID/stat behind the name of the program, proc(5): utime, stime, rss.
UTIME, STIME, RSS = 11, 12, 21


class ServiceCollector:
    """What prometheus_client asks at each scrape. Sums over frontends and engines; nothing is kept between scrapes."""

    def __init__(self, config: Config, model: Model, condition: Condition) -> None:
        self._condition = condition
        self._children = [*condition.engines, *condition.frontends]
        self._slots = config.slots * config.frontends
        self._about = [_build(), _model(model)]

    def collect(self) -> Iterator[Metric]:
        """Every family, also those in which nothing has happened yet."""
        blocks = [child.block for child in self._children]
        yield from (_family(family, blocks) for family in SHOWN)
        yield _gauge("regnetx_slots", "Slots of all frontends.", self._slots)
        waiting = _sum(blocks, cell_of(SUBMITTED_IMAGES)) - _sum(blocks, cell_of(RUNNING_IMAGES))
        yield _gauge("regnetx_waiting_images", "Images that wait for the run of their batch.", max(0.0, waiting))
        yield _gauge("regnetx_ready", "1 while /readyz says 200.", not self._condition.why_not_ready)
        yield self._engines()
        yield self._restarts()
        yield from self._processes()
        yield from self._about

    def _engines(self) -> Metric:
        up = GaugeMetricFamily("regnetx_engine_up", "1 while the engine is there and not stuck.", labels=["engine"])
        for engine in self._condition.engines:
            up.add_metric([str(engine.number)], self._condition.is_up(engine))
        return up

    def _restarts(self) -> Metric:
        restarts = CounterMetricFamily(
            "regnetx_process_restarts", "Processes that ended without being asked and were started again.",
            labels=["kind"],
        )  # fmt: skip
        for kind, children in (("engine", self._condition.engines), ("frontend", self._condition.frontends)):
            restarts.add_metric([kind], sum(child.restarts for child in children))
        return restarts

    def _processes(self) -> Iterable[Metric]:
        seconds = CounterMetricFamily(
            "regnetx_process_cpu_seconds", "Processor time, user and system; from 0 again when a process is restarted.",
            labels=["process"],
        )  # fmt: skip
        resident = GaugeMetricFamily(
            "regnetx_process_resident_memory_bytes", "Memory in RAM; what processes share counts for each of them.",
            labels=["process"],
        )  # fmt: skip
        for name, pid in [("supervisor", os.getpid()), *((child.name, child.pid) for child in self._children)]:
            if pid is not None and (use := _use(pid)):
                seconds.add_metric([name], use[0])
                resident.add_metric([name], use[1])
        return seconds, resident


def _family(family: Family, blocks: Sequence[Block]) -> Metric:
    if family.kind is Kind.HISTOGRAM:
        return _histogram(family, blocks)
    of_kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = of_kind(family.name, family.help, labels=family.label_names)
    for labels in family.series():
        metric.add_metric(labels, _sum(blocks, cell_of(family, labels)))
    return metric


def _histogram(family: Family, blocks: Sequence[Block]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.label_names)
    bounds = (*map(floatToGoString, family.buckets), "+Inf")
    for labels in family.series():
        first = cell_of(family, labels)
        counts = accumulate(_sum(blocks, first + place) for place in range(len(bounds)))
        metric.add_metric(labels, list(zip(bounds, counts, strict=True)), _sum(blocks, first + len(bounds)))
    return metric


def _sum(blocks: Sequence[Block], cell: int) -> float:
    return sum(block.cells[cell] for block in blocks)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _use(pid: int) -> tuple[float, int] | None:
    """Processor seconds and resident bytes of a process; None where it has just ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[UTIME]) + int(fields[STIME])) / TICKS, int(fields[RSS]) * PAGE_BYTES


def _build() -> Metric:
    labels = {"version": __version__, "python": platform.python_version(), "paddle": _paddle()}
    return _info("regnetx_build_info", "1; versions of what is running.", labels)


def _paddle() -> str:
    for package in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def _model(model: Model) -> Metric:
    labels = {
        "name": model.name,
        "architecture": model.architecture,
        "classes": str(model.classes),
        "height": str(model.height),
        "width": str(model.width),
        "sha256": _sha256(model),
    }
    return _info("regnetx_model_info", "1; what is served, with the SHA-256 of its parameters if recorded.", labels)


def _sha256(model: Model) -> str:
    """As model.yml records it and the start has verified it; a model of stock's converter has none."""
    facts = model.params.parent.parent / FACTS_FILE
    if model.params.parent.name != SERVER_FOLDER or not facts.is_file():
        return ""
    return read_facts(facts).section("sha256").text("params")


def _info(name: str, text: str, labels: dict[str, str]) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=list(labels))
    metric.add_metric(list(labels.values()), 1)
    return metric
