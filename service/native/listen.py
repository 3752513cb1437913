"""Host and port of the configuration -> sockets that wait for callers, or one line that says why there are none."""

import logging
import resource
import socket
from typing import Any

from service.errors import ConfigError

log = logging.getLogger("regnetx.frontend")

MOST_DESCRIPTORS = 65536
OWN_DESCRIPTORS = 100  # files, engines and the loop; gRPC's connections are counted by nobody


def bind(host: str, port: int, key: str, host_key: str = "native.host") -> socket.socket:
    """A listening socket that all frontends share; connections of one that dies are taken by the others.

    Raises ConfigError naming ``key``, or ``host_key``, when the address cannot be had.
    """
    listener, address = _socket(host, port, host_key)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, key, error) from None
    return listener


def reserve(host: str, port: int, key: str) -> socket.socket:
    """A port for the frontends' gRPC servers, which open it themselves with SO_REUSEPORT.

    Bound once without that option, to find out whether another service has it, and then held with it, unheard.
    Raises ConfigError naming ``key`` when the address cannot be had.
    """
    with bind(host, port, key) as probe:
        port = probe.getsockname()[1]
    holder, address = _socket(host, port, "native.host")
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        holder.close()
        raise _cannot_listen(host, port, key, error) from None
    return holder


def grpc_address(holder: socket.socket) -> str:
    """The address of a reserved port in gRPC's notation; numeric, so that nobody resolves a name differently."""
    host, port = holder.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def allow_connections(most: int) -> None:
    """Let this process have as many descriptors as the system allows; often it begins with 1024, one a connection.

    ``most``: connections at each of two doors; a line in the log says where there are too few descriptors for them.
    """
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = MOST_DESCRIPTORS if allowed == resource.RLIM_INFINITY else min(allowed, MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken, allowed))
    if taken < 2 * most + OWN_DESCRIPTORS:
        log.warning("native.max_connections: %d, but a process may have %d descriptors (ulimit -n)", most, taken)


def engine_listener() -> socket.socket:
    """A socket in the abstract namespace, with a name that the kernel chooses: no file, nothing to clean up."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")
    listener.listen(128)
    return listener


def _socket(host: str, port: int, host_key: str) -> tuple[socket.socket, Any]:
    """A socket of the host's family, and the address to bind it to."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.socket(family, socket.SOCK_STREAM), address
    except (OSError, ValueError) as error:  # ValueError: of the name's encoding
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConfigError(f"{host_key}: {host!r} is not an address of this machine: {reason}") from None


def _cannot_listen(host: str, port: int, key: str, error: OSError) -> ConfigError:
    return ConfigError(f"{key}: {port} on {host}: {error.strerror}; accepted: a free port, or 0 for any")
