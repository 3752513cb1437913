"""The gRPC door: Paddle Serving's PipelineService, the standard health service, and reflection."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.contract.answers import to_message
from service.contract.gateway import status_of
from service.contract.message import parse_message
from service.contract.top_k import top_k_of
from service.errors import GrpcCode, MalformedRequestError, OverloadedError, ServiceError, UnavailableError
from service.native.budget import Budget, Share
from service.native.grpc_health import GrpcHealth, keep_garbage_out_of_the_log
from service.native.inference import LARGE_REQUEST_BYTES, Inference
from service.native.intake import Intake
from service.native.metrics import Outcome
from service.native.request_meter import Exchange, RequestMeter

SERVICE = wire.DESCRIPTOR.services_by_name["PipelineService"].full_name
METHOD = f"/{SERVICE}/inference"
STATUS_OF_CODE = {status.value[0]: status for status in grpc.StatusCode}
RETRY_AFTER = (("retry-after", "1"),)  # seconds, as the HTTP header says it
ACCEPTS_BYTES = (("x-accepts-bytes", "1"),)  # to callers that use what stock has not: files need not be base64
SETTLE_SECONDS = 0.2  # for an answer that has left its handler to leave the process
MOST_METADATA_BYTES = 16 << 10
# Of calls that wait to be looked at. The library's own limit is 1000: beyond that it ends some with CANCELLED and no
# reason. What they hold is small, for their messages are read later.
MOST_PENDING = 1 << 20
OPTIONS = [
    ("grpc.so_reuseport", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", MOST_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MOST_METADATA_BYTES),
    ("grpc.server.max_pending_requests", MOST_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
]


class GrpcApi:
    """One gRPC server on one address; health follows what ``set_serving`` was told last."""

    def __init__(
        self,
        inference: Inference,
        meter: RequestMeter,
        budget: Budget,
        intake: Intake,
        *,
        max_message_bytes: int,
        max_connections: int,
        idle: float,
        max_age: float,
        grace: float,
        handshake: float = 10.0,
        credentials: Any = None,
        admit: Callable[[Sequence[str]], str] = lambda _: "",
    ) -> None:
        """``max_connections``: one more is closed; ``idle``: seconds of silence after which a connection is pinged;
        ``max_age``: seconds until it is told to go, 0 for never; ``grace``: seconds for its calls then; ``handshake``:
        seconds for TLS and HTTP/2 to begin; ``credentials``: of TLS; ``admit``: the values of ``authorization`` -> the
        caller's name, or raises UnauthenticatedError."""
        self._inference = inference
        self._meter = meter
        self._budget = budget
        self._intake = intake
        self._health = GrpcHealth()
        self._credentials = credentials
        self._serving: bool | None = None
        self._telling = asyncio.Lock()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        options = [
            *OPTIONS,
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_allowed_incoming_connections", max_connections),
            # A peer that has vanished is noticed by pings. An idle connection is not ended: a call that has just been
            # sent over it could be lost.
            ("grpc.keepalive_time_ms", round(idle * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.server_handshake_timeout_ms", round(handshake * 1000)),
        ]
        if max_age:
            options.append(("grpc.max_connection_age_ms", round(max_age * 1000)))
            options.append(("grpc.max_connection_age_grace_ms", round(grace * 1000)))
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Door(admit, inference.check_room, self._counted, self._refused),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        keep_garbage_out_of_the_log()
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, address: str) -> None:
        """Listen on ``address``; not serving until ``set_serving`` says so."""
        await self.set_serving(False)
        if self._credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, self._credentials)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """What Check answers and Watch tells, for the server and for the pipeline service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        async with self._telling:
            if serving is not self._serving:
                self._serving = serving
                for service in ("", SERVICE):
                    await self._health.set(service, status)

    async def stop(self, grace: float) -> None:
        """No new calls; those in flight have ``grace`` seconds. Watchers of health never end: nobody waits for them."""
        stopping = asyncio.create_task(self._server.stop(grace))
        idle = asyncio.create_task(self._until_idle())
        await asyncio.wait([stopping, idle], return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await self._server.stop(None)
        await stopping

    async def _until_idle(self) -> None:
        while True:
            await self._idle.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            if self._idle.is_set():
                return

    async def _refused(self, error: ServiceError, caller: str, _messages: Any, context: Any) -> wire.Response:
        """A call that shows no token that is accepted, or cannot be taken now."""
        with self._meter.request() as exchange:
            self._identify(exchange, context)
            exchange.caller = caller
            exchange.failed(error)
            code, message = status_of(error)
            exchange.status = int(code)
            context.set_trailing_metadata((*_offer(_metadata(context, "x-top-k"), exchange), *_retry_after(error)))
            await context.abort(STATUS_OF_CODE[int(code)], message)
        raise AssertionError("abort has raised already")

    async def _counted(self, caller: str, _messages: Any, context: Any) -> wire.Response:
        self._in_flight += 1
        self._idle.clear()
        try:
            with self._meter.request() as exchange, self._budget.share() as share:
                exchange.caller = caller
                return await self._infer(context, exchange, share)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def _infer(self, context: Any, exchange: Exchange, share: Share) -> wire.Response:
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        asked = _metadata(context, "x-top-k")
        self._identify(exchange, context)
        offer = _offer(asked, exchange)
        context.set_trailing_metadata(offer)
        try:
            response = await self._answer(await self._message(context, share), exchange, asked, deadline)
            exchange.status = 0
            told = (("server-timing", exchange.server_timing), ("x-model-version", exchange.told_version))
            if any(value for _, value in told):
                context.set_trailing_metadata((*offer, *((name, value) for name, value in told if value)))
            return response
        except DecodeError:
            exchange.outcome, exchange.status = Outcome.BAD_REQUEST, int(GrpcCode.INTERNAL)
            why = grpc.StatusCode.INTERNAL, "Exception deserializing request!"
        except asyncio.CancelledError:
            is_late = deadline is not None and deadline <= time.monotonic()
            exchange.outcome = Outcome.DEADLINE_EXCEEDED if is_late else Outcome.CALLER_LEFT
            exchange.status = int(GrpcCode.DEADLINE_EXCEEDED if is_late else GrpcCode.CANCELLED)
            raise
        except ServiceError as error:
            exchange.failed(error)
            exchange.status = 0 if error.err_no is not None else int(error.grpc_code)
            if error.err_no is not None:
                return to_message(self._inference.refusal(error))
            context.set_trailing_metadata((*offer, *_retry_after(error)))
            code, message = status_of(error)
            why = STATUS_OF_CODE[int(code)], message
        # Not where the error is in hand: what ``abort`` raises would hold it, and with it the message of the call
        await context.abort(*why)
        raise AssertionError("abort has raised already")

    async def _message(self, context: Any, share: Share) -> bytes:
        packet = await self._intake.whole(context.read)
        if packet is grpc.aio.EOF:
            raise MalformedRequestError("the call has no message")
        share.grow_to(len(packet))
        return packet

    def _identify(self, exchange: Exchange, context: Any) -> None:
        """Whose call it is, and of which trace."""
        exchange.identify(_metadata(context, "x-request-id"), context.peer())
        if (tracing := self._meter.told.tracing) is not None:
            metadata = context.invocation_metadata() or ()
            exchange.follow(tracing.of_grpc(METHOD, context.peer(), metadata, exchange.began))

    async def _answer(
        self, packet: bytes, exchange: Exchange, asked: str | None, deadline: float | None
    ) -> wire.Response:
        large = len(packet) > LARGE_REQUEST_BYTES
        request = await asyncio.to_thread(parse_message, packet) if large else parse_message(packet)
        exchange.has_been_read(len(packet))
        top_k = top_k_of(asked, self._inference.classes)
        response = await self._inference.answer(request, exchange, top_k=top_k, deadline=deadline, large=large)
        exchange.err_no = response.err_no
        return to_message(response)


class _Door(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The one method, as a stream of which the first message is read: only so can it be answered before that is."""

    def __init__(
        self,
        admit: Callable[[Sequence[str]], str],
        check_room: Callable[[], None],
        serve: Callable[..., Any],
        refuse: Callable[..., Any],
    ):
        self._admit, self._check_room, self._serve, self._refuse = admit, check_room, serve, refuse

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call that has begun; None: this is not for us."""
        if handler_call_details.method != METHOD:
            return None
        metadata = handler_call_details.invocation_metadata or ()
        caller = ""
        try:
            caller = self._admit([str(value) for name, value in metadata if name == "authorization"])
            self._check_room()
        except ServiceError as error:
            return grpc.stream_unary_rpc_method_handler(partial(self._refuse, error, caller))
        # The message is read by the handler, so that it is read when there is memory for it, and parsed there, so that
        # garbage gets stock's own answer.
        return grpc.stream_unary_rpc_method_handler(
            partial(self._serve, caller), response_serializer=wire.Response.SerializeToString
        )


def _retry_after(error: ServiceError) -> tuple[tuple[str, str], ...]:
    return RETRY_AFTER if isinstance(error, OverloadedError | UnavailableError) else ()


def _offer(asked: str | None, exchange: Exchange) -> tuple[tuple[str, str], ...]:
    """Trailing metadata for callers that use what stock has not, and the id and the trace of the request."""
    own = () if exchange.request_id is None else (("x-request-id", exchange.request_id),)
    if exchange.trace is not None and exchange.trace.traceparent is not None:
        own = (*own, ("traceparent", exchange.trace.traceparent))
    return own if asked is None else (*ACCEPTS_BYTES, *own)


def _metadata(context: Any, key: str) -> str | None:
    return next((value for name, value in context.invocation_metadata() or () if name == key), None)
