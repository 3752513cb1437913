"""Bytes on the HTTP port -> a well-formed answer or the end of the connection, soon, and never an unforeseen error."""

from __future__ import annotations

import base64
import json
import re
import selectors
import socket
import time
from dataclasses import dataclass
from random import Random

from forms import FORM, form, part
from fuzz.mutation import changed_value, json_text, mutated
from fuzz.service_under_test import ServiceTarget
from fuzz.targets import BrokenPromiseError
from image_files import FILES

PATIENCE = 60.0  # seconds until a connection counts as hung; the service's own bounds are below a second, or 20 s
HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
# The gateway's own answer to a name that is not UTF-8, as stock gives it
FORESEEN = b"string field contains invalid UTF-8"
HEADERS = (
    *(b"Content-Type: application/json", b"Content-Type: image/jpeg", b"Content-Type: multipart/form-data"),
    *(b"Content-Type: multipart/form-data; boundary=" + b"x" * 300, b"Content-Type: \xff\xfe", b"Content-Type:"),
    *(
        b"Content-Encoding: gzip",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Expect: 100-continue",
    ),
    *(b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 1, 1"),
    *(b"Connection: close", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA"),
    *(
        b"X-Top-K: 3",
        b"X-Top-K: -1",
        b"X-Top-K: 99999999999999999999",
        b"X-Top-K: \xc2\xb2",
        b"X-Request-Id: " + b"\xff" * 90,
    ),
    *(
        b"Grpc-Timeout: 1n",
        b"Grpc-Timeout: 99999999H",
        b"Grpc-Timeout: -5S",
        b"Grpc-Timeout: \xd9\xa3S",
        b"Grpc-Timeout: 3",
    ),
    *(
        b"Cookie: " + b"a" * 70_000,
        b"A: b\r\n" * 600 + b"A: b",
        b" folded: x",
        b"no colon",
        b"Nul: \0",
        b"Traceparent: 00-0-0-0",
    ),
)
TARGETS = (
    *(b"/regnet/prediction",) * 8,
    *(
        b"/regnet/prediction?topk=3",
        b"/regnet/prediction?topk=\xff&topk=1e9",
        b"/regnet/prediction:verb",
        b"/",
        b"*",
        b"//",
    ),
    *(b"/%ff/prediction", b"/regnet/%00", b"/a%2Fb", b"http://x/regnet/prediction", b"/other/prediction", b"/healthz"),
    *(b"/readyz", b"/metrics", b"/regnet/prediction#x", b"/" + b"a" * 5000, b"/..;/..%2f..", b"/regnet/pr\xc3\xa9"),
)
VERBS = (b"POST",) * 10 + (b"GET", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT", b"TRACE", b"PRI", b"post", b"M-SEARCH")


class HttpTarget(ServiceTarget):
    """A batch of connections at a time, each with its own case."""

    name = "http"
    batch = 32

    def seeds(self) -> list[bytes]:
        png, jpeg = FILES["PNG 1 bit"], FILES["JPEG"]
        body = _json(png)
        return [
            _request(b"POST", b"/regnet/prediction", [], body),
            _request(b"POST", b"/regnet/prediction", [b"Content-Type: image/jpeg"], jpeg),
            _request(
                b"POST", b"/regnet/prediction", [b"Content-Type: " + FORM.encode()], form(part(jpeg), part(png, "b"))
            ),
            _head(b"POST", b"/regnet/prediction", [b"Transfer-Encoding: chunked"]) + _chunked(body, Random(1)),
            _request(b"GET", b"/healthz", [], b"") * 3,
        ]

    def generate(self, random: Random, seeds: list[bytes]) -> bytes:
        if random.random() < 0.25:
            return mutated(random.choice(seeds), random, seeds)
        requests = b"".join(self._one(random) for _ in range(random.choice((1, 1, 1, 1, 2, 4))))
        if random.random() < 0.1:
            return requests[: random.randrange(len(requests) + 1)]
        return requests

    def _one(self, random: Random) -> bytes:
        headers, body = self._body(random)
        headers = [*headers, *random.sample(HEADERS, random.choice((0, 0, 1, 1, 3)))]
        random.shuffle(headers)
        verb, path = random.choice(VERBS), random.choice(TARGETS)
        if random.random() < 0.2:
            return _head(verb, path, [*headers, b"Transfer-Encoding: chunked"]) + _chunked(body, random)
        return _request(verb, path, headers, body)

    def _body(self, random: Random) -> tuple[list[bytes], bytes]:
        image = random.choice([*FILES.values()])
        if random.random() < 0.4:
            image = self.images.generate(random, self.images.seeds())
        way = random.randrange(4)
        if way == 0:
            return [b"Content-Type: application/octet-stream"], image
        if way == 1:
            whole = form(*(part(image, name) for name in ("a", "b", "a")[: random.randrange(4)]))
            whole = mutated(whole, random) if random.random() < 0.6 else whole
            return [b"Content-Type: " + FORM.encode()], whole
        value = json.loads(_json(image))
        for _ in range(random.choice((0, 1, 1, 2))):
            value = changed_value(value, random)
        return [], json_text(value, random)

    def check(self, cases: list[bytes]) -> None:
        for case, answer in zip(cases, exchange(self.service.http, cases, PATIENCE), strict=True):
            if answer is None:
                raise BrokenPromiseError(f"neither an answer nor an end within {PATIENCE} s to {case[:200]!r}")
            _check_answers(answer)
        self.service.check_log()


@dataclass
class _Connection:
    socket: socket.socket
    unsent: memoryview
    received: bytearray
    ended: bool = False

    def advance(self, events: int) -> None:
        """Send and receive what goes without waiting."""
        try:
            if events & selectors.EVENT_WRITE:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            if events & selectors.EVENT_READ:
                piece = self.socket.recv(65536)
                self.received += piece
                self.ended = not piece
        except BlockingIOError:
            return
        except OSError:  # reset: the server has had enough of what is still on its way
            self.ended = True

    @property
    def events(self) -> int:
        """What it waits for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.unsent else 0)


def exchange(address: str, cases: list[bytes], patience: float) -> list[bytes | None]:
    """What comes back to each case on a connection of its own until the server ends it; None where it never does."""
    host, port = address.split(":")
    connections = [
        _Connection(socket.create_connection((host, int(port)), timeout=patience), memoryview(case), bytearray())
        for case in cases
    ]
    give_up = time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        for one in connections:
            one.socket.setblocking(False)
            selector.register(one.socket, one.events, one)
        while selector.get_map() and time.monotonic() < give_up:
            for key, events in selector.select(give_up - time.monotonic()):
                key.data.advance(events)
                if key.data.ended:
                    selector.unregister(key.fileobj)
                elif key.events != key.data.events:
                    selector.modify(key.fileobj, key.data.events, key.data)
    for one in connections:
        one.socket.close()
    return [bytes(one.received) if one.ended else None for one in connections]


def _check_answers(answer: bytes) -> None:
    """Answers one after the other, whole, and none of them a surprise."""
    if b"Traceback" in answer:
        raise BrokenPromiseError(f"a stack trace: {answer[:2000]!r}")
    position = 0
    while position < len(answer):
        match = HEAD.match(answer, position)
        if match is None:
            # A reset may cut the last answer; what is there must still be the beginning of one.
            if answer[position:].startswith(b"HTTP/1.1 "[: len(answer) - position]):
                return
            raise BrokenPromiseError(f"no HTTP at byte {position}: {answer[position : position + 200]!r}")
        lengths = re.search(rb"\r\ncontent-length: (\d+)\r\n", match[0], re.IGNORECASE)
        end = match.end() + (int(lengths[1]) if lengths else 0)
        body = answer[match.end() : end]
        if match[1] == b"500" and FORESEEN not in body:
            raise BrokenPromiseError(f"status 500: {body[:500]!r}")
        # The answer to HEAD has the length of a body and none.
        position = match.end() if body and body[:9] == b"HTTP/1.1 "[: len(body)] else end


def _json(image: bytes) -> bytes:
    return json.dumps({"key": ["image"], "value": [base64.b64encode(image).decode()]}).encode()


def _head(verb: bytes, path: bytes, headers: list[bytes]) -> bytes:
    return b"\r\n".join([b"%b %b HTTP/1.1" % (verb, path), b"Host: x", *headers, b"", b""])


def _request(verb: bytes, path: bytes, headers: list[bytes], body: bytes) -> bytes:
    return _head(verb, path, [*headers, b"Content-Length: %d" % len(body)]) + body


def _chunked(body: bytes, random: Random) -> bytes:
    """Chunks of any size; sometimes a size that lies, an extension, trailers, or no end."""
    pieces, position = [], 0
    while position < len(body) and len(pieces) < 200:
        size = random.choice((1, 7, 100, 5000))
        piece = body[position : position + size]
        position += size
        told = random.choice((b"%x",) * 60 + (b"%x;a=b", b"-%x", b"0%x", b"fffffffff%x", b"%xg", b""))
        pieces.append((told % len(piece) if b"%" in told else told) + b"\r\n" + piece + b"\r\n")
    return b"".join(pieces) + random.choice(
        (b"0\r\n\r\n",) * 6 + (b"0\r\nA: b\r\n\r\n", b"0\r\n", b"", b"00000000\r\n\r\n")
    )
