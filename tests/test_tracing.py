"""Traces: a span for each request in its caller's trace, sent to a collector that nobody waits for; off by default."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import secrets
import signal
import ssl
import subprocess

import grpc
import pytest
import yaml
from calling import BODY, METHOD, TEXT, in_flight, stopped
from certificates import authority, signed
from running import configuration, start, wait_for
from running import serving as started
from span_collector import GrpcCollector, Hole, HttpCollector

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.errors import ConfigError
from service.native.trace_settings import TraceSettings, trace_settings

PACKET = wire.Request(key=["image"], value=[TEXT]).SerializeToString()
STAGES = ["read", "queue", "decode", "preprocess", "wait", "infer", "label"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ON = {"OTEL_TRACES_EXPORTER": "otlp"}
TRACEPARENT = re.compile(r"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")


class Parent:
    """A trace of a caller."""

    def __init__(self, flags="01"):
        self.trace, self.span = secrets.token_hex(16), secrets.token_hex(8)
        self.header = f"00-{self.trace}-{self.span}-{flags}"


class Traced:
    """A running service that traces, and what it has written on standard error."""

    def __init__(self, service, log):
        self.service, self._log = service, log

    def lines(self, *words):
        """Those that hold all the words."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if all(word in line for word in words)]

    def post(self, body=BODY, *headers, verb="POST", path="/regnet/prediction"):
        """Status and headers of the answer; ``headers``: pairs."""
        connection = http.client.HTTPConnection(self.service.http, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(verb, path)
            for name, value in (*headers, ("Content-Length", str(len(body)))):
                connection.putheader(name, value)
            connection.endheaders(body.encode() if isinstance(body, str) else body)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers

    def call(self, packet=PACKET, **metadata):
        """Status and trailing metadata of the answer."""
        pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        with grpc.insecure_channel(self.service.rpc) as channel:
            call = channel.unary_unary(METHOD).with_call
            try:
                _, ended = call(packet, timeout=60, metadata=pairs)
            except grpc.RpcError as error:
                ended = error
            return ended.code(), dict(ended.trailing_metadata())


@contextlib.contextmanager
def serving(folder, model, native=None, **environment):
    config = configuration(model, native=native or {})
    with started(folder, config, log=folder / "log", **environment) as service:
        yield Traced(service, service.log)


@pytest.fixture(scope="module")
def collector():
    with HttpCollector().running() as running:
        yield running


@pytest.fixture(scope="module")
def traced(digits_model, tmp_path_factory, collector):
    with serving(
        tmp_path_factory.mktemp("traced"),
        digits_model,
        native={"access_log": True, "log_format": "json"},
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_HEADERS="x-key=one%20secret",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_TRACES_SAMPLER="",
        OTEL_BSP_MAX_QUEUE_SIZE="",
    ) as running:
        yield running


def trace_of(headers):
    """Trace, span and sampled of an answer's ``traceparent``."""
    match = TRACEPARENT.fullmatch(headers["traceparent"])
    return match["trace"], match["span"], bool(int(match["flags"], 16) & 1)


def test_a_request_is_a_span_in_its_callers_trace_and_its_stages_are_under_it(traced, collector):
    caller = Parent()
    status, headers = traced.post(
        BODY, ("traceparent", caller.header), ("tracestate", "vendor=42"), ("X-Request-Id", "order-1"),
        ("User-Agent", "a" * 300),
    )  # fmt: skip
    span, stages = collector.trace(caller.trace)
    assert status == 200 and trace_of(headers) == (caller.trace, span.id, True)
    assert (span.name, span.kind, span.parent) == ("POST /{name}/{method}", "SERVER", caller.span)
    assert span.state == "vendor=42" and not span.is_error
    port = span.attributes["network.peer.port"]
    expected = {
        "http.request.method": "POST", "http.route": "/{name}/{method}", "http.response.status_code": 200,
        "url.scheme": "http", "url.path": "/regnet/prediction", "network.protocol.version": "1.1",
        "network.peer.address": "127.0.0.1", "client.address": "127.0.0.1", "network.peer.port": port,
        "user_agent.original": "a" * 256, "regnetx.outcome": "answered", "regnetx.images": 1,
        "regnetx.bytes": len(BODY), "regnetx.err_no": 0, "regnetx.request_id": "order-1",
    }  # fmt: skip
    assert {name: span.attributes.get(name) for name in expected} == expected
    assert isinstance(port, int) and "error.type" not in span.attributes
    assert set(stages) == set(STAGES)
    assert {stage.kind for stage in stages.values()} == {"INTERNAL"}


def test_the_stages_follow_each_other_within_the_request(traced, collector):
    _, headers = traced.post()
    span, stages = collector.trace(trace_of(headers)[0])
    moments = [moment for name in STAGES for moment in (stages[name].began, stages[name].ended)]
    assert [span.began, *moments, span.ended] == sorted([span.began, *moments, span.ended])
    assert stages["infer"].ended > stages["infer"].began and stages["read"].began == span.began


def test_a_call_is_a_span_in_its_callers_trace(traced, collector):
    caller = Parent()
    code, metadata = traced.call(traceparent=caller.header, x_request_id="order-2")
    span, stages = collector.trace(caller.trace)
    assert code is grpc.StatusCode.OK and trace_of(metadata) == (caller.trace, span.id, True)
    assert (span.name, span.kind, span.parent) == (METHOD[1:], "SERVER", caller.span)
    expected = {
        "rpc.system.name": "grpc", "rpc.method": METHOD[1:], "rpc.response.status_code": "OK",
        "network.peer.address": "127.0.0.1", "regnetx.outcome": "answered", "regnetx.images": 1,
        "regnetx.bytes": len(PACKET), "regnetx.err_no": 0, "regnetx.request_id": "order-2",
    }  # fmt: skip
    assert {name: span.attributes.get(name) for name in expected} == expected
    assert set(stages) == set(STAGES)


def test_several_images_are_no_more_spans(traced, collector):
    caller = Parent()
    traced.post(json.dumps({"key": ["a", "b", "c"], "value": [TEXT] * 3}), ("traceparent", caller.header))
    span, stages = collector.trace(caller.trace)
    assert span.attributes["regnetx.images"] == 3 and set(stages) == set(STAGES)


def test_neither_images_nor_labels_nor_secrets_are_in_spans(traced, collector):
    caller = Parent()
    traced.post(BODY, ("traceparent", caller.header), ("Authorization", "Bearer hush"))
    everything = repr(collector.trace(caller.trace))
    assert not [word for word in (TEXT[:30], "hush", "secret") if word in everything]
    assert not re.search(rf"\b({'|'.join(DIGITS)})\b", everything)


def test_the_collector_is_told_who_sends_and_gets_the_headers_that_were_asked_for(traced, collector):
    _, headers = traced.post()
    span, _ = collector.trace(trace_of(headers)[0])
    assert span.resource["service.name"] == "regnetx-serving"
    assert span.resource["deployment.environment.name"] == "test"
    assert {"service.version", "telemetry.sdk.name"} <= set(span.resource)
    assert (collector.headers[-1]["x-key"], collector.headers[-1]["content-encoding"]) == ("one secret", "gzip")


def test_the_log_names_the_trace(traced):
    caller = Parent()
    traced.post(BODY, ("traceparent", caller.header))
    wait_for(lambda: traced.lines("regnetx.access", caller.trace))
    [line] = traced.lines("regnetx.access", caller.trace)
    assert json.loads(line)["trace_id"] == caller.trace


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["00-" + "0" * 32 + "-00f067aa0ba902b7-01"],
        ["00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01"],
        ["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
        ["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"],
        ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"],
        ["\xff"],
        ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] * 2,
    ],
)
def test_without_a_context_that_is_one_a_new_trace_begins(traced, collector, headers):
    status, answer = traced.post(BODY, *(("traceparent", header) for header in headers))
    trace, _, is_sampled = trace_of(answer)
    span, _ = collector.trace(trace)
    assert (status, span.parent, is_sampled) == (200, "", True)
    assert trace not in "".join(headers).lower()


