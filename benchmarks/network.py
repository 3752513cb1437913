"""A network of its own for a server that would listen on every interface, with the load generator inside it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import ExitStack
from functools import cache

_LOOPBACK = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
# As root; else as a user who may be root in a namespace of his own.
_WAYS = (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"])


@cache
def own_network() -> list[str]:
    """What to put before a command so that it has a loopback device and nothing else; empty if that cannot be."""
    if not all(map(shutil.which, ("unshare", "ip"))):
        return []
    for way in _WAYS:
        prefix = [*way, *_LOOPBACK]
        if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
            return prefix
    return []


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, for servers that take no 0."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
