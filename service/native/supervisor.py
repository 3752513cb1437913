"""The supervisor: starts engines and frontends, starts again what dies, drains on SIGTERM. It touches no request."""

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from service.config import Config
from service.native.condition import Condition
from service.native.generation import Generation
from service.native.listen import bind, grpc_address, reserve
from service.native.reload import Reloader, read_model
from service.native.supervised import Child, all_of
from service.native.versions import Versions
from service.native.watchdog import end_the_stuck
from service.startup import early_signals

if TYPE_CHECKING:
    from service.native.admin import AdminDoor

LATE_SECONDS = 5.0  # beyond a frontend's own bound, so that it is the frontend that cuts what is late


class Supervisor:
    """The life of one service, from a checked configuration to exit."""

    def __init__(
        self,
        config: Config,
        asked: Config,
        announce: Callable[[int | None, int | None], None],
        announce_admin: Callable[[int], None],
    ) -> None:
        """``config``: in force; ``asked``: the same before ``auto`` became an engine, which a reload starts from.

        ``announce``: called once with the HTTP and the gRPC port when requests are answered; ``announce_admin``: before
        that, with the port of metrics and health, if they have one. Raises StartupError as a Generation does.
        """
        self._config = config
        self._asked = asked
        self._announce = announce
        self._announce_admin = announce_admin
        self._versions = Versions(Generation(0, *read_model(config)))

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; SIGHUP reloads the model. Raises StartupError where it cannot."""
        self._open_doors()
        frontends = [
            Child("frontend", number, *self._order(self._versions.current)) for number in range(self._config.frontends)
        ]
        reloader = Reloader(self._asked, self._versions, frontends, self._order)
        stop = _heed_signals(reloader.wanted)
        condition = Condition(self._versions, frontends)
        admin = await self._open_admin(condition)
        self._versions.current.start()
        lives = [asyncio.create_task(frontend.run()) for frontend in frontends]
        duties: list[asyncio.Task[None]] = []
        try:
            await self._serve(frontends, lives, reloader, duties, stop)
        finally:
            condition.draining = True
            await self._end(frontends, lives, duties)
            if admin:
                await admin.close()

    async def _serve(
        self, frontends: list[Child], lives: list["asyncio.Task[None]"], reloader: Reloader,
        duties: list["asyncio.Task[None]"], stop: asyncio.Event,
    ) -> None:  # fmt: skip
        """``duties``: what is done meanwhile; when this ends it has been told to end, and may be at that still."""
        stopped = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(self._all_ready(frontends, lives))
        try:
            await _first([stopped, ready])
            if not ready.done():
                return
            ready.result()  # raises why it could not start
            self._announce(self._http_port, self._rpc_port)
            duties.append(asyncio.create_task(reloader.run()))
            duties.append(asyncio.create_task(end_the_stuck(lambda: [*self._versions.all_engines, *frontends])))
            await _first([stopped, *duties, *lives])
        finally:
            for task in (stopped, ready, *duties):
                task.cancel()
            await asyncio.gather(stopped, ready, return_exceptions=True)
        for task in (*duties, *lives):
            if task.done() and not task.cancelled():
                task.result()  # raises what nobody thought of

    async def _all_ready(self, frontends: list[Child], lives: list["asyncio.Task[None]"]) -> None:
        waits = (child.first_ready(life) for child, life in zip(frontends, lives, strict=True))
        await all_of(self._versions.current.ready(), *waits)

    async def _open_admin(self, condition: Condition) -> "AdminDoor | None":
        """Metrics and health, where they are asked for; only then does this process load an HTTP server."""
        if self._admin is None:
            return None
        from service.native.admin import AdminDoor

        door = AdminDoor(self._config, self._versions, condition)
        await door.open(self._admin)
        self._announce_admin(self._admin.getsockname()[1])
        return door

    async def _end(
        self, frontends: list[Child], lives: list["asyncio.Task[None]"], duties: list["asyncio.Task[None]"]
    ) -> None:
        native = self._config.native
        grace = (native.drain_delay_ms + native.drain_timeout_ms) / 1000
        if self._http:
            self._http.close()  # ours: the frontends close theirs, and then new connections are refused, not forgotten
        for frontend in frontends:
            frontend.say({"drain": True})
            if not frontend.was_ready:
                frontend.kill()  # it loads, or has no engine for those who have asked already
        await asyncio.gather(*(frontend.stop(grace + LATE_SECONDS) for frontend in frontends))
        await asyncio.gather(*duties, return_exceptions=True)  # a reload takes back what it has begun
        await self._versions.stop()
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    def _open_doors(self) -> None:
        """The sockets that all frontends share, so that one that is started again listens where the others do."""
        config = self._config
        self._http = bind(config.native.host, config.http_port, "http_port") if config.http_port is not None else None
        self._rpc = reserve(config.native.host, config.rpc_port, "rpc_port") if config.rpc_port is not None else None
        self._http_port = self._http.getsockname()[1] if self._http else None
        self._rpc_port = self._rpc.getsockname()[1] if self._rpc else None
        port, host = config.admin_port, config.admin_host
        self._admin = bind(host, port, "dag.prometheus_port", "native.admin_host") if port is not None else None

    def _order(self, generation: Generation) -> tuple[dict[str, Any], tuple[int, ...]]:
        """What a frontend is told that begins with this generation, and the descriptors that it inherits."""
        facts, *blocks = generation.descriptors
        doors = {
            "http": self._http.fileno() if self._http else None,
            "rpc": grpc_address(self._rpc) if self._rpc else None,
        }
        inherited = (*generation.descriptors, *([self._http.fileno()] if self._http else []))
        return {**generation.order, **doors, "model": facts, "engine_blocks": blocks}, inherited


def _heed_signals(reload: asyncio.Event) -> asyncio.Event:
    """Set when SIGTERM or SIGINT says stop. SIGHUP sets ``reload``, unless it says that our terminal has gone."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    early = early_signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: (stop if early.terminal_has_gone() else reload).set())
    if early.reload_asked:
        reload.set()
    return stop


async def _first(awaited: "list[asyncio.Task[Any]]") -> None:
    """Until one of them is done."""
    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
