"""Images -> predictions over HTTP: ``Client`` and ``AsyncClient``, two thin shells around the same functions."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ssl
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import httpx

from regnetx_client.balancer import Balancer, Course
from regnetx_client.deadline import Deadline, Default, Timeout, seconds
from regnetx_client.endpoints import Endpoint, URLs
from regnetx_client.errors import ConnectionFailed, DeadlineExceeded, Unavailable
from regnetx_client.http_errors import translated
from regnetx_client.http_messages import (
    Reply,
    answer_from,
    content_of,
    headers_for,
    is_unread,
    offers_bytes,
    path_of,
    raise_for,
)
from regnetx_client.images import ImageLike
from regnetx_client.predictions import Prediction
from regnetx_client.protocol import ANSWER_BYTES, Question, check_size, predictions_from, question_for
from regnetx_client.replicas import Replica
from regnetx_client.retry import retried, retried_async
from regnetx_client.security import PathLike, authorization, tls_context
from regnetx_client.uploads import Uploads
from regnetx_client.version import __version__

# Below the 5 s after which uvicorn closes an idle connection: we never send into one that is being closed.
_IDLE = 4.0
# An address is reached directly: a proxy of the environment is meant for names, and would take its TLS apart.
_DIRECTLY = {"http://": None, "https://": None}


class Client:
    """Asks a service over HTTP. Keeps its connections open, may be shared by threads, and is closed by ``with``.

    ``url`` is one URL, or a list of them for as many replicas; with ``all_addresses``, each address of a URL's host
    name is a replica. The least busy replica is asked. ``timeout`` bounds a whole call in seconds, retries and their
    pauses included, and is sent to the server; ``connect_timeout`` bounds reaching it. None switches either off.
    ``retries`` (with one server 0 unless given) are made of one server only where no work is repeated: the connection
    was refused, or the server named a time (Retry-After with 429 or 503). With several replicas (2 unless given) they
    go to another one, also when the connection broke or no time was named.
    ``upload``: ``auto`` sends an image as it is to a server that has said in an earlier answer that it takes that, and
    as base64 to others, as ``base64`` does to all; ``binary`` sends it as it is to all.
    ``service`` and ``method`` make the path; PaddleClas' own server is called ``imagenet``.
    ``ca`` is a PEM file of the authorities to trust in place of the usual ones, ``cert`` and ``key`` are those of this
    caller, where the server wants to know who calls (``key`` may be in ``cert``); they are read once. ``token`` is
    shown to every server, as is that of the environment, REGNETX_TOKEN, where it is None and ``headers`` has no
    ``authorization``. ``transport`` is httpx's (for other TLS settings, a proxy, or a test) and takes the place of
    these files.
    """

    def __init__(
        self,
        url: URLs,
        *,
        all_addresses: bool = False,
        service: str = "regnet",
        method: str = "prediction",
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retries: int | None = None,
        connections: int = 100,
        upload: str = "auto",
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._balancer = Balancer(url, timeout, retries, all_addresses=all_addresses)
        self._policy = self._balancer.policy
        self._uploads = Uploads(upload)
        self._path = path_of(service, method)
        self._connect = seconds(connect_timeout, "connect_timeout")
        self._http = httpx.Client(
            headers=_headers(headers, token),
            verify=_verification(transport, ca, cert, key),
            limits=_limits(connections),
            transport=transport,
            mounts=_DIRECTLY if all_addresses else None,
        )

    def classify(self, image: ImageLike, top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT) -> list[Prediction]:
        """The best ``top_k`` predictions, best first. A server that does not know top-k gives one.

        Raises RegnetError, OSError for an unreadable file, TypeError for what holds no image.
        """
        return self.classify_batch([image], top_k, timeout=timeout)[0]

    def classify_batch(
        self, images: Iterable[ImageLike], top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT
    ) -> list[list[Prediction]]:
        """The same for several images in one request, in their order; one that fails fails the request."""
        question = question_for(images, top_k)
        if not question.keys:
            return []
        deadline = self._policy.deadline(timeout)
        course = self._balancer.course()
        return retried(lambda: self._ask(question, course, deadline), course.pause, deadline)

    def is_ready(self) -> bool:
        """Whether one replica at least says that it can classify now; raises BadRequest where it has no ``/readyz``."""
        deadline = self._policy.deadline(Default.TIMEOUT)
        try:
            self._find(deadline)
            return any(self._says_ready(endpoint, deadline) for endpoint in self._balancer.endpoints())
        except (ConnectionFailed, DeadlineExceeded):
            return False

    def close(self) -> None:
        """Closes the connections; a closed client raises RuntimeError."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Question, course: Course, deadline: Deadline) -> list[list[Prediction]]:
        self._find(deadline)
        deadline.remaining()
        with course.replica() as replica:
            binary = self._uploads.binary(replica.forms)
            reply = self._send(question, replica.endpoint, deadline, binary=binary)
            if _again(self._uploads, replica, reply, binary=binary):
                reply = self._send(question, replica.endpoint, deadline, binary=False)
            return predictions_from(answer_from(reply), question)

    def _send(self, question: Question, endpoint: Endpoint, deadline: Deadline, *, binary: bool) -> Reply:
        headers = headers_for(question, deadline.remaining(), binary=binary)
        request = _post(self._http, endpoint, self._path, headers, content_of(question, binary=binary))
        return self._exchange(request, endpoint, deadline, question.most_answer_bytes)

    def _find(self, deadline: Deadline) -> None:
        """Waits until an address is known, where that has to be looked for."""
        running = self._balancer.refresh()
        if running is not None:
            concurrent.futures.wait([running], timeout=_soonest(deadline.left(), self._connect))
        self._balancer.endpoints()

    def _says_ready(self, endpoint: Endpoint, deadline: Deadline) -> bool:
        try:
            raise_for(self._exchange(_get(self._http, endpoint, "/readyz"), endpoint, deadline, ANSWER_BYTES))
        except (ConnectionFailed, Unavailable):
            return False
        return True

    def _exchange(self, request: httpx.Request, endpoint: Endpoint, deadline: Deadline, most: int) -> Reply:
        _hold_to(deadline, self._connect, request)
        body = bytearray()
        with translated(str(endpoint), deadline):
            response = self._http.send(request, stream=True)
            try:
                for chunk in response.iter_bytes():
                    deadline.remaining()
                    body += chunk
                    check_size(len(body), most)
            finally:
                response.close()
        return Reply(response.status_code, response.headers, bytes(body))


