"""Addresses as a user gives them -> one target of gRPC, and whether it stands for several replicas."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

Addresses = Union[str, Sequence[str]]


@dataclass(frozen=True)
class Target:
    """What gRPC is told to connect to."""

    name: str
    balanced: bool
    first: str | None = None  # of several addresses: all are called by it, since they have no name in common


def target_of(address: Addresses) -> Target:
    """``host:port``, several IP addresses with ports, or ``dns:///name:port``; raises ValueError for anything else."""
    given = address.split(",") if isinstance(address, str) else list(address)
    parts = list(dict.fromkeys(part.strip() for part in given))
    if len(parts) != 1:
        return _several(parts)
    if parts[0].startswith("dns:"):
        return Target(_checked_name(parts[0]), balanced=True)
    if not parts[0] or "://" in parts[0]:
        raise ValueError(f"address {parts[0]!r} is not like localhost:9993, nor dns:///name:9993")
    return Target(parts[0], balanced=False)


def _checked_name(name: str) -> str:
    """``dns:name:port`` or ``dns://resolver/name:port``; gRPC would take port 443 where there is none."""
    rest = name[len("dns:") :]
    path = rest[2:].partition("/")[2] if rest.startswith("//") else rest
    host, colon, port = path.rpartition(":")
    if not (host and colon and port.isdigit()) or "/" in path:
        raise ValueError(f"address {name!r} is not like dns:///name:9993")
    return name


def _several(parts: Sequence[str]) -> Target:
    """gRPC has one list for IPv4 and one for IPv6; in the latter IPv4 can be written too."""
    if not parts:
        raise ValueError("no address is given: one is needed, or a list of them")
    split = [_split(part) for part in parts]
    if all(ip.version == 4 for ip, _ in split):
        return Target("ipv4:" + ",".join(f"{ip}:{port}" for ip, port in split), balanced=True, first=parts[0])
    texts = (f"[{ip}]:{port}" if ip.version == 6 else f"[::ffff:{ip}]:{port}" for ip, port in split)
    return Target("ipv6:" + ",".join(texts), balanced=True, first=parts[0])


def _split(part: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    host, _, port = part.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if bracketed != (ip.version == 6) or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(part)
    except ValueError:
        raise ValueError(
            f"address {part!r} is one of several and not like 10.0.0.1:9993: gRPC balances over IP addresses, "
            "or over all addresses of one name, dns:///name:9993"
        ) from None
    return ip, int(port)
