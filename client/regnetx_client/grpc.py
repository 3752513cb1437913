"""Images -> predictions over gRPC: ``GrpcClient`` and ``AsyncGrpcClient``; the only file that imports grpc."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from regnetx_client.deadline import Deadline, Default, Policy, Timeout, seconds
from regnetx_client.errors import ConnectionFailed, DeadlineExceeded, Unavailable
from regnetx_client.grpc_errors import translate
from regnetx_client.images import ImageLike
from regnetx_client.predictions import Prediction
from regnetx_client.protocol import (
    MOST_ANSWER_BYTES,
    TOP_K,
    Answer,
    Question,
    predictions_from,
    question_for,
)
from regnetx_client.retry import retried, retried_async

try:
    import grpc

    from regnetx_client.wire import pipeline_service_pb2 as wire
except ImportError as missing:
    raise ImportError(f"gRPC needs the extra 'grpc': pip install 'regnetx-client[grpc]' ({missing})") from missing

_INFERENCE = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
_HEALTH = "/grpc.health.v1.Health/Check"
# HealthCheckResponse{status: SERVING}; the request, {service: ""}, has no bytes at all.
_SERVING = b"\x08\x01"
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MOST_ANSWER_BYTES),
    # The defaults, 1 s and 120 s, would refuse calls long after the server has come back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_FOREVER = 2**31 - 1  # milliseconds


class GrpcClient:
    """Asks one server over gRPC: ``Client`` with an address, ``host:port``, in place of a URL.

    One connection carries all calls and may be shared by threads. ``timeout`` is the call's gRPC deadline.
    ``credentials`` (grpc.ChannelCredentials) switch TLS on; ``metadata`` goes with every call.
    """

    def __init__(
        self,
        address: str,
        *,
        service: str = "regnet",
        method: str = "prediction",
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retries: int = 0,
        metadata: Mapping[str, str] | None = None,
        credentials: Any = None,
    ) -> None:
        self._address = _checked(address)
        self._service, self._method = service, method
        self._policy = Policy(timeout, retries)
        self._metadata = tuple((metadata or {}).items())
        self._channel: Any = _channel(grpc, address, credentials, seconds(connect_timeout, "connect_timeout"))
        self._infer = _stub(self._channel)
        self._closed = False

    def classify(self, image: ImageLike, top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT) -> list[Prediction]:
        """As ``Client.classify``."""
        return self.classify_batch([image], top_k, timeout=timeout)[0]

    def classify_batch(
        self, images: Iterable[ImageLike], top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT
    ) -> list[list[Prediction]]:
        """As ``Client.classify_batch``."""
        question = question_for(images, top_k)
        if not question.keys:
            return []
        request = _request(question, self._service, self._method)
        deadline = self._policy.deadline(timeout)
        metadata = (*self._metadata, (TOP_K, str(top_k)))
        response = retried(lambda: self._call(self._infer, request, metadata, deadline), self._policy, deadline)
        return predictions_from(_answer(response), question)

    def is_ready(self) -> bool:
        """Whether the server's health service says SERVING; raises BadRequest where it has none."""
        deadline = self._policy.deadline(Default.TIMEOUT)
        try:
            return bool(self._call(self._channel.unary_unary(_HEALTH), b"", self._metadata, deadline) == _SERVING)
        except (ConnectionFailed, DeadlineExceeded, Unavailable):
            return False

    def close(self) -> None:
        """Closes the connection; a closed client raises RuntimeError."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, stub: Any, request: Any, metadata: Any, deadline: Deadline) -> Any:
        if self._closed:
            raise RuntimeError("the client has been closed")
        try:
            return stub(request, timeout=deadline.remaining(), metadata=metadata)
        except grpc.RpcError as error:
            raise translate(error, self._address, deadline) from error


class AsyncGrpcClient:
    """``GrpcClient`` for asyncio, bound to the event loop of its first call."""

    def __init__(
        self,
        address: str,
        *,
        service: str = "regnet",
        method: str = "prediction",
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retries: int = 0,
        metadata: Mapping[str, str] | None = None,
        credentials: Any = None,
    ) -> None:
        self._address = _checked(address)
        self._service, self._method = service, method
        self._policy = Policy(timeout, retries)
        self._metadata = tuple((metadata or {}).items())
        self._credentials = credentials
        self._connect = seconds(connect_timeout, "connect_timeout")
        self._open_channel: Any = None
        self._closed = False

    async def classify(
        self, image: ImageLike, top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT
    ) -> list[Prediction]:
        """As ``AsyncClient.classify``."""
        return (await self.classify_batch([image], top_k, timeout=timeout))[0]

    async def classify_batch(
        self, images: Iterable[ImageLike], top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT
    ) -> list[list[Prediction]]:
        """As ``AsyncClient.classify_batch``."""
        question = await asyncio.to_thread(question_for, images, top_k)
        if not question.keys:
            return []
        request = _request(question, self._service, self._method)
        deadline = self._policy.deadline(timeout)
        metadata = (*self._metadata, (TOP_K, str(top_k)))
        stub = _stub(self._channel())
        response = await retried_async(lambda: self._call(stub, request, metadata, deadline), self._policy, deadline)
        return predictions_from(_answer(response), question)

    async def is_ready(self) -> bool:
        """As ``GrpcClient.is_ready``."""
        deadline = self._policy.deadline(Default.TIMEOUT)
        stub = self._channel().unary_unary(_HEALTH)
        try:
            return bool(await self._call(stub, b"", self._metadata, deadline) == _SERVING)
        except (ConnectionFailed, DeadlineExceeded, Unavailable):
            return False

    async def close(self) -> None:
        """As ``GrpcClient.close``."""
        self._closed = True
        if self._open_channel is not None:
            await self._open_channel.close()

    async def __aenter__(self) -> AsyncGrpcClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _channel(self) -> Any:
        """The one channel; opened late because grpc.aio binds it to the running loop."""
        if self._closed:
            raise RuntimeError("the client has been closed")
        if self._open_channel is None:
            self._open_channel = _channel(grpc.aio, self._address, self._credentials, self._connect)
        return self._open_channel

    async def _call(self, stub: Any, request: Any, metadata: Any, deadline: Deadline) -> Any:
        try:
            return await stub(request, timeout=deadline.remaining(), metadata=metadata)
        except grpc.RpcError as error:
            raise translate(error, self._address, deadline) from error


def _checked(address: str) -> str:
    if not address or "://" in address:
        raise ValueError(f"address {address!r} is not like localhost:9993")
    return address


def _channel(library: Any, address: str, credentials: Any, connect: float | None) -> Any:
    # This option's name hides that it is also how long an attempt to connect may last.
    limit = _FOREVER if connect is None else min(math.ceil(connect * 1000), _FOREVER)
    options = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", limit))
    if credentials is None:
        return library.insecure_channel(address, options=options)
    return library.secure_channel(address, credentials, options=options)


def _stub(channel: Any) -> Any:
    return channel.unary_unary(
        _INFERENCE, request_serializer=wire.Request.SerializeToString, response_deserializer=wire.Response.FromString
    )


def _request(question: Question, service: str, method: str) -> wire.Request:
    return wire.Request(key=question.keys, value=question.values, name=service, method=method)


def _answer(response: wire.Response) -> Answer:
    return Answer(response.err_no, response.err_msg, dict(zip(response.key, response.value)))
