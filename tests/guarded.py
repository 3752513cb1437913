"""A service whose standard error the tests read, and callers who show certificates and tokens, or do not."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from calling import BODY, METHOD, TEXT
from certificates import Pair
from running import Service, serving, wait_for

from regnetx_client.wire import pipeline_service_pb2 as wire

PACKET = wire.Request(key=["image"], value=[TEXT]).SerializeToString()
SECONDS = 30


@dataclass
class Guarded:
    """A running service and what it has written on standard error."""

    service: Service
    file: Path

    @property
    def log(self) -> str:
        return self.file.read_text(encoding="utf-8")

    def says(self, text: str) -> str:
        """The first line of the log that holds ``text``, once it is there."""
        wait_for(lambda: text in self.log)
        return next(line for line in self.log.splitlines() if text in line)


@contextlib.contextmanager
def guarded(folder: Path, config: dict[str, Any], **environment: str) -> Iterator[Guarded]:
    with serving(folder, config, log=folder / "log", **environment) as service:
        yield Guarded(service, service.log)


def caller_context(ca: Pair, own: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca.certificate))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


def connection(service: Service, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(service.http, timeout=SECONDS)
    return http.client.HTTPSConnection(service.http, timeout=SECONDS, context=context)


def post(
    service: Service, context: ssl.SSLContext | None = None, body: Any = BODY, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    with contextlib.closing(connection(service, context)) as asking:
        asking.request("POST", f"/{service.name}/prediction", body, headers)
        answer = asking.getresponse()
        return answer.status, answer.headers, answer.read()


def channel(service: Service, ca: Pair | None = None, own: Pair | None = None) -> grpc.Channel:
    if ca is None:
        return grpc.insecure_channel(service.rpc)
    files = [None if path is None else path.read_bytes() for path in (ca.certificate, own and own.key)]
    credentials = grpc.ssl_channel_credentials(*files, own and own.certificate.read_bytes())
    # Else channels of one process share their connection
    return grpc.secure_channel(service.rpc, credentials, [("grpc.use_local_subchannel_pool", 1)])


def call(asking: grpc.Channel, *metadata: tuple[str, str], packet: bytes = PACKET) -> grpc.StatusCode:
    """The status of a call; an answer is one without error."""
    with asking:
        try:
            packet = asking.unary_unary(METHOD)(packet, timeout=SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
        assert wire.Response.FromString(packet).err_no == 0
        return grpc.StatusCode.OK
