"""A gRPC server on a free port that answers as Paddle Serving's pipeline does."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from client_servers import answer_of
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from regnetx_client.wire import pipeline_service_pb2 as wire

METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
HEALTH = "/grpc.health.v1.Health/Check"


# What stock says of any array (tests/recorded/digits.json)
_OF_AN_ARRAY = (
    "Log_id: 0  Raise_msg: numpy.ndarray object has no attribute encode  "
    "ClassName: Op._run_preprocess.<locals>.preprocess_help  FunctionName: preprocess_help"
)


def _file_in(tensor: wire.Tensor) -> bytes:
    assert tensor.elem_type == 13
    array = np.load(io.BytesIO(tensor.byte_data), allow_pickle=False)
    assert (array.dtype, array.ndim) == (np.uint8, 1)
    return array.tobytes()


@dataclass
class Pipeline:
    """A running server, all that it was sent, and what it answers."""

    address: str = ""
    knows_top_k: bool = False
    takes_bytes: bool = False  # in tensors, and says so
    health: bytes | None = None
    requests: list[tuple[wire.Request, dict[str, str], float | None]] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)
    respond: Callable[[wire.Request, Any], wire.Response | None] = lambda request, context: None

    def infer(self, request: wire.Request, context: Any) -> wire.Response:
        metadata = dict(context.invocation_metadata())
        self.requests.append((request, metadata, context.time_remaining()))
        self.peers.add(context.peer())
        if (response := self.respond(request, context)) is not None:
            return response
        if self.takes_bytes:
            context.set_trailing_metadata([("x-accepts-bytes", "1")])
        elif request.tensors:
            return wire.Response(err_no=10000, err_msg=_OF_AN_ARRAY)
        top_k = int(metadata["x-top-k"]) if self.knows_top_k else None
        texts = [*request.value, *(base64.b64encode(_file_in(tensor)).decode() for tensor in request.tensors)]
        answer = answer_of([*request.key, *(tensor.name for tensor in request.tensors)], texts, top_k)
        return wire.Response(err_no=0, key=answer["key"], value=answer["value"])

    def service(self, details: Any) -> Any:
        if details.method == METHOD:
            return grpc.unary_unary_rpc_method_handler(
                self.infer, wire.Request.FromString, wire.Response.SerializeToString
            )
        if details.method == HEALTH and self.health is not None:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: self.health)
        return None


@contextmanager
def pipeline(
    *,
    knows_top_k: bool = False,
    takes_bytes: bool = False,
    address: str = "127.0.0.1:0",
    health: bytes | None = None,
    watched: HealthServicer | None = None,
    credentials: grpc.ServerCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Iterator[Pipeline]:
    """``health`` is what Check answers; ``watched`` a whole health service."""
    state = Pipeline(knows_top_k=knows_top_k, takes_bytes=takes_bytes, health=health)
    handler = type("Handler", (grpc.GenericRpcHandler,), {"service": lambda self, details: state.service(details)})()
    with futures.ThreadPoolExecutor(8) as threads:
        limit = ("grpc.max_receive_message_length", 1 << 20)
        server = grpc.server(threads, handlers=[handler], options=[limit, *options])
        if watched is not None:
            add_HealthServicer_to_server(watched, server)
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        state.address = f"{address.rpartition(':')[0]}:{port}"
        server.start()
        try:
            yield state
        finally:
            # Not enter_graceful_shutdown: it sends to watchers under a lock that one who leaves just then waits for.
            server.stop(0).wait()


def refusing(code: grpc.StatusCode, details: str, *metadata: tuple[str, str]) -> Callable:
    def respond(request: wire.Request, context: Any) -> None:
        context.set_trailing_metadata(metadata)
        context.abort(code, details)

    return respond
