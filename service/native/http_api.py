"""The HTTP door, an ASGI application: Paddle Serving's gateway route, and health.

``/healthz`` and ``/readyz`` are one segment, where the stock gateway has nothing, so no stock route is hidden.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from service.contract import gateway
from service.contract.answers import error_answer, render
from service.contract.caller_timeout import timeout_of_http
from service.contract.gateway import Answer, Route
from service.contract.top_k import top_k_of_http
from service.contract.upload import read_body
from service.errors import (
    DeadlineExceededError,
    DrainingError,
    MalformedRequestError,
    OverloadedError,
    RequestTooLargeError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from service.native.budget import Budget, Share
from service.native.health import Health
from service.native.http_protocol import ENDED
from service.native.inference import LARGE_REQUEST_BYTES, Inference
from service.native.metrics import Outcome
from service.native.refusal import Refusals, authorizations, with_offer
from service.native.request_meter import Exchange, RequestMeter
from service.native.vitals import Readiness

log = logging.getLogger("regnetx.http")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DISCARD_SECONDS = 0.5
DISCARD_CHUNKS = 256  # of 64 KiB
HEALTH_HEADERS = ((b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"))


class CallerLeft(Exception):
    """The connection ended before the request did."""


class HttpApi:
    """One request in, one answer out; whatever goes wrong becomes the answer that the contract has for it."""

    def __init__(
        self,
        inference: Inference,
        health: Health,
        meter: RequestMeter,
        budget: Budget,
        *,
        max_body_bytes: int,
        admit: Callable[[Sequence[str]], str] = lambda _: "",
    ) -> None:
        """``admit``: the values of ``Authorization`` -> the caller's name; raises UnauthenticatedError."""
        self._inference = inference
        self._health = health
        self._meter = meter
        self._budget = budget
        self._max_body_bytes = max_body_bytes
        self._admit = admit
        self.refusal = Refusals(inference, meter, admit).by_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        answer = self._health_of(scope)
        if answer is not None:
            await _send(answer, scope, send)
            return
        with self._meter.request() as exchange:
            exchange.identify(_request_id(scope), (scope.get("client") or ("",))[0])
            if (tracing := self._meter.told.tracing) is not None:
                exchange.follow(tracing.of_http(scope, exchange.began))
            answer = await self._answer_of(scope, receive, exchange)
            if answer is not None:
                exchange.status = answer.status
                await _send(_about(with_offer(answer, scope["method"], scope["headers"]), exchange), scope, send)

    async def _answer_of(self, scope: Scope, receive: Receive, exchange: Exchange) -> Answer | None:
        """The answer, whatever happens; None where nobody is there to hear one."""
        try:
            return await self._answer(scope, receive, exchange)
        except CallerLeft:
            exchange.outcome = Outcome.CALLER_LEFT
            if told := scope.get("extensions"):  # it is the connection that has ended, and has said why
                exchange.status = told[ENDED]["status"]
                exchange.refused(exchange.status)
            return None
        # No error outlives its block: with its traceback and this frame it would hold the body until a collection.
        except asyncio.CancelledError:
            exchange.failed(DrainingError())  # the body was still on its way when draining had to end
            return error_answer(DrainingError(), 0, "")
        except ServiceError as refusal:
            exchange.failed(refusal)
            return gateway.failure(refusal)
        except Exception as unexpected:
            log.exception("a request failed in a way that nobody thought of")
            exchange.failed(unexpected)
            return gateway.failure(unexpected)

    def _health_of(self, scope: Scope) -> Answer | None:
        if scope["path"] not in ("/healthz", "/readyz") or scope["method"] not in ("GET", "HEAD"):
            return None
        if scope["path"] == "/healthz":
            return Answer(200, HEALTH_HEADERS, b"ok\n")
        state = self._health.state
        return Answer(200 if state is Readiness.READY else 503, HEALTH_HEADERS, f"{state.words}\n".encode())

    async def _answer(self, scope: Scope, receive: Receive, exchange: Exchange) -> Answer:
        arrived = time.monotonic()
        await self._admit_caller(scope, receive, exchange)
        route = gateway.route(scope["method"], _target(scope))
        if isinstance(route, Answer):
            exchange.refused(route.status)
            return route
        exchange.is_routed = True
        headers = dict(scope["headers"])
        with self._budget.share() as share:
            try:
                timeout = timeout_of_http(headers)
                deadline = None if timeout is None else arrived + timeout
                self._inference.check_room(timeout)
                async with _until(deadline):
                    body = await self._body(headers, receive, share)
            except (MalformedRequestError, RequestTooLargeError, OverloadedError, UnavailableError):
                if b"expect" not in headers:
                    await _discard(receive)
                raise
            with _while_connected(receive):
                return await self._infer(route, headers, body, exchange, deadline)

    async def _admit_caller(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        """Raises UnauthenticatedError, before anything of the body is kept."""
        headers = scope["headers"]
        try:
            exchange.caller = self._admit(authorizations(headers))
        except UnauthenticatedError:
            if all(name != b"expect" for name, _ in headers):
                await _discard(receive)
            raise

    async def _infer(
        self, route: Route, headers: dict[bytes, bytes], body: bytes, exchange: Exchange, deadline: float | None
    ) -> Answer:
        top_k = top_k_of_http(route.query, headers.get(b"x-top-k"), self._inference.classes)
        large = len(body) > LARGE_REQUEST_BYTES
        request = await asyncio.to_thread(read_body, body, route, headers) if large else read_body(body, route, headers)
        exchange.has_been_read(len(body))
        response = await self._inference.answer(request, exchange, top_k=top_k, deadline=deadline, large=large)
        exchange.err_no = response.err_no
        return gateway.success(render(response))

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, share: Share) -> bytes:
        """The whole body. Raises RequestTooLargeError or OverloadedError as soon as it is known to be too much."""
        length = headers.get(b"content-length", b"0")
        self._check_size(int(length) if length.isdigit() else 0, share)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft
            chunk = message.get("body", b"")
            size += len(chunk)
            self._check_size(size, share)
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks) if len(chunks) > 1 else chunks[0]

    def _check_size(self, size: int, share: Share) -> None:
        if size > self._max_body_bytes:
            raise RequestTooLargeError(f"a body of {size} bytes or more, at most {self._max_body_bytes} accepted")
        share.grow_to(size)


