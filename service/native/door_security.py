"""TLS and tokens of the main doors: checked before anything starts, held by a frontend, renewed with their files."""

import ipaddress
import logging
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from service.config import Native
from service.native.metric_block import Gauge
from service.native.renewal import follow
from service.native.tls import Identity, grpc_credentials, read_identity, renewable
from service.native.tokens import Tokens, read_tokens

log = logging.getLogger("regnetx.doors")


def verify_doors(native: Native, environment: Mapping[str, str]) -> None:
    """Read what the doors need, and warn of tokens that others could read. Raises ConfigError."""
    identity, tokens = read_identity(native), read_tokens(native, environment)
    if tokens is not None and identity is None and not _is_loopback(native.host):
        log.warning(
            "tokens are asked for and native.tls_certificate is not given: on %s they travel for everybody to read",
            native.host,
        )


class DoorSecurity:
    """What the doors of one frontend ask of their callers."""

    def __init__(self, native: Native, environment: Mapping[str, str], expiry: Gauge) -> None:
        """``expiry``: told when the certificate in force expires. Raises ConfigError as ``verify_doors`` does."""
        self._native = native
        self._expiry = expiry
        self._environment = environment
        self._identity = read_identity(native)
        if self._identity is not None:
            expiry.set(self._identity.expires)
        self._tokens = read_tokens(native, environment)
        self._context = None if self._identity is None else renewable(self._identity.context, native.max_connections)

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """For HTTP; None without TLS."""
        return self._context

    def grpc_credentials(self) -> Any:
        """For gRPC; None without TLS."""
        return None if self._identity is None else grpc_credentials(self._held)

    def admit(self, authorizations: Sequence[str]) -> str:
        """The name of the caller, ``""`` where no token is asked for. Raises UnauthenticatedError."""
        return "" if self._tokens is None else self._tokens.name_of(authorizations)

    def renewals(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run for files to be read anew."""
        running: list[Coroutine[Any, Any, None]] = []
        if self._identity is not None:
            read = partial(read_identity, self._native)
            running.append(follow("certificates", self._identity, read, self._use_identity))
        if self._tokens is not None and self._native.tokens_file is not None:
            tokens = partial(read_tokens, self._native, self._environment)
            running.append(follow("tokens", self._tokens, tokens, self._use_tokens))
        return running

    def _held(self) -> Identity:
        assert self._identity is not None
        return self._identity

    def _use_identity(self, identity: Identity | None) -> None:
        assert self._context is not None and identity is not None
        self._context.current = identity.context
        self._identity = identity
        self._expiry.set(identity.expires)

    def _use_tokens(self, tokens: Tokens | None) -> None:
        self._tokens = tokens


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
