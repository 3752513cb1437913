"""OpenTelemetry's standard variables -> what is traced and where it is sent; nothing of OpenTelemetry is imported here.

The names, defaults and forms are those of its specification. Two things differ: tracing is off unless one of the first
three variables below asks for it, and what cannot be obeyed is refused instead of being warned of and ignored.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from service.config_source import is_http_address
from service.errors import ConfigError, shown

if TYPE_CHECKING:
    from service.native.tracing import Tracing

HTTP, GRPC = "http/protobuf", "grpc"
RATIO_SAMPLERS = ("traceidratio", "parentbased_traceidratio")
SAMPLERS = (
    "always_on", "always_off", "parentbased_always_on", "parentbased_always_off", *RATIO_SAMPLERS,
)  # fmt: skip
SERVICE_NAME = "regnetx-serving"
QUEUE_SIZE, BATCH_SIZE = 2048, 512  # the SDK's own defaults

_PAIR = re.compile(r"\s*[^\s=,]+\s*=[^,]*")
_HEADER = re.compile(r"\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*=[^,]*")  # a token of RFC 9110, and its value


@dataclass(frozen=True)
class TraceSettings:
    """Where spans go, in so far as the SDK does not read it itself."""

    protocol: str = HTTP
    timeout: float = 10.0  # seconds, for one batch with all its tries
    is_compressed: bool = False
    is_secure: bool = False  # TLS; the SDK would let OTEL_EXPORTER_OTLP_INSECURE contradict the URL
    takes_context: bool = True  # W3C trace context of callers, and in answers
    names_itself: bool = False  # the environment says what service.name is


@dataclass(frozen=True)
class _Kind:
    """The values that a variable may have."""

    accepted: str
    fits: Callable[[str], object]
    is_secret: bool = False


def _one_of(*names: str) -> _Kind:
    return _Kind(", ".join(names), lambda value: value.lower() in names)


def _list_of(*names: str) -> _Kind:
    return _Kind(
        f"a list with commas of {', '.join(names)}",
        lambda value: all(one.strip() in names for one in value.split(",")),
    )


def _pairs(form: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda value: all(form.fullmatch(pair) for pair in value.split(","))


def _is_ratio(value: str) -> bool:
    try:
        return 0 <= float(value) <= 1
    except ValueError:
        return False


def _is_file(value: str) -> bool:
    return os.path.isfile(value) and os.access(value, os.R_OK)


_FLAG = _one_of("true", "false")
_EXPORTER = _one_of("otlp", "none")
_COUNT = _Kind("a whole number from 1 to 999999999", re.compile("0*[1-9][0-9]{0,8}").fullmatch)
_LIMIT = _Kind("a whole number from 0 to 999999999", re.compile("0*[0-9]{1,9}").fullmatch)
_FILE = _Kind("a file that can be read", _is_file)
_RATIO = _Kind("a number from 0 to 1", _is_ratio)
_PROTOCOL = _one_of(HTTP, GRPC)
_PROPAGATORS = _list_of("tracecontext", "baggage", "none")
_MILLISECONDS = _Kind("milliseconds, a whole number from 1 to 999999999", _COUNT.fits)

# Each also as OTEL_EXPORTER_OTLP_TRACES_..., which is stronger
_OF_THE_EXPORTER = {
    "ENDPOINT": _Kind("a URL, http://HOST:PORT or https://HOST:PORT", is_http_address),
    "PROTOCOL": _PROTOCOL,
    "TIMEOUT": _MILLISECONDS,
    "HEADERS": _Kind("name=value,name=value, with %2C for a comma", _pairs(_HEADER), is_secret=True),
    "COMPRESSION": _one_of("gzip", "none"),
    "CERTIFICATE": _FILE,
    "CLIENT_CERTIFICATE": _FILE,
    "CLIENT_KEY": _FILE,
}
_OF_THE_SDK = {
    "OTEL_PROPAGATORS": _PROPAGATORS,
    "OTEL_RESOURCE_ATTRIBUTES": _Kind("name=value,name=value, with %2C for a comma", _pairs(_PAIR)),
    "OTEL_TRACES_SAMPLER": _one_of(*SAMPLERS),
    "OTEL_BSP_SCHEDULE_DELAY": _MILLISECONDS,
    "OTEL_BSP_MAX_QUEUE_SIZE": _COUNT,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": _COUNT,
    "OTEL_BSP_EXPORT_TIMEOUT": _MILLISECONDS,
    "OTEL_ATTRIBUTE_COUNT_LIMIT": _LIMIT,
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": _LIMIT,
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": _LIMIT,
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": _LIMIT,
    "OTEL_SPAN_EVENT_COUNT_LIMIT": _LIMIT,
    "OTEL_SPAN_LINK_COUNT_LIMIT": _LIMIT,
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": _LIMIT,
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": _LIMIT,
}


def trace_settings(environment: Mapping[str, str]) -> TraceSettings | None:
    """What the variables ask for; None: nothing is traced. An empty variable counts as none.

    Raises ConfigError for a value that cannot be obeyed. Where nothing is traced, the other variables are not read.
    """
    given = _Given(environment)
    if not given.asks_for_traces():
        return None
    for variable, kind in _OF_THE_SDK.items():
        given.checked(variable, kind)
    given.check_sampler()
    given.check_sizes()
    exporting = {name: given.of_the_exporter(name) for name in _OF_THE_EXPORTER}
    propagators = [one.strip() for one in given["OTEL_PROPAGATORS"].split(",")]
    resource = [pair.partition("=")[0].strip() for pair in given["OTEL_RESOURCE_ATTRIBUTES"].split(",")]
    return TraceSettings(
        protocol=exporting["PROTOCOL"].lower() or HTTP,
        timeout=int(exporting["TIMEOUT"] or 10_000) / 1000,
        is_compressed=exporting["COMPRESSION"].lower() == "gzip",
        is_secure=exporting["ENDPOINT"].lower().startswith("https:"),
        takes_context="none" not in propagators and ("tracecontext" in propagators or propagators == [""]),
        names_itself=bool(given["OTEL_SERVICE_NAME"]) or "service.name" in map(unquote, resource),
    )


@contextlib.contextmanager
def traced(environment: Mapping[str, str]) -> Iterator["Tracing | None"]:
    """What traces requests until the end of the block, where it is asked for; only then is anything loaded for it."""
    settings = trace_settings(environment)
    if settings is None:
        yield None
        return
    from service.native.tracing import Tracing

    tracing = Tracing(settings)
    try:
        yield tracing
    finally:
        tracing.stop()


class _Given:
    """Variables and what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __getitem__(self, variable: str) -> str:
        """The value; empty where there is none."""
        return self._environment.get(variable, "")

    def asks_for_traces(self) -> bool:
        """Whether an exporter or an endpoint is named, and nothing says no."""
        if self.checked("OTEL_SDK_DISABLED", _FLAG).lower() == "true":
            return False
        exporter = self.checked("OTEL_TRACES_EXPORTER", _EXPORTER).lower()
        return exporter == "otlp" or (not exporter and bool(self.of_the_exporter("ENDPOINT")))

    def checked(self, variable: str, kind: _Kind) -> str:
        """The value, if there is one. Raises ConfigError if it is none of its kind."""
        value = self[variable]
        if value and not kind.fits(value):
            raise _refusal(variable, value, kind)
        return value

    def of_the_exporter(self, name: str) -> str:
        """The value that is in force for traces."""
        of_traces = f"OTEL_EXPORTER_OTLP_TRACES_{name}"
        return self.checked(of_traces if self[of_traces] else f"OTEL_EXPORTER_OTLP_{name}", _OF_THE_EXPORTER[name])

    def check_sampler(self) -> None:
        """A share is a number, where the sampler is one that takes a share."""
        if self["OTEL_TRACES_SAMPLER"].lower() in RATIO_SAMPLERS:
            self.checked("OTEL_TRACES_SAMPLER_ARG", _RATIO)

    def check_sizes(self) -> None:
        """A batch is not larger than the queue that it comes from."""
        queue, batch = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
        most, least = int(self[queue] or QUEUE_SIZE), int(self[batch] or BATCH_SIZE)
        if least > most and self[batch]:
            raise _refusal(batch, self[batch], _Kind(f"at most {queue}, {most}", bool))
        if least > most:
            raise _refusal(queue, self[queue], _Kind(f"at least {batch}, {least}", bool))


def _refusal(variable: str, value: str, kind: _Kind) -> ConfigError:
    found = "its value" if kind.is_secret else shown(value)
    return ConfigError(f"environment: {variable}: {found} is not accepted; accepted: {kind.accepted}")
