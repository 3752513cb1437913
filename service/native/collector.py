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
from service.native.generation import Generation
from service.native.gpu_memory import GpuMemory
from service.native.metric_block import Block
from service.native.metrics import (
    CERTIFICATE_EXPIRY,
    RUNNING_IMAGES,
    SHOWN,
    SUBMITTED_IMAGES,
    Family,
    Kind,
    cell_of,
)
from service.native.versions import Versions

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/PID/stat behind the name of the program, proc(5): utime, stime, rss.
UTIME, STIME, RSS = 11, 12, 21


class ServiceCollector:
    """What prometheus_client asks at each scrape. Sums over frontends and engines; nothing is kept between scrapes."""

    def __init__(self, config: Config, versions: Versions, condition: Condition) -> None:
        self._versions = versions
        self._condition = condition
        self._slots = config.slots * config.frontends
        self._gpu_memory = GpuMemory(config.regnet.local_service_conf.gpus)
        self._build = _build()

    def collect(self) -> Iterator[Metric]:
        """Every family, also those in which nothing has happened yet."""
        blocks = [*self._versions.blocks, *(frontend.block for frontend in self._condition.frontends)]
        yield from (_family(family, blocks) for family in SHOWN)
        yield _gauge("regnetx_slots", "Slots of all frontends.", self._slots)
        waiting = _sum(blocks, cell_of(SUBMITTED_IMAGES)) - _sum(blocks, cell_of(RUNNING_IMAGES))
        yield _gauge("regnetx_waiting_images", "Images that wait for the run of their batch.", max(0.0, waiting))
        yield _gauge("regnetx_ready", "1 while /readyz says 200.", not self._condition.why_not_ready)
        yield self._engines()
        yield self._restarts()
        yield from self._processes()
        yield from self._gpus()
        yield _certificate(blocks)
        yield self._build
        yield from self._model()

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
        restarts.add_metric(["engine"], self._versions.engine_restarts)
        restarts.add_metric(["frontend"], sum(child.restarts for child in self._condition.frontends))
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
        children = (*self._condition.engines, *self._condition.frontends)
        for name, pid in [("supervisor", os.getpid()), *((child.name, child.pid) for child in children)]:
            if pid is not None and (use := _use(pid)):
                seconds.add_metric([name], use[0])
                resident.add_metric([name], use[1])
        return seconds, resident

    def _model(self) -> Iterable[Metric]:
        reloads = CounterMetricFamily("regnetx_model_reloads", "Reloads of the model that ended.", labels=["outcome"])
        for outcome, count in self._versions.reloads.items():
            reloads.add_metric([outcome], count)
        since = "Unix time at which the version of the model that serves began to."
        yield _info_of(self._versions.current)
        yield reloads
        yield _gauge("regnetx_model_serving_since_timestamp_seconds", since, self._versions.since)

    def _gpus(self) -> Iterable[Metric]:
        used = GaugeMetricFamily(
            "regnetx_gpu_memory_used_bytes", "Memory of a GPU that is in use, by whomever.", labels=["device"]
        )
        total = GaugeMetricFamily("regnetx_gpu_memory_total_bytes", "Memory of a GPU.", labels=["device"])
        for number, memory in self._gpu_memory.last().items():
            used.add_metric([str(number)], memory.used)
            total.add_metric([str(number)], memory.total)
        return used, total


def _certificate(blocks: Sequence[Block]) -> Metric:
    metric = GaugeMetricFamily(CERTIFICATE_EXPIRY.name, CERTIFICATE_EXPIRY.help)
    told = [block.cells[cell_of(CERTIFICATE_EXPIRY)] for block in blocks]
    if any(told):
        metric.add_metric([], min(filter(None, told)))
    return metric


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


def _info_of(generation: Generation) -> Metric:
    model = generation.model
    labels = {
        "name": model.name,
        "architecture": model.architecture,
        "classes": str(model.classes),
        "height": str(model.height),
        "width": str(model.width),
        "sha256": generation.params_sha256,
        "version": generation.version,
    }
    return _info("regnetx_model_info", "1; what is served, with the SHA-256 of its parameters if recorded.", labels)


def _info(name: str, text: str, labels: dict[str, str]) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=list(labels))
    metric.add_metric(list(labels.values()), 1)
    return metric
