"""httpx's exceptions -> ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from regnetx_client.deadline import Deadline
from regnetx_client.errors import BadRequest, ConnectionFailed, ProtocolError, RegnetError


@contextmanager
def translated(url: str, deadline: Deadline) -> Iterator[None]:
    """Lets none of httpx's exceptions through; good around an ``await`` too."""
    try:
        yield
    # Before Python 3.11 asyncio's is not the built-in one.
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise deadline.exceeded() from error
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        raise translate(error, url, deadline) from error
    # Early versions of httpx let a certificate that does not fit through as it is.
    except ssl.SSLError as error:
        raise ConnectionFailed(f"{url}: {error}") from error


def translate(error: Exception, url: str, deadline: Deadline) -> RegnetError:
    """What this exception means to the caller of ``url``."""
    said = f"{url}: {str(error) or type(error).__name__}"
    if isinstance(error, httpx.TransportError) and deadline.passed():
        return deadline.exceeded()
    if isinstance(error, httpx.ConnectTimeout):
        return ConnectionFailed(f"{url}: no connection in the time allowed", sent=False)
    if isinstance(error, httpx.ConnectError):
        return ConnectionFailed(said, sent=False)
    if isinstance(error, httpx.TimeoutException):
        return deadline.exceeded()
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)):
        return ConnectionFailed(said)
    if isinstance(error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return BadRequest(said)
    return ProtocolError(said)
