"""One request at a door: counted while it lasts and by how it ended, and told of where that is asked for."""

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from service.errors import (
    DeadlineExceededError,
    DrainingError,
    EngineError,
    ImageError,
    MalformedRequestError,
    OpTimeoutError,
    OverloadedError,
    RequestTooLargeError,
    RequestTooSlowError,
    RpcPackageError,
    ServiceError,
    ServiceNameError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from service.native.access_log import Times, request_id_of, write_line
from service.native.metric_block import Block, Counter, Gauge, Histogram
from service.native.metrics import REQUEST_SECONDS, REQUESTS, REQUESTS_IN_FLIGHT, STAGE_SECONDS, Door, Outcome, Stage

if TYPE_CHECKING:
    from service.native.tracing import Trace, Tracing

OUTCOMES: dict[type[ServiceError], Outcome] = {
    UnauthenticatedError: Outcome.UNAUTHENTICATED,
    MalformedRequestError: Outcome.BAD_REQUEST,
    UnsupportedMediaTypeError: Outcome.BAD_REQUEST,
    RpcPackageError: Outcome.BAD_REQUEST,
    RequestTooLargeError: Outcome.TOO_LARGE,
    RequestTooSlowError: Outcome.TOO_SLOW,
    ServiceNameError: Outcome.UNKNOWN_SERVICE,
    ImageError: Outcome.BAD_IMAGE,
    EngineError: Outcome.ENGINE_FAILED,
    OpTimeoutError: Outcome.OP_TIMEOUT,
    DeadlineExceededError: Outcome.DEADLINE_EXCEEDED,
    OverloadedError: Outcome.OVERLOADED,
    UnavailableError: Outcome.UNAVAILABLE,
    DrainingError: Outcome.DRAINING,
}
OF_STATUS = {404: Outcome.NOT_FOUND, 405: Outcome.METHOD_NOT_ALLOWED, 408: Outcome.TOO_SLOW}


@dataclass(frozen=True)
class Told:
    """What is said of single requests beside the metrics: a line in the log, their times and their model in
    their answers."""

    access_log: bool = False
    server_timing: bool = False
    model_version: bool = False
    tracing: "Tracing | None" = None

    @property
    def looks_at_each(self) -> bool:
        """Whether anything is said of a request that is not in its metrics and its answer's id."""
        return self.access_log or self.server_timing or self.tracing is not None


class RequestMeter:
    """The metrics of one door of this process."""

    def __init__(self, block: Block, door: Door, told: Told | None = None) -> None:
        self.door = door
        self.told = told or Told()
        self.counts = {outcome: Counter(block, REQUESTS, door, outcome) for outcome in Outcome}
        self.seconds = Histogram(block, REQUEST_SECONDS, door)
        self.in_flight = Gauge(block, REQUESTS_IN_FLIGHT, door)
        self.read = Histogram(block, STAGE_SECONDS, Stage.READ)

    def request(self) -> "Exchange":
        """A context for one request, from its head to its answer."""
        return Exchange(self)

    def refused(self, error: ServiceError) -> None:
        """A request has ended as soon as it began, with this error."""
        self.counts[OUTCOMES[type(error)]].add()


class Exchange:
    """One request. It counts as answered unless it is told otherwise, or ended by an exception."""

    __slots__ = (
        "_began", "_meter", "caller", "err_no", "images", "is_routed", "model_version", "outcome", "peer", "request_id",
        "size", "status", "times", "trace",
    )  # fmt: skip

    def __init__(self, meter: RequestMeter) -> None:
        self._meter = meter
        self.outcome = Outcome.ANSWERED
        self.request_id: str | None = None
        self.times = Times() if meter.told.access_log or meter.told.server_timing else None
        self.peer = self.caller = self.model_version = ""
        self.images = self.size = 0
        self.err_no: int | None = None  # of an answer in band
        self.status: int | None = None  # of HTTP or of gRPC
        self.is_routed = False  # its target names something here
        self.trace: Trace | None = None

    def __enter__(self) -> "Exchange":
        self._began = time.perf_counter()
        self._meter.in_flight.add(1)
        return self

    def identify(self, given: str | None, peer: str) -> None:
        """``given``: the id that the caller gave it; ``peer``: the caller's address."""
        self.request_id = request_id_of(given, needed=self._meter.told.access_log)
        self.peer = peer

    @property
    def began(self) -> float:
        """Seconds of ``time.perf_counter``."""
        return self._began

    def follow(self, trace: "Trace") -> None:
        """It is traced, and so are its stations if its trace is sampled."""
        self.trace = trace
        if trace.is_sampled:
            self.times = self.times or Times()
            self.times.stays = {}

    def has_been_read(self, size: int) -> None:
        """The whole request, of ``size`` bytes, is here and understood."""
        now = time.perf_counter()
        self._meter.read.observe(now - self._began)
        self.size = size
        if self.times:
            self.times.read = now - self._began
            self.times.stayed(Stage.READ, self._began, now)

    @property
    def server_timing(self) -> str | None:
        """Its times until now, where answers are to tell them."""
        if self.times is None or not self._meter.told.server_timing:
            return None
        return self.times.server_timing(time.perf_counter() - self._began)

    @property
    def told_version(self) -> str | None:
        """The version of the model that classified it, where answers are to tell it and one did."""
        return self.model_version or None if self._meter.told.model_version else None

    def failed(self, error: BaseException) -> None:
        """It will be answered with this error, if at all."""
        if isinstance(error, ServiceError):
            self.outcome = OUTCOMES[type(error)]
            self.err_no = error.err_no
        elif isinstance(error, asyncio.CancelledError):
            self.outcome = Outcome.CALLER_LEFT
        else:
            self.outcome = Outcome.INTERNAL_ERROR

    def refused(self, status: int) -> None:
        """It is answered with this HTTP status: its target names nothing here, or it is no HTTP, or not all of it."""
        self.outcome = OF_STATUS.get(status, Outcome.BAD_REQUEST)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.outcome is Outcome.ANSWERED:
            self.failed(error)
        self._meter.counts[self.outcome].add()
        if self.outcome is Outcome.ANSWERED:
            self._meter.seconds.observe(time.perf_counter() - self._began)
        if self.trace is not None:
            self.trace.end(self)
        if self._meter.told.access_log:
            self._write_line()
        self._meter.in_flight.add(-1)  # last: who sees that nothing is in flight sees everything counted

    def _write_line(self) -> None:
        times = self.times.milliseconds() if self.times else {}
        caller = {"caller": self.caller} if self.caller else {}
        trace = {"trace_id": self.trace.trace_id} if self.trace else {}
        model = {"model": self.model_version} if self.model_version else {}
        write_line(
            {
                "id": self.request_id, **trace, "door": str(self._meter.door), "peer": self.peer, **caller,
                "outcome": str(self.outcome),
                "images": self.images, "bytes": self.size, **model,
                "ms": round((time.perf_counter() - self._began) * 1e3, 2), **times,
            }
        )  # fmt: skip
