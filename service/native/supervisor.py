"""The supervisor: starts engines and frontends, starts again what dies, drains on SIGTERM. It touches no request."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from service.config import Config
from service.errors import StartupError
from service.native.child import Control, control_pair
from service.native.listen import bind, engine_listener, grpc_address, reserve

log = logging.getLogger("regnetx.supervisor")

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 10.0
STABLE_SECONDS = 30.0  # a child that lived this long starts again without backoff
STOP_SECONDS = 5.0  # for an engine to leave once nothing is in flight


class Child:
    """One supervised process: kept running until ``stopping``, with growing pauses if it keeps dying."""

    def __init__(self, module: str, name: str, order: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        """``order``: its first message; ``descriptors``: what it inherits beside its control connection."""
        self.name = name
        self.ready = asyncio.Event()
        self.failure: str | None = None
        self.stopping = False
        self._module = module
        self._order = order
        self._descriptors = descriptors
        self._control: Control | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Start the process, and again whenever it ends. Raises StartupError if it never gets ready."""
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_SECONDS
        was_ready = False
        while not self.stopping:
            started = loop.time()
            code = await self._run_once()
            was_ready = was_ready or self.ready.is_set()
            self.ready.clear()
            if self.stopping:
                return
            if not was_ready:
                raise StartupError(self.failure or f"{self.name} {_how_it_ended(code)} before it was ready")
            backoff = FIRST_BACKOFF_SECONDS if loop.time() - started > STABLE_SECONDS else backoff
            why = f" ({self.failure})" if self.failure else ""
            log.error("%s %s%s; starting it again in %.1f s", self.name, _how_it_ended(code), why, backoff)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    def say(self, message: dict[str, Any]) -> None:
        """Send the child a message, if it is there."""
        if self._control is not None:
            self._control.send(message)

    async def stop(self, grace: float) -> None:
        """Let it end within ``grace`` seconds, then end it."""
        self.stopping = True
        process = self._process
        if process is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace)
        if process.returncode is None:
            log.error("%s did not end within %.0f s and was killed", self.name, grace)
            process.kill()
            await process.wait()

    def hang_up(self) -> None:
        """End the control connection: for an engine, the order to stop."""
        self.stopping = True
        if self._control is not None:
            self._control.close()
            self._control = None

    async def _run_once(self) -> int:
        self.failure = None
        control, theirs = control_pair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", self._module, str(theirs.fileno()), str(os.getpid()),
                    pass_fds=(theirs.fileno(), *self._descriptors), stdin=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            except OSError as error:  # no memory or no process to be had: later, perhaps
                control.close()
                self.failure = f"{self.name} cannot be started: {error.strerror}"
                return os.EX_OSERR
        self._control = control
        control.send(self._order)
        loop = asyncio.get_running_loop()
        loop.add_reader(control, self._hear, control)
        try:
            return await self._process.wait()
        finally:
            if control.fileno() >= 0:
                loop.remove_reader(control)
                control.close()
            self._control = None

    def _hear(self, control: Control) -> None:
        try:
            message = control.receive()
        except EOFError:
            asyncio.get_running_loop().remove_reader(control)
            return
        self.failure = message.get("failed", self.failure)
        if message.get("ready"):
            self.ready.set()


class Supervisor:
    """The life of one service, from a checked configuration to exit."""

    def __init__(self, config: Config, announce: Callable[[int | None, int | None], None]) -> None:
        """``announce``: called once with the HTTP and the gRPC port when requests are answered."""
        self._config = config
        self._announce = announce

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises StartupError if it cannot start."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        engines, frontends = self._children()
        lives = [asyncio.create_task(child.run()) for child in (*engines, *frontends)]
        try:
            await self._serve(lives, [*engines, *frontends], stop)
        finally:
            await self._end(engines, frontends, lives)

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
            Child(
                "service.native.engine_process", f"engine {instance}",
                {**order, "instance": instance, "listener": listener.fileno()}, (listener.fileno(),),
            )
            for instance, listener in enumerate(listeners)
        ]  # fmt: skip
        self._listeners = listeners  # kept open: frontends that wait for a restarted engine wait in its backlog
        self._http = bind(config.native.host, config.http_port, "http_port") if config.http_port is not None else None
        self._rpc = reserve(config.native.host, config.rpc_port, "rpc_port") if config.rpc_port is not None else None
        self._http_port = self._http.getsockname()[1] if self._http else None
        self._rpc_port = self._rpc.getsockname()[1] if self._rpc else None
        doors = {
            "engines": [listener.getsockname().hex() for listener in listeners],
            "http": self._http.fileno() if self._http else None,
            "rpc": grpc_address(self._rpc) if self._rpc else None,
        }
        inherited = (self._http.fileno(),) if self._http else ()
        frontends = [
            Child("service.native.frontend", f"frontend {number}", {**order, **doors}, inherited)
            for number in range(config.frontends)
        ]
        return engines, frontends


async def _all_ready(children: list[Child]) -> None:
    for child in children:
        await child.ready.wait()


async def _first(awaited: "list[asyncio.Future[Any]]") -> None:
    """Until one of them is done."""
    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    known = {number.value: number.name for number in signal.Signals}  # a real-time signal has no name
    return f"was ended by {known.get(-code, f'signal {-code}')}"
