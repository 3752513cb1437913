"""Image in, ranked predictions out: the client of RegNetX Serving and of Paddle Serving's pipeline.

>>> with Client("http://localhost:18080") as client:
...     best, *others = client.classify("daisy.jpg", top_k=5)

The same two classes over gRPC: ``from regnetx_client.grpc import GrpcClient, AsyncGrpcClient`` (extra ``grpc``).
"""

from regnetx_client.errors import (
    BadImage,
    BadRequest,
    ConnectionFailed,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    RegnetError,
    ServerError,
    TooLarge,
    Unavailable,
)
from regnetx_client.http import AsyncClient, Client
from regnetx_client.images import ImageLike
from regnetx_client.predictions import Prediction
from regnetx_client.version import __version__

__all__ = [
    "AsyncClient",
    "BadImage",
    "BadRequest",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "ImageLike",
    "Overloaded",
    "Prediction",
    "ProtocolError",
    "RegnetError",
    "ServerError",
    "TooLarge",
    "Unavailable",
    "__version__",
]
