"""The admin door, an ASGI application in the supervisor: metrics and health, however busy the frontends are.

Its callers may be slow, many or hostile: connections, heads and times are bounded, for the supervisor has a service to
look after.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from uvicorn.server import ServerState

from service.config import Config
from service.native.collector import ServiceCollector
from service.native.condition import Condition
from service.native.http_protocol import HttpProtocol
from service.native.versions import Versions

log = logging.getLogger("regnetx.admin")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_CONNECTIONS = 64
EXCHANGE_SECONDS = 10.0  # from the first byte, or from connecting, until the answer is written
CLOSE_SECONDS = 1.0  # for those who were being answered to notice that they were hung up on
KEEP_ALIVE_SECONDS = 75  # longer than between two scrapes
TEXT = (b"content-type", b"text/plain; charset=utf-8")
NO_STORE = (b"cache-control", b"no-store")
ALLOW = (b"allow", b"GET, HEAD")


class AdminApi:
    """``/metrics``, ``/healthz`` and ``/readyz``; nothing here waits for another process."""

    def __init__(self, condition: Condition, registry: CollectorRegistry) -> None:
        self._condition = condition
        self._metrics = make_asgi_app(registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["path"] not in ("/metrics", "/healthz", "/readyz"):
            await _say(send, 404, "accepted: /metrics, /healthz, /readyz")
        elif scope["method"] not in ("GET", "HEAD"):
            await _say(send, 405, "accepted: GET, HEAD", ALLOW)
        elif scope["path"] == "/metrics":
            await self._scrape(scope, receive, send)
        elif scope["path"] == "/healthz":
            await _judge(send, self._condition.why_not_alive, "ok")
        else:
            await _judge(send, self._condition.why_not_ready, "ready")

    async def _scrape(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._metrics(scope, receive, send)
        except UnicodeDecodeError:
            await _say(send, 400, "query and headers must be UTF-8")
        except Exception:
            log.exception("a scrape failed in a way that nobody thought of")
            await _say(send, 500, "internal error")


class AdminProtocol(HttpProtocol):
    """One connection of the admin door: the newest is served, the oldest makes room, and none may take its time."""

    opened = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected; it may be one too many."""
        super().connection_made(transport)
        self.opened = self.loop.time()
        self._start_timer()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The clock of an exchange starts with its first byte."""
        if self._timer is None:
            self._start_timer()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """It ends with the last byte of the answer; then that of a request begins that was sent without waiting."""
        self._stop_timer()
        if self.pipeline:
            self._start_timer()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Not closed, which would wait for a caller that does not read."""
        self.transport.abort()

    def _make_room(self) -> None:
        there = (one for one in self.connections if isinstance(one, AdminProtocol) and not one.transport.is_closing())
        min(there, key=lambda one: one.opened).transport.abort()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(EXCHANGE_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class AdminDoor:
    """The door itself; it is open from before anything is loaded until everything has ended."""

    def __init__(self, config: Config, versions: Versions, condition: Condition) -> None:
        registry = CollectorRegistry(auto_describe=True)  # so that one family can be asked for by name
        registry.register(ServiceCollector(config, versions, condition))
        self._config = uvicorn.Config(
            AdminApi(condition, registry), http=AdminProtocol, ws="none", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )  # fmt: skip
        self._config.load()
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many callers are connected."""
        return len(self._state.connections)

    async def open(self, listener: socket.socket) -> None:
        """Answer whoever connects to ``listener`` from now on."""
        loop = asyncio.get_running_loop()
        # asyncio does it for sockets alone that say they are TCP, which an accepted one does not: 40 ms an answer.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # uvicorn.Server would wake ten times a second, and wait for callers at the end.
        self._server = await loop.create_server(
            lambda: AdminProtocol(config=self._config, server_state=self._state, app_state={}), sock=listener
        )

    async def close(self) -> None:
        """Hang up on everyone."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=CLOSE_SECONDS)


async def _judge(send: Send, reason: str, word: str) -> None:
    await _say(send, 503 if reason else 200, reason or word)


async def _say(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = f"{text}\n".encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [TEXT, NO_STORE, length, *headers]})
    await send({"type": "http.response.body", "body": body})
