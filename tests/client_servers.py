"""Servers for the client's tests: Paddle Serving's gateway as it answers on the wire, and sockets that misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from multipart import MultipartSegment, PushMultipartParser, parse_options_header

LABELS = [f"class {index}" for index in range(10)]


def class_of(image: bytes) -> int:
    """The class that the test servers see in these bytes; different images nearly always differ."""
    return hashlib.sha256(image).digest()[0] % 10


def answer_of(keys: list[str], values: list[str], top_k: int | None = None) -> dict[str, object]:
    """What the stock server answers (reference, 1.4 and 4.1), with the extra key of ours when top-k is asked."""
    classes = [class_of(base64.b64decode(value, validate=True)) for value in values]
    labels, probs = [LABELS[index] for index in classes], [0.9341402053833008 for _ in classes]
    texts = {"label": str(labels), "prob": str(probs)}
    if top_k is not None:
        texts["top_k"] = json.dumps([_ranked(best, top_k) for best in classes], separators=(",", ":"))
    return {"err_no": 0, "err_msg": "", "key": [*texts], "value": [*texts.values()], "tensors": []}


def _ranked(best: int, top_k: int) -> list[dict[str, object]]:
    order = [(best + step) % 10 for step in range(min(top_k, 10))]
    return [{"class_id": i, "label": LABELS[i], "prob": 0.5 / 2**rank} for rank, i in enumerate(order)]


@dataclass
class Gateway:
    """A running server and all that it was sent."""

    url: str
    knows_top_k: bool
    takes_bytes: bool = False  # in place of base64, and says so
    requests: list[tuple[str, dict[str, str], object]] = field(default_factory=list)
    connections: list[object] = field(default_factory=list)
    refuse: Callable[[list[str]], tuple[int, dict[str, str], bytes] | None] = lambda values: None


def _body_of(content: bytes, content_type: str) -> dict[str, list[str]]:
    """The JSON that would have said the same."""
    media, options = parse_options_header(content_type)
    if media == "application/octet-stream":
        return {"key": ["image"], "value": [base64.b64encode(content).decode()]}
    files: dict[str, bytes] = {}
    for event in PushMultipartParser(options["boundary"], strict=True).parse(content):
        if isinstance(event, MultipartSegment):
            assert (event.filename, event.content_type) == (event.name, "application/octet-stream")
            files[event.name] = b""
        elif event is not None:
            files[[*files][-1]] = event
    return {"key": [*files], "value": [base64.b64encode(file).decode() for file in files.values()]}


class _Server(ThreadingHTTPServer):
    state: Gateway

    def handle_error(self, *_: object) -> None:
        """Clients that leave are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.state.connections.append(self.client_address)

    def do_GET(self) -> None:
        ready = self.path == "/readyz" and self.server.state.knows_top_k
        self.answer(200 if ready else 404, {"content-type": "text/plain"}, b"ready\n" if ready else b"Not Found\n")

    def do_POST(self) -> None:
        state = self.server.state
        content = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        takes_bytes, media = state.takes_bytes, headers["content-type"].partition(";")[0]
        offer = (
            {"accept-post": "application/json, application/octet-stream, multipart/form-data"} if takes_bytes else {}
        )
        if media != "application/json" and not takes_bytes:
            state.requests.append((self.path, headers, content))
            return self.answer(400, {}, b'{"error":"","code":3,"message":"invalid character","details":[]}')
        body = json.loads(content) if media == "application/json" else _body_of(content, headers["content-type"])
        state.requests.append((self.path, headers, body))
        if (refusal := state.refuse(body["value"])) is not None:
            return self.answer(*refusal)
        top_k = int(headers["x-top-k"]) if state.knows_top_k else None
        answer = json.dumps(answer_of(body["key"], body["value"], top_k), separators=(",", ":"))
        sent = {"content-type": "application/json", "grpc-metadata-content-type": "application/grpc", **offer}
        return self.answer(200, sent, answer.encode())

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def gateway(
    *,
    knows_top_k: bool = False,
    takes_bytes: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Gateway]:
    """``POST /{name}/{method}`` on a free port; ``refuse`` may answer in its place: (status, headers, body)."""
    with _Server((host, port), _Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.state = Gateway(f"{'https' if tls else 'http'}://{host}:{server.server_port}", knows_top_k, takes_bytes)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.state
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def raw_server(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """Hands every connection to ``serve`` in a thread; the event is set when the test is over. Yields the port."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        # The client may go away at any time: that is what these tests are about.
        with connection, suppress(OSError):
            serve(connection, over)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            if over.is_set():
                return connection.close()
            threads.append(threading.Thread(target=one, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield port
        finally:
            over.set()
            socket.create_connection(("127.0.0.1", port)).close()
            accepting.join()
            for thread in threads:
                thread.join()


def read_request(connection: socket.socket) -> None:
    """Reads one HTTP request to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
