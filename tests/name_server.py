"""A name server on a free port of the loopback that knows one name, whose addresses a test may change at any time."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_A, _IN = 1, 1
_ANSWERED, _NO_SUCH_NAME = 0x8580, 0x8583  # authoritative, recursion available
_SECONDS = 5  # what Kubernetes says of its records


@dataclass
class NameServer:
    """Answers for ``name`` with ``addresses`` (IPv4), for any other name that it does not exist."""

    name: str
    port: int
    addresses: list[str] = field(default_factory=list)
    asked: int = 0  # times for the addresses

    def target(self, port: int) -> str:
        """The name as gRPC takes it, with the resolver to ask."""
        return f"dns://127.0.0.1:{self.port}/{self.name}:{port}"

    def answer(self, query: bytes) -> bytes:
        """RFC 1035, 4.1: the question comes back, with an A record for each address behind it."""
        labels, end = [], 12
        while query[end]:
            labels.append(query[end + 1 : end + 1 + query[end]])
            end += 1 + query[end]
        (kind,) = struct.unpack(">H", query[end + 1 : end + 3])
        known = b".".join(labels).decode().lower() == self.name
        found = list(self.addresses) if known and kind == _A else []
        self.asked += known and kind == _A
        head = struct.pack(">HHHHH", _ANSWERED if known else _NO_SUCH_NAME, 1, len(found), 0, 0)
        # 0xC00C: the name that stands at byte 12.
        records = (struct.pack(">HHHIH", 0xC00C, _A, _IN, _SECONDS, 4) + socket.inet_aton(ip) for ip in found)
        return query[:2] + head + query[12 : end + 5] + b"".join(records)


@contextmanager
def name_server(name: str, addresses: list[str]) -> Iterator[NameServer]:
    """Running until the test is over."""

    def serve() -> None:
        while query_and_sender := listener.recvfrom(4096):
            query, sender = query_and_sender
            if not query:
                return
            listener.sendto(server.answer(query), sender)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        server = NameServer(name, listener.getsockname()[1], addresses)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            # An empty datagram is the word to stop.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
                stop.sendto(b"", ("127.0.0.1", server.port))
            thread.join()