class AsyncClient:
    """``Client`` for asyncio: the same arguments and errors; many calls may be in flight at once."""

    def __init__(
        self,
        url: URLs,
        *,
        all_addresses: bool = False,
        service: str = "regnet",
        method: str = "prediction",
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retries: int | None = None,
        connections: int = 100,
        upload: str = "auto",
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._balancer = Balancer(url, timeout, retries, all_addresses=all_addresses)
        self._policy = self._balancer.policy
        self._uploads = Uploads(upload)
        self._path = path_of(service, method)
        self._connect = seconds(connect_timeout, "connect_timeout")
        self._http = httpx.AsyncClient(
            headers=_headers(headers, token),
            verify=_verification(transport, ca, cert, key),
            limits=_limits(connections),
            transport=transport,
            mounts=_DIRECTLY if all_addresses else None,
        )

    async def classify(
        self, image: ImageLike, top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT
    ) -> list[Prediction]:
        """As ``Client.classify``; files are read and arrays encoded in a thread."""
        return (await self.classify_batch([image], top_k, timeout=timeout))[0]

    async def classify_batch(
        self, images: Iterable[ImageLike], top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT
    ) -> list[list[Prediction]]:
        """As ``Client.classify_batch``."""
        question = await asyncio.to_thread(question_for, images, top_k)
        if not question.keys:
            return []
        deadline, course = self._policy.deadline(timeout), self._balancer.course()
        return await retried_async(lambda: self._ask(question, course, deadline), course.pause, deadline)

    async def is_ready(self) -> bool:
        """As ``Client.is_ready``."""
        deadline = self._policy.deadline(Default.TIMEOUT)
        try:
            await self._find(deadline)
            for endpoint in self._balancer.endpoints():
                if await self._says_ready(endpoint, deadline):
                    return True
        except (ConnectionFailed, DeadlineExceeded):
            pass
        return False

    async def close(self) -> None:
        """As ``Client.close``."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, question: Question, course: Course, deadline: Deadline) -> list[list[Prediction]]:
        await self._find(deadline)
        deadline.remaining()
        with course.replica() as replica:
            binary = self._uploads.binary(replica.forms)
            reply = await self._send(question, replica.endpoint, deadline, binary=binary)
            if _again(self._uploads, replica, reply, binary=binary):
                reply = await self._send(question, replica.endpoint, deadline, binary=False)
            return predictions_from(answer_from(reply), question)

    async def _send(self, question: Question, endpoint: Endpoint, deadline: Deadline, *, binary: bool) -> Reply:
        if question.is_heavy and not binary:
            content = await asyncio.to_thread(content_of, question, binary=False)
        else:
            content = content_of(question, binary=binary)
        headers = headers_for(question, deadline.remaining(), binary=binary)
        request = _post(self._http, endpoint, self._path, headers, content)
        return await self._exchange(request, endpoint, deadline, question.most_answer_bytes)

    async def _find(self, deadline: Deadline) -> None:
        running = self._balancer.refresh()
        if running is not None:
            waiting = asyncio.wrap_future(running)
            try:
                await asyncio.wait([waiting], timeout=_soonest(deadline.left(), self._connect))
            finally:
                waiting.cancel()  # or it would call into a loop that may have been closed by then
        self._balancer.endpoints()

    async def _says_ready(self, endpoint: Endpoint, deadline: Deadline) -> bool:
        try:
            raise_for(await self._exchange(_get(self._http, endpoint, "/readyz"), endpoint, deadline, ANSWER_BYTES))
        except (ConnectionFailed, Unavailable):
            return False
        return True

    async def _exchange(self, request: httpx.Request, endpoint: Endpoint, deadline: Deadline, most: int) -> Reply:
        left = deadline.remaining()
        request.extensions["timeout"] = _steps(left, self._connect)
        with translated(str(endpoint), deadline):
            return await asyncio.wait_for(self._read(request, most), left)

    async def _read(self, request: httpx.Request, most: int) -> Reply:
        body = bytearray()
        response = await self._http.send(request, stream=True)
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                check_size(len(body), most)
        finally:
            await response.aclose()
        return Reply(response.status_code, response.headers, bytes(body))


def _again(uploads: Uploads, replica: Replica, reply: Reply, *, binary: bool) -> bool:
    return uploads.again(replica.forms, binary=binary, offered=offers_bytes(reply), unread=is_unread(reply))


def _post(
    http: httpx.Client | httpx.AsyncClient,
    endpoint: Endpoint,
    path: str,
    headers: dict[str, str],
    content: dict[str, Any],
) -> httpx.Request:
    headers, extensions = {**headers, **endpoint.headers}, endpoint.extensions
    return http.build_request("POST", endpoint.url + path, headers=headers, extensions=extensions, **content)


def _get(http: httpx.Client | httpx.AsyncClient, endpoint: Endpoint, path: str) -> httpx.Request:
    return http.build_request("GET", endpoint.url + path, headers=endpoint.headers, extensions=endpoint.extensions)


def _headers(given: Mapping[str, str] | None, token: str | None) -> dict[str, str]:
    own = {"user-agent": f"regnetx-client/{__version__}"}
    shown = authorization(token, given)
    kept = {name: value for name, value in (given or {}).items() if name.lower() not in shown}
    return {**own, **kept, **shown}


def _verification(
    transport: object, ca: PathLike | None, cert: PathLike | None, key: PathLike | None
) -> ssl.SSLContext | bool:
    context = tls_context(ca, cert, key)
    if context is not None and transport is not None:
        raise ValueError("transport has TLS settings of its own: ca, cert and key do not go with it")
    return True if context is None else context


def _limits(connections: int) -> httpx.Limits:
    return httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_IDLE)


def _steps(left: float | None, connect: float | None) -> dict[str, float | None]:
    """httpx's limits of the single steps when so many seconds are left of the whole."""
    return {"connect": _soonest(left, connect), "read": left, "write": left, "pool": left}


def _soonest(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _hold_to(deadline: Deadline, connect: float | None, request: httpx.Request) -> None:
    """Gives each step of a blocking exchange what is left of the whole: httpx itself starts every step anew."""
    limits = request.extensions["timeout"] = _steps(deadline.left(), connect)

    def trace(event: str, _info: Mapping[str, Any]) -> None:
        if event.endswith(".started"):
            limits.update(_steps(deadline.left(), connect))

    if deadline.at is not None:
        request.extensions["trace"] = trace
