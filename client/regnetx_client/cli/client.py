"""Options -> the client they ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from regnetx_client.cli.arguments import Options, UsageError
from regnetx_client.http import AsyncClient
from regnetx_client.images import ImageLike
from regnetx_client.predictions import Prediction


class Classifier(Protocol):
    """What the command needs of AsyncClient and AsyncGrpcClient."""

    async def classify_batch(self, images: Iterable[ImageLike], top_k: int = 1) -> list[list[Prediction]]: ...

    async def close(self) -> None: ...


def opened(options: Options) -> Classifier:
    """The client, not connected yet; raises UsageError for a wrong URL or address, or a missing extra."""
    try:
        return _over_grpc(options) if options.grpc else _over_http(options)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


def _over_http(options: Options) -> Classifier:
    return AsyncClient(
        options.target,
        service=options.service,
        timeout=options.timeout,
        retries=options.retries,
        connections=options.concurrency,
    )


def _over_grpc(options: Options) -> Classifier:
    from regnetx_client.grpc import AsyncGrpcClient

    return AsyncGrpcClient(options.target, service=options.service, timeout=options.timeout, retries=options.retries)
