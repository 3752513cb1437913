"""Images -> predictions over gRPC: ``GrpcClient`` and ``AsyncGrpcClient``; the only file that imports grpc."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from regnetx_client.addresses import Addresses, Target, target_of
from regnetx_client.deadline import Deadline, Default, Timeout, seconds
from regnetx_client.errors import ConnectionFailed, DeadlineExceeded, RegnetError, Unavailable
from regnetx_client.failover import Failover
from regnetx_client.grpc_errors import translate
from regnetx_client.images import ImageLike
from regnetx_client.npy import npy
from regnetx_client.predictions import Prediction
from regnetx_client.protocol import (
    MOST_ANSWER_BYTES,
    TOP_K,
    Answer,
    Question,
    check_size,
    predictions_from,
    question_for,
)
from regnetx_client.retry import Pause, retried, retried_async
from regnetx_client.security import PathLike, authorization, tls_context
from regnetx_client.uploads import Forms, Uploads

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
    # A ping in five minutes is what gRPC's servers allow by default (more is answered with ENHANCE_YOUR_CALM), and some
    # load balancers forget a connection after 350 s of silence. This also switches TCP_USER_TIMEOUT on: a connection
    # whose data nobody acknowledges for 20 s counts as broken, so a machine that vanished is noticed under load.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Names are resolved again when a connection ends, at the soonest after so long. gRPC's 30 s is longer than DNS
    # keeps its answers: 5 s in Kubernetes.
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
)
# No retryPolicy: gRPC's would also send again what is larger than the server takes (RESOURCE_EXHAUSTED, as an overload)
# and knows no retry-after; and two mechanisms would multiply. What gRPC itself repeats was never given to a server.
_ROUND_ROBIN: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_HEALTH_CHECK = {"healthCheckConfig": {"serviceName": ""}}
_Options = list[tuple[str, Any]]
_FOREVER = 2**31 - 1  # milliseconds
_BYTES = 13  # the elem_type of byte_data, which is a .npy file
_ACCEPTS_BYTES = "x-accepts-bytes"
# How a server that takes no such tensor fails before it computes anything: in its preprocessing, mostly with 10000
_UNREAD = (5000, 7000, 8000, 10000)


class GrpcClient:
    """Asks a service over gRPC: ``Client`` with an address, ``host:port``, in place of a URL.

    Several IP addresses (a list, or with commas), or a name with several, ``dns:///host:port``, are as many replicas.
    gRPC spreads the calls over them in turn and, with ``check_health``, leaves out those whose health service says
    NOT_SERVING. One connection to each carries all calls and may be shared by threads. ``timeout`` is the call's gRPC
    deadline. ``ca`` or ``cert``, as in ``Client``, switch TLS on, as do ``credentials`` (grpc.ChannelCredentials) in
    their place; ``authority`` is the name that the servers' certificate must hold where the address does not say it.
    ``metadata`` goes with every call, and so does ``token``, as in ``Client``. ``upload`` is as in ``Client``; what is
    learned of one replica is taken for all.
    """

    def __init__(
        self,
        address: Addresses,
        *,
        service: str = "regnet",
        method: str = "prediction",
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retries: int | None = None,
        metadata: Mapping[str, str] | None = None,
        token: str | None = None,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        credentials: Any = None,
        authority: str | None = None,
        upload: str = "auto",
        check_health: bool = True,
    ) -> None:
        credentials = _credentials(credentials, ca, cert, key)
        self._target = _target(address, credentials, authority)
        self._service, self._method = service, method
        self._uploads, self._forms = Uploads(upload), Forms()
        self._failover = Failover.of(timeout, retries, several=self._target.balanced)
        self._policy = self._failover.policy
        self._metadata = _metadata(metadata, token)
        options = _options(self._target, seconds(connect_timeout, "connect_timeout"), authority, check_health)
        self._channel: Any = _channel(grpc, self._target, credentials, options)
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
        deadline = self._policy.deadline(timeout)
        rows = retried(lambda: self._ask(question, deadline), _pause_with(self._failover), deadline)
        self._failover.budget.earn()
        return rows

    def is_ready(self) -> bool:
        """Whether the health service of one replica at least says SERVING; raises BadRequest where it has none."""
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

    def _ask(self, question: Question, deadline: Deadline) -> list[list[Prediction]]:
        binary = self._uploads.binary(self._forms)
        response, told = self._send(question, deadline, binary=binary)
        if _again(self._uploads, self._forms, response, told, binary=binary):
            response, _ = self._send(question, deadline, binary=False)
        return predictions_from(_answer(response, question), question)

    def _send(self, question: Question, deadline: Deadline, *, binary: bool) -> tuple[wire.Response, Any]:
        request = _request(question, self._service, self._method, binary=binary)
        metadata = (*self._metadata, (TOP_K, str(question.top_k)))
        response, call = self._call(self._infer.with_call, request, metadata, deadline)
        return response, call.trailing_metadata()

    def _call(self, stub: Any, request: Any, metadata: Any, deadline: Deadline) -> Any:
        if self._closed:
            raise RuntimeError("the client has been closed")
        try:
            return stub(request, timeout=deadline.remaining(), metadata=metadata)
        except grpc.RpcError as error:
            raise translate(error, self._target.name, deadline) from error


class AsyncGrpcClient:
    """``GrpcClient`` for asyncio, bound to the event loop of its first call."""

    def __init__(
        self,
        address: Addresses,
        *,
        service: str = "regnet",
        method: str = "prediction",
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retries: int | None = None,
        metadata: Mapping[str, str] | None = None,
        token: str | None = None,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        credentials: Any = None,
        authority: str | None = None,
        upload: str = "auto",
        check_health: bool = True,
    ) -> None:
        credentials = _credentials(credentials, ca, cert, key)
        self._target = _target(address, credentials, authority)
        self._service, self._method = service, method
        self._uploads, self._forms = Uploads(upload), Forms()
        self._failover = Failover.of(timeout, retries, several=self._target.balanced)
        self._policy = self._failover.policy
        self._metadata = _metadata(metadata, token)
        self._credentials = credentials
        self._options = _options(self._target, seconds(connect_timeout, "connect_timeout"), authority, check_health)
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
        deadline, stub = self._policy.deadline(timeout), _stub(self._channel())
        rows = await retried_async(lambda: self._ask(stub, question, deadline), _pause_with(self._failover), deadline)
        self._failover.budget.earn()
        return rows

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
            self._open_channel = _channel(grpc.aio, self._target, self._credentials, self._options)
        return self._open_channel

    async def _ask(self, stub: Any, question: Question, deadline: Deadline) -> list[list[Prediction]]:
        binary = self._uploads.binary(self._forms)
        response, told = await self._send(stub, question, deadline, binary=binary)
        if _again(self._uploads, self._forms, response, told, binary=binary):
            response, _ = await self._send(stub, question, deadline, binary=False)
        return predictions_from(_answer(response, question), question)

    async def _send(
        self, stub: Any, question: Question, deadline: Deadline, *, binary: bool
    ) -> tuple[wire.Response, Any]:
        parts = (question, self._service, self._method)
        if question.is_heavy:
            request = await asyncio.to_thread(_request, *parts, binary=binary)
        else:
            request = _request(*parts, binary=binary)
        metadata = (*self._metadata, (TOP_K, str(question.top_k)))
        response, told = await self._call(_with_call(stub), request, metadata, deadline)
        return response, told

    async def _call(self, stub: Any, request: Any, metadata: Any, deadline: Deadline) -> Any:
        try:
            return await stub(request, timeout=deadline.remaining(), metadata=metadata)
        except grpc.RpcError as error:
            raise translate(error, self._target.name, deadline) from error


def _metadata(given: Mapping[str, str] | None, token: str | None) -> tuple[tuple[str, str], ...]:
    shown = authorization(token, given)
    return (*((name, value) for name, value in (given or {}).items() if name.lower() not in shown), *shown.items())


def _credentials(credentials: Any, ca: PathLike | None, cert: PathLike | None, key: PathLike | None) -> Any:
    """Those given, or made of the files; None without TLS."""
    if tls_context(ca, cert, key) is None:  # says what is wrong with the files, where gRPC would fail call by call
        return credentials
    if credentials is not None:
        raise ValueError("credentials have TLS settings of their own: ca, cert and key do not go with them")
    contents = [None if path is None else Path(path).read_bytes() for path in (ca, key or cert, cert)]
    return grpc.ssl_channel_credentials(*contents)


def _target(address: Addresses, credentials: Any, authority: str | None) -> Target:
    target = target_of(address)
    if target.first and credentials is not None and authority is None:
        raise ValueError("credentials with several addresses need authority, the name in the servers' certificate")
    return target


def _options(target: Target, connect: float | None, authority: str | None, check_health: bool) -> _Options:
    # This option's name hides that it is also how long an attempt to connect may last.
    limit = _FOREVER if connect is None else min(math.ceil(connect * 1000), _FOREVER)
    options: _Options = [*_OPTIONS, ("grpc.min_reconnect_backoff_ms", limit)]
    if target.balanced:
        config = {**_ROUND_ROBIN, **(_HEALTH_CHECK if check_health else {})}
        options.append(("grpc.service_config", json.dumps(config)))
    if authority or target.first:
        options.append(("grpc.default_authority", authority or target.first))
    return options


def _channel(library: Any, target: Target, credentials: Any, options: _Options) -> Any:
    if credentials is None:
        return library.insecure_channel(target.name, options=options)
    return library.secure_channel(target.name, credentials, options=options)


def _pause_with(failover: Failover) -> Pause:
    """gRPC chooses the replica: after a first failure most likely another one, after that nobody can tell."""

    def pause(error: RegnetError, failures: int, deadline: Deadline) -> float | None:
        return failover.pause(error, failures, deadline, another=failures == 0)

    return pause


def _stub(channel: Any) -> Any:
    return channel.unary_unary(
        _INFERENCE, request_serializer=wire.Request.SerializeToString, response_deserializer=wire.Response.FromString
    )


def _with_call(stub: Any) -> Any:
    """grpc.aio has no ``with_call``: the answer, and the metadata that came behind it."""

    async def call(request: Any, **options: Any) -> tuple[wire.Response, Any]:
        one = stub(request, **options)
        return await one, await one.trailing_metadata()

    return call


def _request(question: Question, service: str, method: str, *, binary: bool) -> wire.Request:
    if not binary:
        return wire.Request(key=question.keys, value=question.values, name=service, method=method)
    tensors = [
        wire.Tensor(name=key, elem_type=_BYTES, byte_data=npy(file)) for key, file in zip(question.keys, question.files)
    ]
    return wire.Request(tensors=tensors, name=service, method=method)


def _again(uploads: Uploads, forms: Forms, response: wire.Response, told: Any, *, binary: bool) -> bool:
    offered = any(key == _ACCEPTS_BYTES for key, _ in told or ())
    return uploads.again(forms, binary=binary, offered=offered, unread=response.err_no in _UNREAD)


def _answer(response: wire.Response, question: Question) -> Answer:
    check_size(response.ByteSize(), question.most_answer_bytes)
    return Answer(response.err_no, response.err_msg, dict(zip(response.key, response.value)))
