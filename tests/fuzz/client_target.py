"""Answers of a hostile server -> regnetx_client: predictions, or one of its documented exceptions, in bounded time.

A case is one line with the door and what the server does, and the bytes that it answers: ``http`` whole answers,
``json`` bodies, ``grpc CODE`` messages, ``h2`` bytes on gRPC's port.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import grpc
from client_servers import answer_of
from fuzz.message_mutation import change, odd_field
from fuzz.mutation import changed_value, json_text, mutated
from fuzz.targets import BrokenPromiseError, Target
from image_files import FILES

from regnetx_client import Client, RegnetError
from regnetx_client.grpc import GrpcClient
from regnetx_client.wire import pipeline_service_pb2 as wire

TIMEOUT = 1.0  # seconds that a call may take
SLACK = 10.0  # seconds that a busy machine may add
PNG = FILES["PNG 1 bit"]
ANSWER: dict[str, Any] = {
    "err_no": 0,
    "err_msg": "",
    "tensors": [],
    "key": ["label", "prob", "top_k"],
    "value": ["['a']", "[0.5]", '[[{"class_id": 1, "label": "a", "prob": 0.5}]]'],
}
HEADS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n",
    b"HTTP/1.1 503 Busy\r\nretry-after: Fri, 31 Feb 9999999 99:99:99 GMT\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 999 \xff\r\naccept-post: application/octet-stream\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n",
)


class ClientTarget(Target):
    """Both clients against servers in this process."""

    name = "client"
    batch = 4

    def seeds(self) -> list[bytes]:
        body = json.dumps(ANSWER).encode()
        message = wire.Response(key=ANSWER["key"], value=ANSWER["value"])
        stock = json.dumps(answer_of(["image"], [""])).encode()
        heads = [b"http\n" + head + b"content-length: %d\r\n\r\n" % len(body) + body for head in HEADS]
        return [b"json\n" + body, b"json\n" + stock, *heads, b"grpc 0\n" + message.SerializeToString(), b"h2\n" + body]

    def generate(self, random: Random, seeds: list[bytes]) -> bytes:
        kind, _, content = random.choice(seeds).partition(b"\n")
        if kind == b"json":
            return b"json\n" + json_text(_changed_answer(random), random)
        if kind.startswith(b"grpc"):
            return b"grpc %d\n" % random.choice((0, 0, 0, 0, 1, 4, 8, 13, 14, 16)) + _message(random)
        return kind + b"\n" + mutated(content, random, seeds)

    def open(self, folder: Path) -> None:
        self._case = b""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._raw = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(self._infer)
        name = "baidu.paddle_serving.pipeline_serving.PipelineService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"inference": handler}),))
        self._grpc = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._listener.close()
        self._server.stop(0)

    def check(self, cases: list[bytes]) -> None:
        for case in cases:
            self._case = case
            start = time.monotonic()
            try:
                self._ask(case.partition(b"\n")[0])
            except RegnetError as error:
                if not str(error):
                    raise BrokenPromiseError(f"{type(error).__name__} without a word") from error
            if time.monotonic() - start > TIMEOUT + SLACK:
                raise BrokenPromiseError(f"a call of {time.monotonic() - start:.1f} s with timeout {TIMEOUT}")

    def _ask(self, kind: bytes) -> None:
        if kind.startswith((b"grpc", b"h2")):
            with GrpcClient(self._raw if kind == b"h2" else self._grpc, timeout=TIMEOUT / 2, retries=0) as client:
                client.classify(PNG, top_k=3)
        else:
            with Client(f"http://{self._raw}", timeout=TIMEOUT, retries=0) as client:
                client.classify(PNG, top_k=3)

    def _infer(self, request: bytes, context: Any) -> bytes:
        first, _, content = self._case.partition(b"\n")
        code = int(first.split()[-1])
        if code:
            context.set_trailing_metadata((("retry-after", content[:20].hex()),))
            statuses = {status.value[0]: status for status in grpc.StatusCode}
            context.abort(statuses.get(code, grpc.StatusCode.UNKNOWN), content[:200].decode("latin-1"))
        return content

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection, self._case), daemon=True).start()

    def _answer(self, connection: socket.socket, case: bytes) -> None:
        kind, _, content = case.partition(b"\n")
        if kind == b"json":
            content = HEADS[0] + b"content-length: %d\r\n\r\n" % len(content) + content
        with connection, suppress(OSError):
            connection.settimeout(5)
            connection.recv(65536)
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def _changed_answer(random: Random) -> Any:
    value = changed_value(ANSWER, random)
    if random.random() < 0.5:  # the texts inside are a language of their own
        texts = [mutated(text.encode(), random).decode("utf-8", "replace") for text in ANSWER["value"]]
        top_k = json_text(changed_value(json.loads(ANSWER["value"][2]), random), random).decode("utf-8", "replace")
        value = {**ANSWER, "value": random.choice((texts, [*ANSWER["value"][:2], top_k], texts[:2]))}
    return value


def _message(random: Random) -> bytes:
    message = wire.Response(key=ANSWER["key"], value=ANSWER["value"])
    for _ in range(random.choice((1, 1, 2, 4))):
        change(message, random)
    packet = message.SerializeToString()
    packet = packet + odd_field(random) if random.random() < 0.3 else packet
    return mutated(packet, random) if random.random() < 0.3 else packet