def test_a_caller_that_does_not_sample_is_obeyed(traced, collector):
    quiet, loud = Parent("00"), Parent()
    _, headers = traced.post(BODY, ("traceparent", quiet.header))
    traced.post(BODY, ("traceparent", loud.header))
    collector.trace(loud.trace)  # whatever came before it has been sent as well
    trace, span, is_sampled = trace_of(headers)
    assert (trace, is_sampled) == (quiet.trace, False) and span != quiet.span
    assert collector.of(quiet.trace) == []


@pytest.mark.parametrize(
    ("ask", "name", "expected"),
    [
        ({"body": '{"key":["a"],"value":["AAAA"]}'}, "POST /{name}/{method}", ("bad_image", 10000, 200)),
        ({"body": "{"}, "POST /{name}/{method}", ("bad_request", None, 400)),
        ({"path": "/"}, "POST", ("not_found", None, 404)),
        ({"verb": "GET"}, "GET", ("method_not_allowed", None, 405)),
        ({"verb": "PURGE"}, "HTTP", ("method_not_allowed", None, 405)),
    ],
)
def test_what_is_the_callers_fault_is_no_error_of_the_service(traced, collector, ask, name, expected):
    _, headers = traced.post(**ask)
    span, _ = collector.trace(trace_of(headers)[0])
    told = (span.attributes.get(f"regnetx.{word}") for word in ("outcome", "err_no"))
    assert (*told, span.attributes["http.response.status_code"]) == expected
    assert span.name == name and not span.is_error and "error.type" not in span.attributes


