"""URLs as a user gives them -> the endpoints of a service: one for each URL, or one for each address of its name."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import httpx

from regnetx_client.http_messages import base_url

URLs = Union[str, Sequence[str]]
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Endpoint:
    """Where one replica is asked."""

    url: str  # without a closing slash
    host: str | None = None  # what the Host header says where the URL has an address in place of the name
    name: str | None = None  # and what TLS asks for and checks

    @property
    def headers(self) -> dict[str, str]:
        """What makes a request to an address one to the name."""
        return {} if self.host is None else {"host": self.host}

    @property
    def extensions(self) -> dict[str, Any]:
        """The same for TLS, in httpx's words."""
        return {} if self.name is None else {"sni_hostname": self.name}

    def __str__(self) -> str:
        return self.url if self.host is None else f"{self.url} ({self.host})"


def base_urls(url: URLs) -> list[str]:
    """One URL or several, each once and without a closing slash; raises ValueError for what is none."""
    given = [url] if isinstance(url, str) else list(url)
    if not given:
        raise ValueError("no url is given: one is needed, or a list of them")
    return list(dict.fromkeys(base_url(one) for one in given))


def addresses_of(host: str, port: int) -> list[str]:
    """The IP addresses of a host name, in the resolver's order; raises OSError."""
    found = [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    # An address of one link only (fe80::1%eth0) has no place in a URL.
    usable = [address for address in dict.fromkeys(found) if "%" not in address]
    if not usable:
        raise OSError(f"none of its addresses can be used: {', '.join(found)}")
    return usable


def endpoints_of(url: str) -> list[Endpoint]:
    """An endpoint for each address of the URL's host; raises OSError when it has none."""
    parts = httpx.URL(url)
    name, host = parts.raw_host.decode("ascii"), parts.netloc.decode("ascii")
    addresses = addresses_of(name, parts.port or _PORTS[parts.scheme])
    return [Endpoint(str(parts.copy_with(host=address)).rstrip("/"), host, name) for address in addresses]
