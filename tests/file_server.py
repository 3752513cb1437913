"""A server of one file on the loopback, which can cut, lie, refuse and forget."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """One file, and how it is served; ``ranges`` are those that were asked for, in order."""

    content: bytes
    path: str
    cuts: list[int] = field(default_factory=list)  # bytes sent before each of the first answers breaks off
    etag: str | None = None
    honours_ranges: bool = True
    announced: int | None = None
    status: int = 200
    ranges: list[str | None] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    redirect: str | None = None  # the address to which every request is sent on

    @property
    def tag(self) -> str:
        return self.etag or f'"{hashlib.md5(self.content).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    file: Server

    def do_GET(self) -> None:
        self.file.ranges.append(self.headers["Range"])
        self.file.authorizations.append(self.headers["Authorization"])
        if self.file.redirect:
            self.send_response(302)
            self.send_header("Location", self.file.redirect)
            self.end_headers()
            return
        if self.path != self.file.path or self.file.status != 200:
            self.send_error(404 if self.file.status == 200 else self.file.status)
            return
        first = self._first()
        if first >= len(self.file.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.file.content)}")
            self.end_headers()
            return
        self._send(first)

    def _first(self) -> int:
        wanted = self.headers["Range"]
        if wanted and self.file.honours_ranges and self.headers["If-Range"] == self.file.tag:
            return int(wanted.removeprefix("bytes=").rstrip("-"))
        return 0

    def _send(self, first: int) -> None:
        size = len(self.file.content)
        rest = self.file.content[first:]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Content-Length", str(self.file.announced or len(rest)))
        self.send_header("ETag", self.file.tag)
        self.end_headers()
        self.wfile.write(rest[: self.file.cuts.pop(0)] if self.file.cuts else rest)

    def log_message(self, *_: Any) -> None:
        """Tests look at answers, not at logs."""


@contextmanager
def running(server: Server) -> Iterator[str]:
    """The address at which the file is served."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"file": server}))
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
