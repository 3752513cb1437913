"""uvicorn's HTTP/1.1 connection with what it lacks: bounds on heads, time, number and age; HTTP/2 offers declined."""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from service.contract.gateway import Answer

    Fields = list[tuple[bytes, bytes]]  # of a head, names in lower case

log = logging.getLogger("regnetx.http")

MAX_HEAD_BYTES = 64 << 10  # Go's HTTP server, which stock is, takes 1 MiB; a thousand connections may each have one
MAX_HEADERS = 500
HEAD_TOO_LARGE = b"431 Request Header Fields Too Large"
TOO_SLOW = b"408 Request Timeout"
INVALID = b"400 Bad Request"
BROKEN = b"500 Internal Server Error"
FULL = b"503 Service Unavailable\r\nretry-after: 1"
LAST_WORD = b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
TEXTS = {INVALID: b"Invalid HTTP request received."}
ENDED = "regnetx.ended"  # among a scope's extensions: with which status its connection has ended, before it was whole
OF_AN_UPGRADE = (b"upgrade", b"http2-settings")
LAST_REQUEST_SECONDS = 0.5  # for one that was sent before its caller could know that we leave
AGE_SPREAD = 0.1  # as gRPC does it: connections that were made together do not end together


class HttpProtocol(HttpToolsProtocol):
    """One connection. A request that offers to switch protocols is answered as if it had not (RFC 9110, 7.8)."""

    max_age = math.inf  # seconds; the first answer after that closes the connection
    read_timeout = math.inf  # seconds from the first byte of a request, or from connecting, to the last
    max_connections = math.inf  # of this process
    is_draining = False  # every answer is the last on its connection
    _ends_at = math.inf
    _last: RequestResponseCycle | None = None  # the request whose answer is going to close the connection
    _answering: RequestResponseCycle | None = None  # the request in progress; later ones that are here wait for it
    _reading: asyncio.TimerHandle | None = None  # while a request is on its way, or the first one is awaited
    _refusal: "Callable[[bytes, bytes, Fields], Answer | None] | None" = None  # of the application, by a head alone
    _is_refused = False  # the request that is being read, or was read last
    _is_in_request = False  # its first byte is here, and its last is not
    _head_bytes = 0  # since the last head or piece of a body was complete; trailers count as well

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected."""
        super().connection_made(transport)
        self._ends_at = self.loop.time() + self.max_age * random.uniform(1 - AGE_SPREAD, 1 + AGE_SPREAD)
        self._refusal = getattr(self.config.app, "refusal", None)
        if len(self.connections) > self.max_connections:
            self._end_with(FULL)
        else:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone. uvicorn tells the request that came last; the one in progress may be another."""
        self._stop_timer()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of the caller; 400 where they are not HTTP, 431 where a head does not end."""
        self._unset_keepalive_if_required()
        self._head_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError:
            log.exception("a request failed in a way that nobody thought of")
            self._end_with(BROKEN)
        except httptools.HttpParserError:
            self._end_with(INVALID)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
            self._end_with(HEAD_TOO_LARGE)
        # Not for a request that came in one piece. Bytes between two requests begin none, and yet have ended the time
        # that an idle connection has
        if self._reading is None and self.timeout_keep_alive_task is None and (self._is_in_request or self._is_idle):
            self._expect_request()

    def on_message_begin(self) -> None:
        """The first bytes of a request."""
        super().on_message_begin()
        self._is_in_request, self._is_refused = True, False
        self._unset_keepalive_if_required()

    def on_headers_complete(self) -> None:
        """A head has ended; one that asks for an upgrade is going to be parsed once more, without it."""
        self._head_bytes = 0
        if not self.parser.should_upgrade() and not self._refuse():
            super().on_headers_complete()
            if self._is_old:
                self._close_after(self.cycle)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._head_bytes = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has ended, unless it is one whose head is going to be parsed once more."""
        if not self.parser.should_upgrade():
            self._stop_timer()
            self._is_in_request = False
            if not self._is_refused:
                super().on_message_complete()
            if self._is_refused or self.cycle.response_complete:  # before its end came: only now is there nothing to do
                self._unset_keepalive_if_required()
                wait, end = self.timeout_keep_alive, self.timeout_keep_alive_handler
                self.timeout_keep_alive_task = self.loop.call_later(wait, end)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self) -> bool:
        """Answer the request here and now where its head is enough for the application to refuse it."""
        if self._refusal is None or not self._may_write:
            return False
        answer = self._refusal(self.parser.get_method(), self.url, self.headers)
        if answer is None:
            return False
        headers = (*self.server_state.default_headers, *answer.headers, (b"content-length", b"%d" % len(answer.body)))
        fields = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status], fields, answer.body))
        self.server_state.total_requests += 1
        self._is_refused = True
        return True

    @property
    def _may_write(self) -> bool:
        """Whether an answer to this request can be said next, to a caller that reads, and the connection goes on."""
        is_next = self._is_idle and not (self._is_old or self.flow.write_paused)
        return is_next and self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"

    def shutdown(self) -> None:
        """No more requests after those that are on their way: one may be in the network, or half here.

        Closing at once would throw that one away, and its caller could not know whether it had been heard.
        """
        self._ends_at = -math.inf
        if not self._is_idle:
            super().shutdown()
        elif not self.transport.is_closing():
            self.loop.call_later(LAST_REQUEST_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._is_idle and self._head_bytes == 0:
            self.transport.close()

    @property
    def _is_old(self) -> bool:
        return self.is_draining or self.loop.time() > self._ends_at

    @property
    def _is_idle(self) -> bool:
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    def _expect_request(self) -> None:
        if self.read_timeout != math.inf:
            self._reading = self.loop.call_later(self.read_timeout, self._give_up_reading)

    def _stop_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _give_up_reading(self) -> None:
        self._reading = None
        answering = self._answering is not None and not (self._answering.response_complete or self._answering.more_body)
        if answering or self.flow.read_paused:
            self._expect_request()  # it is we who do not read on, for an earlier request has not been answered
        elif self._head_bytes == 0 and self._is_idle:
            self.transport.close()  # nothing was asked
        elif self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
        else:
            self._end_with(TOO_SLOW)

    def _end_with(self, status: bytes) -> None:
        """Close, with an answer that needs no request."""
        if not self.transport.is_closing():
            text = TEXTS.get(status) or status.partition(b"\r")[0]
            if self.cycle is not None and self.cycle.more_body:  # else that one is whole, and it is about a later one
                self.cycle.scope["extensions"] = {ENDED: {"status": int(status[:3])}}
            self.transport.write(LAST_WORD % (status, len(text), text))
            self.transport.close()

    def _close_after(self, cycle: RequestResponseCycle) -> None:
        """Of requests that were sent without waiting, the last one ends the connection, so that none is lost."""
        if self._last is not None and not self._last.response_started:
            self._last.keep_alive = True
        if cycle.keep_alive:
            cycle.keep_alive = False
            self._last = cycle

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # To the parser, what follows is another protocol; from curl --http2 and Java it is the body.
                data = self._without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)

    def _without_upgrade(self) -> bytes:
        """The head that was parsed, as if it had asked for no other protocol."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("a tunnel is not for us")
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] not in OF_AN_UPGRADE]
        return b"\r\n".join([*lines, b"", b""])


def bounded(
    *, max_age: float = 0, read_timeout: float = math.inf, max_connections: float = math.inf
) -> type[HttpProtocol]:
    """The protocol with these bounds. ``max_age``: seconds after which a connection ends; 0 for never."""
    bounds = {"max_age": max_age or math.inf, "read_timeout": read_timeout, "max_connections": max_connections}
    return type("BoundedHttpProtocol", (HttpProtocol,), bounds)