def test_what_failed_here_is_an_error(traced, collector):
    caller = Parent()
    with stopped(*traced.service.children()["engine"]):
        status, _ = traced.post(BODY, ("traceparent", caller.header), ("Grpc-Timeout", "50m"))
    span, stages = collector.trace(caller.trace)
    assert (status, span.attributes["http.response.status_code"]) == (504, 504)
    assert span.is_error and span.attributes["error.type"] == "504"
    assert span.attributes["regnetx.outcome"] == "deadline_exceeded" and "infer" not in stages


@pytest.mark.parametrize(
    ("packet", "metadata", "expected"),
    [
        (b"\xff", {}, ("INTERNAL", "bad_request", "INTERNAL")),
        (PACKET, {"x_top_k": "none"}, ("INVALID_ARGUMENT", "bad_request", None)),
        (wire.Request(key=["a"], value=["AAAA"]).SerializeToString(), {}, ("OK", "bad_image", None)),
    ],
)
def test_calls_that_fail_are_told_by_their_status(traced, collector, packet, metadata, expected):
    caller = Parent()
    traced.call(packet, traceparent=caller.header, **metadata)
    span, _ = collector.trace(caller.trace)
    told = ("rpc.response.status_code", "regnetx.outcome", "error.type")
    assert tuple(span.attributes.get(name) for name in told) == expected
    assert span.is_error == (expected[2] is not None)


def test_a_collector_that_refuses_costs_spans_and_one_line_of_the_log(traced, collector):
    collector.status = 400
    try:
        wait_for(lambda: traced.post()[0] == 200 and collector.refused >= 3)
        wait_for(lambda: traced.lines("spans are lost"))
        assert len(traced.lines("spans are lost", "400")) == 1 == len(traced.lines("spans are lost"))
    finally:
        collector.status = 200
    wait_for(lambda: traced.post()[0] == 200 and traced.lines("the collector takes spans again"))
    assert not traced.lines("opentelemetry")


def test_a_collector_that_stands_still_holds_up_no_request(traced, collector):
    with collector.standing_still():
        _, first = traced.post()
        wait_for(lambda: collector.held)
        answers = [traced.post() for _ in range(3)]
        assert [status for status, _ in answers] == [200] * 3 and traced.call()[0] is grpc.StatusCode.OK
        assert collector.held == 1  # it is still at the first
    for _, headers in [(200, first), *answers]:
        collector.trace(trace_of(headers)[0])


