"""Messages and bytes on the gRPC port -> an answer or a foreseen status; never a hang, a crash or an unforeseen error.

A case is one line, ``call`` and the value of x-top-k or ``raw``, and the message or the bytes.
"""

from __future__ import annotations

import base64
import socket
import struct
from contextlib import suppress
from random import Random

import grpc
from fuzz.message_mutation import change, odd_field
from fuzz.mutation import EDGES, mutated
from fuzz.service_under_test import ServiceTarget
from fuzz.targets import BrokenPromiseError
from image_files import FILES

from regnetx_client.npy import npy
from regnetx_client.wire import pipeline_service_pb2 as wire

METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
CALL_SECONDS = 60.0
RAW_SECONDS = 0.05  # gRPC waits for the rest of a frame for minutes; we do not
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FORESEEN = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


class GrpcTarget(ServiceTarget):
    """A batch of calls at a time on one channel; raw bytes on connections of their own."""

    name = "grpc"
    batch = 16

    idle_timeout_ms = 60_000

    def seeds(self) -> list[bytes]:
        png, jpeg = FILES["PNG 1 bit"], FILES["JPEG"]
        text = wire.Request(key=["image"], value=[base64.b64encode(png).decode()], name="regnet", method="prediction")
        tensor = wire.Request(tensors=[wire.Tensor(name="image", elem_type=13, byte_data=npy(jpeg))])
        words = wire.Request(tensors=[wire.Tensor(name="image", elem_type=12, str_data=text.value, shape=[1])])
        messages = [b"call 3\n" + one.SerializeToString() for one in (text, tensor, words)]
        return [*messages, b"raw\n" + PREFACE + _frame(4, 0, 0, b"") + _frame(1, 5, 1, bytes(10))]

    def generate(self, random: Random, seeds: list[bytes]) -> bytes:
        kind, _, content = random.choice(seeds).partition(b"\n")
        if kind == b"raw":
            return b"raw\n" + _raw(random, content)
        if random.random() < 0.2:
            return kind + b"\n" + mutated(content, random, seeds)
        request = wire.Request()
        with suppress(Exception):  # a seed of the corpus need not be a message
            request.ParseFromString(content)
        if random.random() < 0.5:
            image = self.images.generate(random, self.images.seeds())
            file = mutated(npy(image), random) if random.random() < 0.5 else npy(image)
            request.tensors.add(name="i", elem_type=13, byte_data=file)
        for _ in range(random.choice((1, 1, 2, 4))):
            change(request, random)
        packet = request.SerializeToString()
        top_k = random.choice(("", "", "1", "0", "-1", "9" * 40, "1e3", " 2", "x" * 9000))
        return f"call {top_k}\n".encode() + packet + (odd_field(random) if random.random() < 0.3 else b"")

    def check(self, cases: list[bytes]) -> None:
        with grpc.insecure_channel(self.service.rpc) as channel:
            method = channel.unary_unary(METHOD)
            calls = []
            for case in cases:
                first, _, content = case.partition(b"\n")
                if first.startswith(b"call"):
                    top_k = first[5:].decode("latin-1")
                    metadata = (("x-top-k", top_k),) if top_k.isprintable() and top_k.isascii() and top_k else ()
                    calls.append(method.future(content, timeout=CALL_SECONDS, metadata=metadata))
                else:
                    _send_raw(self.service.rpc, content)
            for call in calls:
                _check_call(call)
        self.service.check_log()


def _check_call(call: grpc.Future) -> None:
    try:
        wire.Response.FromString(call.result(CALL_SECONDS + 10))
    except grpc.RpcError as error:
        garbage = error.code() is grpc.StatusCode.INTERNAL and "deserializing request" in (error.details() or "")
        # More metadata than a server takes is refused by gRPC itself.
        if error.code() not in FORESEEN and not garbage:
            raise BrokenPromiseError(f"{error.code()}: {error.details()}") from None
        if "Traceback" in (error.details() or ""):
            raise BrokenPromiseError(f"a stack trace: {error.details()}") from None


def _send_raw(address: str, content: bytes) -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection, suppress(OSError):
        connection.sendall(content)
        connection.settimeout(RAW_SECONDS)
        while connection.recv(65536):
            pass


def _frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = (len(payload) if length is None else length) & 0xFFFFFF
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _raw(random: Random, content: bytes) -> bytes:
    """Frames of every kind after a good preface; or bytes of any kind."""
    if random.random() < 0.3:
        return mutated(content or PREFACE, random)
    frames = [_frame(4, 0, 0, b"")] if random.random() < 0.8 else []
    for _ in range(random.choice((1, 3, 10, 200))):
        payload = random.randbytes(random.choice((0, 4, 5, 6, 8, 40)))
        length = random.choice((None, None, None, *EDGES))
        stream = random.choice((0, 1, 3, 2, 2**31 - 1, 2**32 - 1))
        frames.append(_frame(random.choice((*range(11), 255)), random.randrange(256), stream, payload, length))
    return PREFACE + b"".join(frames)
