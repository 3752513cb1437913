"""Certificate, key and the callers' authority -> what the two doors need to speak TLS, checked before a door opens."""

import ssl
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.config import Native
from service.errors import ConfigError

HANDSHAKE_SECONDS = 10.0  # for a caller who connects and says nothing
STEPS_OF_A_HANDSHAKE = 8
_HTTP_1_1 = ["http/1.1"]


@dataclass(frozen=True)
class Identity:
    """Who we are, and whose callers we take: PEM as read, and what HTTP makes of it."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    context: ssl.SSLContext = field(compare=False, repr=False)
    expires: float  # of the certificate, seconds since the epoch


def read_identity(native: Native) -> Identity | None:
    """What the files of the configuration hold, found to work together; None without TLS.

    Raises ConfigError for a file that is missing, cannot be read or holds something else, a key of another certificate,
    and a certificate that has expired or is for callers.
    """
    if native.tls_certificate is None or native.tls_key is None:
        return None
    contents = _contents(native, native.tls_certificate, native.tls_key)
    context = _context(native, native.tls_certificate)
    expires = _prove(context, native.tls_certificate)
    if _contents(native, native.tls_certificate, native.tls_key) != contents:  # gRPC gets these, HTTP what came after
        raise ConfigError(f"native.tls_certificate: {native.tls_certificate} changed while it was read")
    return Identity(*contents, context, expires)


def _contents(native: Native, certificate: str, key: str) -> tuple[bytes, bytes, bytes | None]:
    ca = native.tls_client_ca
    return (
        _content("tls_certificate", certificate, "certificate"),
        _content("tls_key", key, "private key"),
        None if ca is None else _content("tls_client_ca", ca, "certificate"),
    )


def _context(native: Native, certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_HTTP_1_1)
    try:
        context.load_cert_chain(certificate, native.tls_key, password=_locked(native.tls_key))
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"native.tls_key: {native.tls_key} and native.tls_certificate: {certificate} do not work together"
            f" ({_reason(error)}); accepted: a certificate in PEM, its chain behind it, and the private key of it"
        ) from None
    if native.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(native.tls_client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"native.tls_client_ca: {native.tls_client_ca} cannot be used ({_reason(error)});"
                " accepted: certificates of authorities in PEM"
            ) from None
    return context


class RenewableContext(ssl.SSLContext):
    """A server's context that stands for another one, which may be exchanged; connections keep the one they began with.

    A context of its own for each renewal, because OpenSSL never forgets an authority once trusted, and resumes sessions
    that began under it.
    """

    current: ssl.SSLContext
    most_handshakes: int
    shaking: "weakref.WeakSet[ssl.SSLObject]"

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """A connection; asyncio and uvloop make each with this. Raises ConnectionAbortedError for one too many.

        HTTP's own bound counts connections from the end of their handshake on.
        """
        done = [one for one in self.shaking if one.version() is not None]
        self.shaking.difference_update(done)
        if len(self.shaking) >= self.most_handshakes:
            raise ConnectionAbortedError("too many handshakes")
        made = self.current.wrap_bio(*arguments, **options)
        self.shaking.add(made)
        return made


def renewable(context: ssl.SSLContext, most_handshakes: int) -> RenewableContext:
    """Stands for ``context`` until its ``current`` is set to another; so many handshakes at the same time."""
    made = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
    made.current = context
    made.most_handshakes = most_handshakes
    made.shaking = weakref.WeakSet()
    return made


def grpc_credentials(held: Callable[[], Identity]) -> Any:
    """Credentials of a gRPC server that asks ``held`` anew for each connection; TLS 1.2 is gRPC's own minimum."""
    import grpc

    def configuration() -> Any:
        identity = held()
        return grpc.ssl_server_certificate_configuration([(identity.key, identity.certificate)], identity.client_ca)

    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, require_client_authentication=held().client_ca is not None
    )


def _content(key: str, path: str, kind: str) -> bytes:
    """The file, if it holds at least one PEM block of this kind."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"native.{key}: {path}: {error.strerror}; accepted: a readable PEM file") from None
    labels = (line for line in content.splitlines() if line.startswith(b"-----BEGIN "))
    if not any(kind.upper().encode() in label for label in labels):
        raise ConfigError(f"native.{key}: {path} holds no {kind}; accepted: a {kind} in PEM")
    return content


def _locked(path: str | None) -> Callable[[], str]:
    """OpenSSL would ask the terminal for the password."""

    def refuse() -> str:
        raise ConfigError(f"native.tls_key: {path} is locked with a password; accepted: a private key without one")

    return refuse


def _prove(server: ssl.SSLContext, certificate: str) -> float:
    """Shake hands with ourselves, in memory, and see when what is shown expires, in seconds since the epoch.

    Raises ConfigError for a certificate that has expired, is not valid yet or not for servers.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # callers know by which name they call
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is the anchor, whoever signed it
    client.load_verify_locations(certificate)
    server.verify_mode, asked = ssl.CERT_NONE, server.verify_mode
    try:
        return ssl.cert_time_to_seconds(_shake_hands(client, server))
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"native.tls_certificate: {certificate}: {error.verify_message}; accepted: a server's certificate that is"
            " valid now"
        ) from None
    except ssl.SSLError as error:
        raise ConfigError(f"native.tls_certificate: {certificate} cannot be used ({_reason(error)})") from None
    finally:
        server.verify_mode = asked


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """``notAfter`` of what the server shows."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(ours, theirs), server.wrap_bio(theirs, ours, server_side=True)]
    for step in range(STEPS_OF_A_HANDSHAKE):
        try:
            ends[step % 2].do_handshake()
        except ssl.SSLWantReadError:
            continue
        if step % 2:
            break
    return str((ends[0].getpeercert() or {})["notAfter"])


def _reason(error: OSError) -> str:
    """OpenSSL's in words; it has none for what is not PEM inside."""
    reason = getattr(error, "reason", None) or ("not PEM" if isinstance(error, ssl.SSLError) else error.strerror)
    return str(reason).replace("_", " ").lower()
