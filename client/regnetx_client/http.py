"""Images -> predictions over HTTP: ``Client`` and ``AsyncClient``, two thin shells around the same functions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import httpx

from regnetx_client.deadline import Deadline, Default, Policy, Timeout, seconds
from regnetx_client.errors import ConnectionFailed, DeadlineExceeded, Unavailable
from regnetx_client.http_errors import translated
from regnetx_client.http_messages import (
    Reply,
    answer_from,
    base_url,
    check_size,
    content_of,
    headers_for,
    path_of,
    raise_for,
)
from regnetx_client.images import ImageLike
from regnetx_client.predictions import Prediction
from regnetx_client.protocol import Question, predictions_from, question_for
from regnetx_client.retry import retried, retried_async
from regnetx_client.version import __version__

# Below the 5 s after which uvicorn closes an idle connection: we never send into one that is being closed.
_IDLE = 4.0


class Client:
    """Asks one server over HTTP. Keeps its connections open, may be shared by threads, and is closed by ``with``.

    ``timeout`` bounds a whole call in seconds, retries and their pauses included, and is sent to the server;
    ``connect_timeout`` bounds reaching it. None switches either off. ``retries`` are made only where no work is
    repeated: the connection was refused, or the server named a time (Retry-After with 429 or 503).
    ``service`` and ``method`` make the path; PaddleClas' own server is called ``imagenet``. ``transport`` is httpx's
    (for TLS settings, a proxy, or a test).
    """

    def __init__(
        self,
        url: str,
        *,
        service: str = "regnet",
        method: str = "prediction",
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retries: int = 0,
        connections: int = 100,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._base = base_url(url)
        self._url = self._base + path_of(service, method)
        self._policy = Policy(timeout, retries)
        self._connect = seconds(connect_timeout, "connect_timeout")
        self._http = httpx.Client(headers=_headers(headers), limits=_limits(connections), transport=transport)

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
        content = content_of(question)
        reply = retried(lambda: self._ask(question, content, deadline), self._policy, deadline)
        return predictions_from(answer_from(reply), question)

    def is_ready(self) -> bool:
        """Whether the server says that it can classify now; raises BadRequest where it has no ``/readyz``."""
        deadline = self._policy.deadline(Default.TIMEOUT)
        try:
            raise_for(self._exchange(self._http.build_request("GET", f"{self._base}/readyz"), deadline))
        except (ConnectionFailed, DeadlineExceeded, Unavailable):
            return False
        return True

    def close(self) -> None:
        """Closes the connections; a closed client raises RuntimeError."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Question, content: bytes, deadline: Deadline) -> Reply:
        headers = headers_for(question, deadline.remaining())
        reply = self._exchange(self._http.build_request("POST", self._url, content=content, headers=headers), deadline)
        raise_for(reply)
        return reply

    def _exchange(self, request: httpx.Request, deadline: Deadline) -> Reply:
        _hold_to(deadline, self._connect, request)
        body = bytearray()
        with translated(self._base, deadline):
            response = self._http.send(request, stream=True)
            try:
                for chunk in response.iter_bytes():
                    deadline.remaining()
                    body += chunk
                    check_size(body)
            finally:
                response.close()
        return Reply(response.status_code, response.headers, bytes(body))


class AsyncClient:
    """``Client`` for asyncio: the same arguments and errors; many calls may be in flight at once."""

    def __init__(
        self,
        url: str,
        *,
        service: str = "regnet",
        method: str = "prediction",
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retries: int = 0,
        connections: int = 100,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base = base_url(url)
        self._url = self._base + path_of(service, method)
        self._policy = Policy(timeout, retries)
        self._connect = seconds(connect_timeout, "connect_timeout")
        self._http = httpx.AsyncClient(headers=_headers(headers), limits=_limits(connections), transport=transport)

    async def classify(
        self, image: ImageLike, top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT
    ) -> list[Prediction]:
        """As ``Client.classify``; files are read and arrays encoded in a thread."""
        return (await self.classify_batch([image], top_k, timeout=timeout))[0]

    async def classify_batch(
        self, images: Iterable[ImageLike], top_k: int = 1, *, timeout: Timeout = Default.TIMEOUT
    ) -> list[list[Prediction]]:
        """As ``Client.classify_batch``."""
        question, content = await asyncio.to_thread(_prepared, images, top_k)
        if not question.keys:
            return []
        deadline = self._policy.deadline(timeout)
        reply = await retried_async(lambda: self._ask(question, content, deadline), self._policy, deadline)
        return predictions_from(answer_from(reply), question)

    async def is_ready(self) -> bool:
        """As ``Client.is_ready``."""
        deadline = self._policy.deadline(Default.TIMEOUT)
        try:
            raise_for(await self._exchange(self._http.build_request("GET", f"{self._base}/readyz"), deadline))
        except (ConnectionFailed, DeadlineExceeded, Unavailable):
            return False
        return True

    async def close(self) -> None:
        """As ``Client.close``."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, question: Question, content: bytes, deadline: Deadline) -> Reply:
        headers = headers_for(question, deadline.remaining())
        request = self._http.build_request("POST", self._url, content=content, headers=headers)
        reply = await self._exchange(request, deadline)
        raise_for(reply)
        return reply

    async def _exchange(self, request: httpx.Request, deadline: Deadline) -> Reply:
        left = deadline.remaining()
        request.extensions["timeout"] = _steps(left, self._connect)
        with translated(self._base, deadline):
            return await asyncio.wait_for(self._read(request), left)

    async def _read(self, request: httpx.Request) -> Reply:
        body = bytearray()
        response = await self._http.send(request, stream=True)
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                check_size(body)
        finally:
            await response.aclose()
        return Reply(response.status_code, response.headers, bytes(body))


def _prepared(images: Iterable[ImageLike], top_k: int) -> tuple[Question, bytes]:
    question = question_for(images, top_k)
    return question, content_of(question)


def _headers(given: Mapping[str, str] | None) -> dict[str, str]:
    return {"user-agent": f"regnetx-client/{__version__}", **(given or {})}


def _limits(connections: int) -> httpx.Limits:
    return httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_IDLE)


def _steps(left: float | None, connect: float | None) -> dict[str, float | None]:
    """httpx's limits of the single steps when so many seconds are left of the whole."""
    soonest = [limit for limit in (left, connect) if limit is not None]
    return {"connect": min(soonest, default=None), "read": left, "write": left, "pool": left}


def _hold_to(deadline: Deadline, connect: float | None, request: httpx.Request) -> None:
    """Gives each step of a blocking exchange what is left of the whole: httpx itself starts every step anew."""
    limits = request.extensions["timeout"] = _steps(deadline.left(), connect)

    def trace(event: str, _info: Mapping[str, Any]) -> None:
        if event.endswith(".started"):
            limits.update(_steps(deadline.left(), connect))

    if deadline.at is not None:
        request.extensions["trace"] = trace