def test_over_grpc_what_is_left_is_sent_when_the_service_stops(digits_model, tmp_path):
    quiet, loud = Parent("00"), Parent()
    with (
        GrpcCollector().running() as collector,
        serving(
            tmp_path,
            digits_model,
            native={"drain_timeout_ms": 300},
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_COMPRESSION="none",
            OTEL_SERVICE_NAME="mine",
            OTEL_TRACES_SAMPLER="parentbased_always_off",
            OTEL_BSP_SCHEDULE_DELAY="600000",
        ) as running,
    ):
        assert not trace_of(running.post()[1])[2]
        assert not trace_of(running.post(BODY, ("traceparent", quiet.header))[1])[2]
        with stopped(*running.service.children()["engine"]):
            [call] = in_flight(running.service, headers={"traceparent": loud.header})
            running.service.process.send_signal(signal.SIGTERM)
            assert call.result()[1]["err_no"] == 3001
        assert running.service.process.wait(60) == 0
        span, _ = collector.trace(loud.trace)
        assert span.resource["service.name"] == "mine" and len(collector.of(quiet.trace)) == 0
        assert (span.attributes["regnetx.outcome"], span.attributes["regnetx.err_no"]) == ("draining", 3001)
        assert span.is_error and span.attributes["error.type"] == "draining"


def collector_over_tls(protocol, ours, server):
    """One that only takes spans of those who show a certificate of ``ours``."""
    if protocol == "grpc":
        pair = (server.key.read_bytes(), server.certificate.read_bytes())
        return GrpcCollector(grpc.ssl_server_credentials([pair], ours.certificate.read_bytes(), True))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours.certificate)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(server.certificate, server.key)
    return HttpCollector(tls)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_over_tls_each_side_shows_its_certificate_whatever_other_programs_trust_here(protocol, digits_model, tmp_path):
    ours, others = authority(tmp_path, "ours"), authority(tmp_path, "others")
    server, client = signed(tmp_path, "server", ours), signed(tmp_path, "client", ours, usage="clientAuth")
    with (
        collector_over_tls(protocol, ours, server).running() as collector,
        serving(
            tmp_path,
            digits_model,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(ours.certificate),
            OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(client.certificate),
            OTEL_EXPORTER_OTLP_CLIENT_KEY=str(client.key),
            OTEL_BSP_SCHEDULE_DELAY="50",
            REQUESTS_CA_BUNDLE=str(others.certificate),
            CURL_CA_BUNDLE=str(others.certificate),
        ) as running,
    ):
        span, stages = collector.trace(trace_of(running.post()[1])[0])
        assert span.attributes["regnetx.outcome"] == "answered" and set(stages) == set(STAGES)
        assert not running.lines("spans are lost")


def test_a_collector_that_is_down_or_never_answers_holds_up_neither_requests_nor_the_end(digits_model, tmp_path):
    with (
        Hole() as hole,
        serving(
            tmp_path,
            digits_model,
            OTEL_EXPORTER_OTLP_ENDPOINT=hole.endpoint,
            OTEL_EXPORTER_OTLP_TIMEOUT="600000",
            OTEL_BSP_SCHEDULE_DELAY="50",
        ) as running,
    ):
        assert running.post()[0] == 200
        hole.begin_to_listen()
        with hole.next_caller():  # who has tried again
            assert running.post()[0] == 200
            assert running.service.stop() == 0
        assert len(running.lines("")) == len(running.lines("the last spans could not be sent")) == 1


