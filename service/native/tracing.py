"""Requests -> OpenTelemetry spans -> a collector. Imported only by a frontend that traces.

A span goes into a bounded queue; a thread of the SDK sends what is in it. A collector that is down or stands still
costs spans, and one line in the log.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.errors import short
from service.native.conventions import Attributes, Ending, grpc_call, grpc_ending, http_ending, http_request
from service.native.trace_settings import HTTP, SERVICE_NAME, TraceSettings

if TYPE_CHECKING:
    from requests import Session

    from service.native.request_meter import Exchange

log = logging.getLogger("regnetx.traces")

FLUSH_SECONDS = 1.5  # at the end, for what has not been sent yet
QUIET_SECONDS = 60.0  # after the log has said that spans are lost, before it says so again
SCOPE = InstrumentationScope("regnetx-serving", __version__, "https://opentelemetry.io/schemas/1.45.0")
CONTEXT = ("traceparent", "tracestate")
EndingOf = Callable[["Exchange"], Ending]


class Tracing:
    """The spans of one process, from the doors to the exporter."""

    def __init__(self, settings: TraceSettings) -> None:
        """The rest of the settings the SDK reads from the environment itself."""
        _drop_empty_variables()
        defaults = {"service.version": __version__, **({} if settings.names_itself else {"service.name": SERVICE_NAME})}
        self._processor = BatchSpanProcessor(LossTeller(exporter_of(settings)))
        self._provider = TracerProvider(resource=Resource.create(defaults), shutdown_on_exit=False)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer(SCOPE.name, SCOPE.version, SCOPE.schema_url)
        self._propagator = TraceContextTextMapPropagator() if settings.takes_context else None

    def of_http(self, scope: Mapping[str, Any], began: float) -> "Trace":
        """The trace of an HTTP request that began at ``began``, in seconds of ``time.perf_counter``."""
        named = {name.encode(): name for name in CONTEXT}
        carried = [(named[name], value.decode("latin-1")) for name, value in scope["headers"] if name in named]
        return self._begin(*http_request(scope), began, carried, http_ending)

    def of_grpc(self, method: str, peer: str, metadata: Iterable[tuple[str, Any]], began: float) -> "Trace":
        """The trace of a call."""
        return self._begin(*grpc_call(method, peer), began, metadata, grpc_ending)

    def stop(self) -> None:
        """Send what is left, within FLUSH_SECONDS."""
        flush = threading.Thread(target=self._provider.shutdown, name="flush-spans", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)
        if flush.is_alive():
            log.warning("the last spans could not be sent within %.1f s and are lost", FLUSH_SECONDS)

    def _begin(
        self, name: str, attributes: Attributes, began: float, carried: Iterable[tuple[str, Any]], ending: EndingOf
    ) -> "Trace":
        clock = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            name, self._parent(carried), SpanKind.SERVER, attributes, start_time=clock + round(began * 1e9)
        )
        return Trace(span, clock, ending, self._emit_station, self._propagator)

    def _parent(self, carried: Iterable[tuple[str, Any]]) -> Context:
        """The caller's context; an empty one where it is none (W3C Trace Context: then a new trace begins)."""
        carrier: dict[str, list[str]] = {name: [] for name in CONTEXT}
        for name, value in carried:
            if name in carrier:
                carrier[name].append(value)
        if self._propagator is None or len(carrier["traceparent"]) != 1:
            return Context()
        return self._propagator.extract(carrier, Context())

    def _emit_station(self, station: str, parent: SpanContext, came: int, left: int) -> None:
        """A span that has begun and ended already: there is nothing to sample and nothing to lock."""
        context = SpanContext(
            parent.trace_id, self._provider.id_generator.generate_span_id(), False, parent.trace_flags,
            parent.trace_state,
        )  # fmt: skip
        self._processor.on_end(
            ReadableSpan(
                station, context, parent, self._provider.resource, start_time=came, end_time=left,
                instrumentation_scope=SCOPE,
            )
        )  # fmt: skip


