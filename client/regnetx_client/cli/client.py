"""Options -> the client they ask for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

from regnetx_client.cli.arguments import Options, UsageError
from regnetx_client.http import AsyncClient
from regnetx_client.images import ImageLike
from regnetx_client.predictions import Prediction
from regnetx_client.security import token_from


class Classifier(Protocol):
    """What the command needs of AsyncClient and AsyncGrpcClient."""

    async def classify_batch(self, images: Iterable[ImageLike], top_k: int = 1) -> list[list[Prediction]]: ...

    async def close(self) -> None: ...


def opened(options: Options) -> Classifier:
    """The client, not connected yet; raises UsageError for a wrong URL, address or file, or a missing extra."""
    try:
        token = None if options.token_file is None else token_from(options.token_file)
        return _over_grpc(options, token) if options.grpc else _over_http(options, token)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


def _over_http(options: Options, token: str | None) -> Classifier:
    return AsyncClient(
        options.targets,
        all_addresses=options.all_addresses,
        service=options.service,
        timeout=options.timeout,
        retries=options.retries,
        upload=options.upload,
        token=token,
        ca=options.ca,
        cert=options.cert,
        key=options.key,
        # Those in use are bounded elsewhere; each replica may keep a few that are not.
        connections=max(options.concurrency, 100),
    )


def _over_grpc(options: Options, token: str | None) -> Classifier:
    # What gRPC's core writes of each connection that ends is not for whoever reads the command's errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from regnetx_client.grpc import AsyncGrpcClient

    return AsyncGrpcClient(
        options.targets,
        service=options.service,
        timeout=options.timeout,
        retries=options.retries,
        upload=options.upload,
        token=token,
        ca=options.ca,
        cert=options.cert,
        key=options.key,
    )