def test_off_by_default_nothing_is_loaded_and_no_context_goes_out(digits_model, tmp_path):
    with serving(tmp_path, digits_model, PYTHONPROFILEIMPORTTIME="1") as running:
        caller = Parent()
        assert "traceparent" not in running.post(BODY, ("traceparent", caller.header))[1]
        assert running.call(traceparent=caller.header) == (grpc.StatusCode.OK, {})
    assert running.lines("import time:", "service.native.http_api")
    assert not running.lines("import time:", "opentelemetry")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
        {"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
        {"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "mine", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier pigeon"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318"},
    ],
)
def test_nothing_is_traced_unless_it_is_asked_for(environment):
    assert trace_settings(environment) is None


def test_what_is_asked_for():
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert trace_settings(ON) == trace_settings(endpoint) == TraceSettings()
    assert trace_settings({**endpoint, "OTEL_SDK_DISABLED": "false"}) is not None
    of_traces = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://[::1]/x", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TIMEOUT": "250",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP",
        "OTEL_PROPAGATORS": "baggage", "OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name = mine",
    }  # fmt: skip
    assert trace_settings(of_traces) == TraceSettings("grpc", 0.25, True, True, takes_context=False, names_itself=True)


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger", "otlp, none"),
        ("OTEL_SDK_DISABLED", "yes", "true, false"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf, grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "udp", "http/protobuf, grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:99999", "http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip, none"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem", "a file that can be read"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_traceidratio"),
        ("OTEL_PROPAGATORS", "tracecontext,b3", "tracecontext, baggage, none"),
        ("OTEL_RESOURCE_ATTRIBUTES", "production", "name=value"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "milliseconds"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999999999", "999999999"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100", "at least OTEL_BSP_MAX_EXPORT_BATCH_SIZE, 512"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "at most OTEL_BSP_MAX_QUEUE_SIZE, 2048"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1", "a whole number from 0"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_accepted(variable, value, accepted):
    with pytest.raises(ConfigError) as refusal:
        trace_settings({**ON, variable: value})
    assert str(refusal.value).startswith(f"environment: {variable}: {value!r} is not accepted; accepted: ")
    assert accepted in str(refusal.value)


@pytest.mark.parametrize("share", ["", "a half", "1.5", "nan"])
def test_a_share_is_a_number_where_the_sampler_takes_one(share):
    environment = {**ON, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}
    if not share:
        assert trace_settings(environment)
        return
    with pytest.raises(ConfigError, match=r"OTEL_TRACES_SAMPLER_ARG: .* accepted: a number from 0 to 1"):
        trace_settings(environment)
    assert trace_settings({**environment, "OTEL_TRACES_SAMPLER": "always_on"})


def test_headers_are_secrets_and_not_repeated():
    with pytest.raises(ConfigError) as refusal:
        trace_settings({**ON, "OTEL_EXPORTER_OTLP_HEADERS": "hush"})
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(refusal.value) and "hush" not in str(refusal.value)


def test_a_wrong_setting_is_exit_code_2_before_anything_starts(digits_model, tmp_path):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(configuration(digits_model)))
    process = start(["serve", "--config", str(file)], {"OTEL_TRACES_EXPORTER": "zipkin"}, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "regnetx: environment: OTEL_TRACES_EXPORTER: 'zipkin' is not accepted; accepted: otlp, none\n"


def test_losses_are_told_once_a_minute_however_often_the_collector_changes_its_mind(caplog):
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    from service.native.tracing import LossTeller

    class Moody(SpanExporter):
        answers = iter([None, None, SpanExportResult.SUCCESS, SpanExportResult.FAILURE, SpanExportResult.SUCCESS])

        def export(self, spans):
            answer = next(self.answers)
            if answer is None:
                raise ValueError("no\nmood")
            return answer

    teller = LossTeller(Moody())
    with caplog.at_level(logging.INFO):
        results = [teller.export(["a", "span"]).name for _ in range(5)]
    assert results == ["FAILURE", "FAILURE", "SUCCESS", "FAILURE", "SUCCESS"]
    assert [record.getMessage() for record in caplog.records] == [
        "spans are lost until the collector takes them: ValueError: no\\nmood",
        "the collector takes spans again; 4 were lost",
    ]
