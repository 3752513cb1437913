"""Collectors of spans on loopback, over OTLP's HTTP and gRPC, and what they were sent."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from running import wait_for

HELD_SECONDS = 120  # a bound for a collector that stands still


@dataclass(frozen=True)
class Seen:
    """One span; ids in hexadecimal, times in nanoseconds since 1970."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    began: int
    ended: int
    is_error: bool
    attributes: dict[str, object]
    resource: dict[str, object]


class Spans:
    """All spans that were sent so far."""

    def __init__(self):
        self._seen: list[Seen] = []

    def take(self, request):
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self._seen.extend(_seen(span, resource) for span in of_scope.spans)

    def of(self, trace):
        """All spans of a trace that are here now."""
        return [span for span in list(self._seen) if span.trace == trace]

    def trace(self, trace):
        """The server's span of a trace once it is here, and by name those under it, which are sent before it."""
        wait_for(lambda: any(span.kind == "SERVER" for span in self.of(trace)))
        [server] = [span for span in self.of(trace) if span.kind == "SERVER"]
        children = [span for span in self.of(trace) if span.parent == server.id]
        assert len(children) == len(self.of(trace)) - 1
        return server, {span.name: span for span in children}


class HttpCollector(Spans):
    """Takes what is posted to ``/v1/traces``, or refuses it, or stands still."""

    def __init__(self, tls=None):
        """``tls``: the context of a server, for https."""
        super().__init__()
        self.status = 200
        self.refused = self.held = 0
        self.headers: list[dict[str, str]] = []
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._goes_on.set()
            self._server.shutdown()
            self._server.server_close()

    @contextlib.contextmanager
    def standing_still(self):
        self._goes_on.clear()
        try:
            yield
        finally:
            self._goes_on.set()

    def _answer(self, headers, body):
        self.headers.append({name.lower(): value for name, value in headers.items()})
        if not self._goes_on.is_set():
            self.held += 1
            self._goes_on.wait(HELD_SECONDS)
        if self.status == 200:
            plain = gzip.decompress(body) if headers["content-encoding"] == "gzip" else body
            self.take(ExportTraceServiceRequest.FromString(plain))
        else:
            self.refused += 1
        return self.status

    def _handler(self):
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = collector._answer(self.headers, body) if self.path == "/v1/traces" else 404
                answer = ExportTraceServiceResponse().SerializeToString()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("content-type", "application/x-protobuf")
                    self.send_header("content-length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_):
                pass

        return Handler


class GrpcCollector(Spans, TraceServiceServicer):
    """Takes what is exported to it."""

    def __init__(self, tls=None):
        """``tls``: the credentials of a server, for https."""
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(self, self._server)
        nowhere = "127.0.0.1:0"
        port = self._server.add_secure_port(nowhere, tls) if tls else self._server.add_insecure_port(nowhere)
        self.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{port}"

    @contextlib.contextmanager
    def running(self):
        self._server.start()
        try:
            yield self
        finally:
            self._server.stop(None).wait(30)

    def Export(self, request, context):
        self.take(request)
        return ExportTraceServiceResponse()


class Hole:
    """An address of a collector: nobody listens there, and then somebody who never answers."""

    def __init__(self):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def begin_to_listen(self):
        self._socket.listen()
        self._socket.settimeout(30)

    def next_caller(self):
        """The connection of whoever sends something."""
        caller, _ = self._socket.accept()
        caller.settimeout(30)
        assert caller.recv(1)
        return caller


def _seen(span, resource):
    return Seen(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
        resource=resource,
    )


def _values(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
