"""One request at a door: counted while it lasts, and by how it ended."""

import asyncio
import time
from types import TracebackType

from service.errors import (
    DeadlineExceededError,
    DrainingError,
    EngineError,
    ImageError,
    MalformedRequestError,
    OpTimeoutError,
    OverloadedError,
    RequestTooLargeError,
    RpcPackageError,
    ServiceError,
    ServiceNameError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from service.native.metric_block import Block, Counter, Gauge, Histogram
from service.native.metrics import REQUEST_SECONDS, REQUESTS, REQUESTS_IN_FLIGHT, STAGE_SECONDS, Door, Outcome, Stage

OUTCOMES: dict[type[ServiceError], Outcome] = {
    MalformedRequestError: Outcome.BAD_REQUEST,
    UnsupportedMediaTypeError: Outcome.BAD_REQUEST,
    RpcPackageError: Outcome.BAD_REQUEST,
    RequestTooLargeError: Outcome.TOO_LARGE,
    ServiceNameError: Outcome.UNKNOWN_SERVICE,
    ImageError: Outcome.BAD_IMAGE,
    EngineError: Outcome.ENGINE_FAILED,
    OpTimeoutError: Outcome.OP_TIMEOUT,
    DeadlineExceededError: Outcome.DEADLINE_EXCEEDED,
    OverloadedError: Outcome.OVERLOADED,
    UnavailableError: Outcome.UNAVAILABLE,
    DrainingError: Outcome.DRAINING,
}
OF_STATUS = {404: Outcome.NOT_FOUND, 405: Outcome.METHOD_NOT_ALLOWED}


class RequestMeter:
    """The metrics of one door of this process."""

    def __init__(self, block: Block, door: Door) -> None:
        self.counts = {outcome: Counter(block, REQUESTS, door, outcome) for outcome in Outcome}
        self.seconds = Histogram(block, REQUEST_SECONDS, door)
        self.in_flight = Gauge(block, REQUESTS_IN_FLIGHT, door)
        self.read = Histogram(block, STAGE_SECONDS, Stage.READ)

    def request(self) -> "Exchange":
        """A context for one request, from its head to its answer."""
        return Exchange(self)


class Exchange:
    """One request. It counts as answered unless it is told otherwise, or ended by an exception."""

    __slots__ = ("_began", "_meter", "outcome")

    def __init__(self, meter: RequestMeter) -> None:
        self._meter = meter
        self.outcome = Outcome.ANSWERED

    def __enter__(self) -> "Exchange":
        self._began = time.perf_counter()
        self._meter.in_flight.add(1)
        return self

    def has_been_read(self) -> None:
        """The whole request is here and understood."""
        self._meter.read.observe(time.perf_counter() - self._began)

    def failed(self, error: BaseException) -> None:
        """It will be answered with this error, if at all."""
        if isinstance(error, ServiceError):
            self.outcome = OUTCOMES[type(error)]
        elif isinstance(error, asyncio.CancelledError):
            self.outcome = Outcome.CALLER_LEFT
        else:
            self.outcome = Outcome.INTERNAL_ERROR

    def refused(self, status: int) -> None:
        """It will be answered with this HTTP status, for its target names nothing here."""
        self.outcome = OF_STATUS.get(status, Outcome.BAD_REQUEST)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.outcome is Outcome.ANSWERED:
            self.failed(error)
        self._meter.counts[self.outcome].add()
        if self.outcome is Outcome.ANSWERED:
            self._meter.seconds.observe(time.perf_counter() - self._began)
        self._meter.in_flight.add(-1)  # last: who sees that nothing is in flight sees everything counted