@contextlib.asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[None]:
    """``deadline``: the caller's, in seconds of the monotonic clock. Raises DeadlineExceededError when it passes."""
    if deadline is None:
        yield
        return
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlineExceededError("context deadline exceeded") from None


@contextlib.contextmanager
def _while_connected(receive: Receive) -> Iterator[None]:
    """Cancels what the current task waits for when the caller hangs up, and raises CallerLeft in its place."""
    left = False

    def leave(gone: "asyncio.Task[Message]") -> None:
        nonlocal left
        left = not gone.cancelled() and gone.exception() is None and gone.result()["type"] == "http.disconnect"
        if left and request:
            request.cancel()

    request = asyncio.current_task()
    watch = asyncio.ensure_future(receive())
    watch.add_done_callback(leave)
    try:
        yield
    except asyncio.CancelledError:
        if left:
            raise CallerLeft from None
        raise
    finally:
        watch.remove_done_callback(leave)
        watch.cancel()


async def _discard(receive: Receive) -> None:
    """Read on for a moment: closing a connection with unread bytes would take the answer away from its reader."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            for _ in range(DISCARD_CHUNKS):
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


def _target(scope: Scope) -> bytes:
    path: bytes = scope["raw_path"]
    return path + b"?" + scope["query_string"] if scope["query_string"] else path


def _request_id(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)


def _about(answer: Answer, exchange: Exchange) -> Answer:
    """The answer with the id, the times and the model's version of its request, where there are any to tell."""
    told = (
        ("x-request-id", exchange.request_id),
        ("server-timing", exchange.server_timing),
        ("x-model-version", exchange.told_version),
        ("traceparent", exchange.trace.traceparent if exchange.trace else None),
    )
    headers = [(name.encode(), value.encode()) for name, value in told if value is not None]
    return replace(answer, headers=(*answer.headers, *headers)) if headers else answer


async def _send(answer: Answer, scope: Scope, send: Send) -> None:
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
    if answer.status in (401, 413):
        # The rest of the body is still on its way; it is not worth reading.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
