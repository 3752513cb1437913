"""The supervisor: starts engines and frontends, starts again what dies, drains on SIGTERM. It touches no request."""

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from service.config import Config
from service.native.condition import Condition
from service.native.listen import bind, engine_listener, grpc_address, reserve
from service.native.supervised import Child
from service.ops.model import Model

if TYPE_CHECKING:
    from service.native.admin import AdminDoor

STOP_SECONDS = 5.0  # for an engine to leave once nothing is in flight


class Supervisor:
    """The life of one service, from a checked configuration to exit."""

    def __init__(
        self,
        config: Config,
        model: Model,
        announce: Callable[[int | None, int | None], None],
        announce_admin: Callable[[int], None],
    ) -> None:
        """``announce``: called once with the HTTP and the gRPC port when requests are answered; ``announce_admin``:
        before that, with the port of metrics and health, if they have one."""
        self._config = config
        self._model = model
        self._announce = announce
        self._announce_admin = announce_admin

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises StartupError if it cannot start."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        engines, frontends = self._children()
        condition = Condition(engines, frontends)
        admin = await self._open_admin(condition)
        lives = [asyncio.create_task(child.run()) for child in (*engines, *frontends)]
        try:
            await self._serve(lives, [*engines, *frontends], stop)
        finally:
            condition.draining = True
            await self._end(engines, frontends, lives)
            if admin:
                await admin.close()

    async def _serve(self, lives: list["asyncio.Task[None]"], children: list[Child], stop: asyncio.Event) -> None:
        stopped = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(_all_ready(children))
        try:
            await _first([stopped, ready, *lives])
            if ready.done():
                self._announce(self._http_port, self._rpc_port)
                await _first([stopped, *lives])
        finally:
            stopped.cancel()
            ready.cancel()
        for life in lives:
            if life.done():
                life.result()  # raises why it could not start

    async def _open_admin(self, condition: Condition) -> "AdminDoor | None":
        """Metrics and health, where they are asked for; only then does this process load an HTTP server."""
        if self._admin is None:
            return None
        from service.native.admin import AdminDoor

        door = AdminDoor(self._config, self._model, condition)
        await door.open(self._admin)
        self._announce_admin(self._admin.getsockname()[1])
        return door

    async def _end(self, engines: list[Child], frontends: list[Child], lives: list["asyncio.Task[None]"]) -> None:
        native = self._config.native
        grace = (native.drain_delay_ms + native.drain_timeout_ms) / 1000
        if self._http:
            self._http.close()  # ours: the frontends close theirs, and then new connections are refused, not forgotten
        for frontend in frontends:
            frontend.say({"drain": True})
        # A little more than a frontend's own bound, so that it is the frontend that cuts what is late.
        await asyncio.gather(*(frontend.stop(grace + STOP_SECONDS) for frontend in frontends))
        for engine in engines:
            engine.hang_up()
        await asyncio.gather(*(engine.stop(STOP_SECONDS) for engine in engines))
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    def _children(self) -> tuple[list[Child], list[Child]]:
        """One engine process an instance, one frontend process a worker, with the sockets they listen on."""
        config = self._config
        order = {"config": config.model_dump_json(by_alias=True)}
        listeners = [engine_listener() for _ in range(config.regnet.concurrency)]
        engines = [
            Child("engine", instance, {**order, "instance": instance, "listener": fd}, (fd,))
            for instance, fd in enumerate(listener.fileno() for listener in listeners)
        ]
        self._listeners = listeners  # kept open: frontends that wait for a restarted engine wait in its backlog
        self._http = bind(config.native.host, config.http_port, "http_port") if config.http_port is not None else None
        self._rpc = reserve(config.native.host, config.rpc_port, "rpc_port") if config.rpc_port is not None else None
        self._http_port = self._http.getsockname()[1] if self._http else None
        self._rpc_port = self._rpc.getsockname()[1] if self._rpc else None
        port, host = config.admin_port, config.admin_host
        self._admin = bind(host, port, "dag.prometheus_port", "native.admin_host") if port is not None else None
        blocks = [engine.block.descriptor for engine in engines]
        doors = {
            "engine_blocks": blocks,
            "engines": [listener.getsockname().hex() for listener in listeners],
            "http": self._http.fileno() if self._http else None,
            "rpc": grpc_address(self._rpc) if self._rpc else None,
        }
        inherited = (*blocks, self._http.fileno()) if self._http else tuple(blocks)
        frontends = [Child("frontend", number, {**order, **doors}, inherited) for number in range(config.frontends)]
        return engines, frontends


async def _all_ready(children: list[Child]) -> None:
    for child in children:
        await child.ready.wait()


async def _first(awaited: "list[asyncio.Future[Any]]") -> None:
    """Until one of them is done."""
    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
