"""A frontend process: both doors, the decode threads and the slots. It never imports an inference library."""

import asyncio
import contextlib
import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from service.config import Config
from service.errors import ConfigError, StartupError
from service.native.budget import Budget
from service.native.changeover import Changeover
from service.native.child import Control, become_child
from service.native.door_security import DoorSecurity
from service.native.grpc_api import GrpcApi
from service.native.health import Health
from service.native.http_api import HttpApi
from service.native.http_protocol import bounded
from service.native.inference import Inference
from service.native.intake import Intake
from service.native.lane import Lane
from service.native.listen import allow_connections
from service.native.logs import set_up_logging
from service.native.metric_block import Block, Gauge
from service.native.metrics import CERTIFICATE_EXPIRY, Door
from service.native.request_meter import RequestMeter, Told
from service.native.tls import HANDSHAKE_SECONDS
from service.native.trace_settings import traced
from service.native.vitals import BEAT_SECONDS, Readiness, Vitals

if TYPE_CHECKING:
    from service.native.tracing import Tracing

log = logging.getLogger("regnetx.frontend")

CUT_SECONDS = 1  # for the answers to requests that were cut to leave
TURNS_TO_ACCEPT = 3  # of the event loop; each accepts whatever waits


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: when to stop is the supervisor's to say."""

    handshake_seconds = HANDSHAKE_SECONDS

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it for sockets it is given, with a bound for the handshake of TLS: asyncio's is a minute."""
        config, loop = self.config, asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            return config.http_protocol_class(config=config, server_state=self.server_state, app_state={})  # type: ignore[call-arg]

        bound = self.handshake_seconds if config.ssl else None
        self.servers = [
            await loop.create_server(
                connection, sock=listening, ssl=config.ssl, backlog=config.backlog, ssl_handshake_timeout=bound
            )
            for listening in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in all who have been let wait at the door, close it, finish what is in flight.

        The kernel resets connections that wait in the queue of a listening socket when that is closed. So the queue is
        shortened, which leaves newcomers knocking, and emptied right before.
        """
        for listening in sockets or ():
            listening.listen(0)
        for _ in range(TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        await super().shutdown(sockets)


class Frontend:
    """Everything of one frontend process, from the supervisor's order to the last answer."""

    def __init__(self, config: Config, order: dict[str, Any], tracing: "Tracing | None" = None) -> None:
        self._config = config
        native = config.native
        self._block = Block(order["block"], writable=True)
        self._vitals = Vitals(self._block)
        lane = Lane(order, self._block)
        self._changeover = Changeover(lane, self._block, self._use)
        self._health = Health(lane.dispatcher, lane.engines)
        self._inference = Inference(
            lane.classifier,
            service=config.service_name, op=next(iter(config.op)), classes=lane.classes, version=lane.version,
        )  # fmt: skip
        self._told = Told(
            access_log=native.access_log, server_timing=native.server_timing, model_version=native.model_version,
            tracing=tracing,
        )  # fmt: skip
        self._budget = Budget(native.max_buffered_bytes)
        self._security = DoorSecurity(native, os.environ, Gauge(self._block, CERTIFICATE_EXPIRY))
        self._protocol = bounded(
            max_age=native.max_connection_age_ms / 1000,
            read_timeout=native.read_timeout_ms / 1000,
            max_connections=native.max_connections,
        )
        self._http = self._http_server() if order["http"] is not None else None
        self._http_socket = socket.socket(fileno=order["http"]) if order["http"] is not None else None
        self._rpc: str | None = order["rpc"]

    async def run(self, control: Control) -> None:
        """Serve until the supervisor says drain, or is gone. Raises ConfigError if it cannot listen."""
        proof = self._changeover.current.proof_slot()
        grpc_api = await self._open_rpc()
        # What fails in the group ends this process, loudly, and the supervisor starts it again.
        async with asyncio.TaskGroup() as group:
            serve = self._http.serve([self._http_socket]) if self._http and self._http_socket else None
            http = group.create_task(serve) if serve else None
            self._changeover.current.connect(group)
            lives = [group.create_task(self._prove(control, proof))]
            lives.append(group.create_task(self._pulse(grpc_api)))
            lives.extend(group.create_task(renewal) for renewal in self._security.renewals())
            await self._changeover.follow(control, group)
            await self._drain(grpc_api, http)
            for life in lives:
                life.cancel()
            self._changeover.hang_up()

    def _use(self, lane: Lane) -> None:
        """Requests that begin from now on begin in this lane."""
        self._inference.use(lane.classifier, classes=lane.classes, version=lane.version)
        self._health.look_at(lane.dispatcher, lane.engines)

    async def _open_rpc(self) -> GrpcApi | None:
        if self._rpc is None:
            return None
        native = self._config.native
        intake = Intake(
            most_bytes=native.max_buffered_bytes, largest=native.max_body_bytes, seconds=native.read_timeout_ms / 1000
        )
        api = GrpcApi(
            self._inference, RequestMeter(self._block, Door.GRPC, self._told), self._budget, intake,
            max_message_bytes=native.max_body_bytes, max_connections=native.max_connections,
            idle=native.idle_timeout_ms / 1000, max_age=native.max_connection_age_ms / 1000,
            grace=self._config.timeout + CUT_SECONDS, handshake=self._handshake_seconds,
            credentials=self._security.grpc_credentials(), admit=self._security.admit,
        )  # fmt: skip
        try:
            await api.start(self._rpc)
        except RuntimeError:
            raise ConfigError(f"rpc_port: gRPC cannot listen on {self._rpc}") from None
        return api

    async def _pulse(self, grpc_api: GrpcApi | None) -> None:
        """Say that the loop turns and whether we are ready, at every change and twice a second."""
        while True:
            changed = self._health.changed
            changed.clear()
            self._vitals.beat()
            self._vitals.state = state = self._health.state
            if grpc_api:
                await grpc_api.set_serving(state is Readiness.READY)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), BEAT_SECONDS)

    async def _prove(self, control: Control, slot: int) -> None:
        """Send one image the whole way, and say that we are ready."""
        await self._changeover.current.prove(slot)
        self._health.proved = True
        self._health.changed.set()
        self._vitals.beat()
        self._vitals.state = self._health.state
        control.send({"ready": True})

    async def _drain(self, grpc_api: GrpcApi | None, http: "asyncio.Task[None] | None") -> None:
        native = self._config.native
        self._health.draining = True
        self._protocol.is_draining = True
        self._health.changed.set()
        if grpc_api:
            await grpc_api.set_serving(False)
        await asyncio.sleep(native.drain_delay_ms / 1000)
        if self._http and http:
            self._http.should_exit = True
        timeout = native.drain_timeout_ms / 1000
        asyncio.get_running_loop().call_later(timeout, self._changeover.cut)
        waits = [grpc_api.stop(timeout + CUT_SECONDS)] if grpc_api else []
        await asyncio.gather(*waits, *([http] if http else []))

    def _http_server(self) -> HttpServer:
        native = self._config.native
        meter = RequestMeter(self._block, Door.HTTP, self._told)
        api = HttpApi(
            self._inference, self._health, meter, self._budget,
            max_body_bytes=native.max_body_bytes, admit=self._security.admit,
        )  # fmt: skip
        context = self._security.ssl_context
        server = HttpServer(
            uvicorn.Config(
                api, http=self._protocol, ws="none", lifespan="off", log_config=None,
                access_log=False, server_header=False,
                timeout_keep_alive=native.idle_timeout_ms / 1000,  # type: ignore[arg-type]  # it takes fractions
                timeout_graceful_shutdown=math.ceil(native.drain_timeout_ms / 1000) + CUT_SECONDS,
                ssl_context_factory=None if context is None else lambda *_: context,
            )
        )  # fmt: skip
        server.handshake_seconds = self._handshake_seconds
        return server

    @property
    def _handshake_seconds(self) -> float:
        return min(HANDSHAKE_SECONDS, self._config.native.read_timeout_ms / 1000)


def main() -> None:
    """Started by the supervisor."""
    control = become_child()
    order = control.receive()
    config = Config.model_validate_json(order["config"])
    set_up_logging(config.native)
    allow_connections(config.native.max_connections)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        with traced(os.environ) as tracing:
            uvloop.run(Frontend(config, order, tracing).run(control))
    except StartupError as error:
        control.send({"failed": str(error)})
        sys.exit(1)


if __name__ == "__main__":
    main()