class Trace:
    """The span of one request, and once it has ended those of the stations where it was."""

    __slots__ = ("_clock", "_context", "_emit_station", "_ending", "_propagator", "_span")

    def __init__(
        self,
        span: Span,
        clock: int,
        ending: EndingOf,
        emit_station: Callable[[str, SpanContext, int, int], None],
        propagator: TraceContextTextMapPropagator | None,
    ) -> None:
        """``clock``: nanoseconds to add to ``time.perf_counter_ns`` for those since 1970."""
        self._span, self._clock, self._ending = span, clock, ending
        self._emit_station, self._propagator = emit_station, propagator
        self._context = span.get_span_context()

    @property
    def is_sampled(self) -> bool:
        """Whether it is going to be sent."""
        return self._context.trace_flags.sampled

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return format_trace_id(self._context.trace_id)

    @property
    def traceparent(self) -> str | None:
        """For the answer; None where context is not to be told."""
        if self._propagator is None:
            return None
        context = self._context
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, exchange: "Exchange") -> None:
        """The request has ended."""
        if not self.is_sampled:
            return
        if exchange.times is not None and exchange.times.stays is not None:
            for station, (came, left) in exchange.times.stays.items():
                self._emit_station(station, self._context, self._since_1970(came), self._since_1970(left))
        ending = self._ending(exchange)
        if ending.name is not None:
            self._span.update_name(ending.name)
        self._span.set_attributes(ending.attributes)
        if ending.error is not None:
            self._span.set_attribute("error.type", ending.error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._since_1970(time.perf_counter()))

    def _since_1970(self, moment: float) -> int:
        return self._clock + round(moment * 1e9)


class LossTeller(SpanExporter):
    """An exporter around one that says why spans are lost once, not for every batch and every try."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._heard = _Heard()
        self._lost = 0
        self._quiet_until = 0.0
        self._has_told = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send; never raises."""
        self._heard.words.clear()
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            self._heard.words.append(f"{type(error).__name__}: {error}")
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._tell_of_success()
        else:
            self._lost += len(spans)
            self._tell_of_loss()
        return result

    def shutdown(self) -> None:
        """Nothing is sent any more."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """As the exporter does it."""
        return self._exporter.force_flush(timeout_millis)

    def _tell_of_loss(self) -> None:
        now = time.monotonic()
        if self._has_told or now < self._quiet_until:
            return
        self._has_told, self._quiet_until = True, now + QUIET_SECONDS
        why = short(self._heard.words[0]) if self._heard.words else "no reason was given"
        log.warning("spans are lost until the collector takes them: %s", why)

    def _tell_of_success(self) -> None:
        if self._has_told:
            log.info("the collector takes spans again; %d were lost", self._lost)
            self._has_told = False
        self._lost = 0


class _Heard(logging.Handler):
    """What the exporters say, which would be a line for every try."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words: list[str] = []
        # The SDK's other loggers speak of single spans. None of it reaches the log.
        everything = logging.getLogger("opentelemetry")
        everything.propagate = False
        everything.handlers = [logging.NullHandler()]
        exporters = logging.getLogger("opentelemetry.exporter")
        exporters.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first words of a batch: those that follow speak of the next tries."""
        if not self.words:
            self.words.append(record.getMessage())


def exporter_of(settings: TraceSettings) -> SpanExporter:
    """The exporter of a protocol; only that one is loaded."""
    if settings.protocol == HTTP:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

        gzip = Compression.Gzip if settings.is_compressed else Compression.NoCompression
        return OverHttp(timeout=settings.timeout, compression=gzip, session=_session())
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

    gzip = grpc.Compression.Gzip if settings.is_compressed else grpc.Compression.NoCompression
    return OverGrpc(timeout=settings.timeout, compression=gzip, insecure=not settings.is_secure)


def _session() -> "Session":
    """The exporter tells it OTEL_EXPORTER_OTLP_CERTIFICATE, which requests by itself drops for REQUESTS_CA_BUNDLE."""
    from requests import Session

    class OfTheExporter(Session):
        def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
            return super().merge_environment_settings(url, proxies, stream, verify or self.verify, cert)

    return OfTheExporter()


def _drop_empty_variables() -> None:
    """The specification says that an empty variable is none; the SDK takes some of them for values."""
    for variable in [name for name, value in os.environ.items() if name.startswith("OTEL_") and not value]:
        del os.environ[variable]
