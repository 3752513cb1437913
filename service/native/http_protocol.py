"""uvicorn's HTTP/1.1 connection with what it lacks: bounds on heads and on its age, and offers of HTTP/2 declined."""

import asyncio
import math
import random

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 1 << 20  # the bound of Go's HTTP server, which stock is
REASON = b"431 Request Header Fields Too Large"
TOO_LARGE = b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
OF_AN_UPGRADE = (b"upgrade", b"http2-settings")
AGE_SPREAD = 0.1  # as gRPC does it: connections that were made together do not end together


class HttpProtocol(HttpToolsProtocol):
    """One connection. A request that offers to switch protocols is answered as if it had not (RFC 9110, 7.8)."""

    max_age = math.inf  # seconds; the first answer after that closes the connection
    _ends_at = math.inf
    _last: RequestResponseCycle | None = None  # the request whose answer is going to close the connection
    _answering: RequestResponseCycle | None = None  # the request in progress; later ones that are here wait for it
    _head_bytes = 0  # since the last head or piece of a body was complete; trailers count as well

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected."""
        super().connection_made(transport)
        self._ends_at = self.loop.time() + self.max_age * random.uniform(1 - AGE_SPREAD, 1 + AGE_SPREAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone. uvicorn tells the request that came last; the one in progress may be another."""
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
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(TOO_LARGE % (REASON, len(REASON), REASON))
            self.transport.close()

    def on_headers_complete(self) -> None:
        """A head has ended; one that asks for an upgrade is going to be parsed once more, without it."""
        self._head_bytes = 0
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            if self.loop.time() > self._ends_at:
                self._close_after(self.cycle)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has ended, unless it is one whose head is going to be parsed once more."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

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


def aging(max_age: float) -> type[HttpProtocol]:
    """The protocol whose connections end after ``max_age`` seconds; 0 for never."""
    return type("AgingHttpProtocol", (HttpProtocol,), {"max_age": max_age or math.inf})
