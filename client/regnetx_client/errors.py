"""Every failure a client can meet; httpx's and grpc's own exceptions never leave this package.

RegnetError
├── ConnectionFailed    nobody answered: refused, reset, unknown host              .sent
├── DeadlineExceeded    the time allowed has passed, here or at the server
├── Unavailable         the server cannot take the request now                     .retry_after
│   └── Overloaded      because it has too much to do
├── BadRequest          the server will never take this request
│   ├── TooLarge        it has more bytes than the server allows
│   └── BadImage        not sent at all: this is no image
├── ServerError         the server took it and failed                              .err_no .err_msg
└── ProtocolError       the answer is none of this protocol's

Outside the tree: ``OSError`` for a file that cannot be read, ``TypeError`` and ``ValueError`` for wrong arguments.
"""

from __future__ import annotations


class RegnetError(Exception):
    """Any failure to get predictions."""


class ConnectionFailed(RegnetError):
    """Nobody answered. ``sent`` is False when surely nothing reached the server, so a second try repeats no work."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class DeadlineExceeded(RegnetError):
    """The time allowed has passed, here or at the server."""


class Unavailable(RegnetError):
    """The server cannot take the request now; ``retry_after`` is the pause it asks for in seconds, if it does."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """The server has too much to do and refused before any work was done."""


class BadRequest(RegnetError):
    """The server will never take this request; the message is its own."""


class TooLarge(BadRequest):
    """The request, or its answer, has more bytes than the server allows."""


class BadImage(BadRequest):
    """Not sent: what was given is no image, or not one that can be sent without guessing."""


class ServerError(RegnetError):
    """The server took the request and failed.

    ``err_no`` is Paddle Serving's (10000: the image cannot be decoded, 3002: another service name, ...),
    None for a failure outside the protocol, such as HTTP 500.
    """

    def __init__(self, message: str, *, err_no: int | None = None, err_msg: str = "") -> None:
        super().__init__(message)
        self.err_no = err_no
        self.err_msg = err_msg


class ProtocolError(RegnetError):
    """The answer is none of this protocol's: another server listens there, or a proxy answered."""
