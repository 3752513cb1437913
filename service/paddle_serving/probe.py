"""Two ports -> an answered request: only then is a stock server, which has no health check, known to be ready."""

from __future__ import annotations

import http.client
import json
import time
from urllib.parse import quote

import grpc
from paddle_serving_server.pipeline.proto import (  # type: ignore[import-not-found]
    pipeline_service_pb2,
    pipeline_service_pb2_grpc,
)

# One grey pixel, as PNG
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
TIMEOUT = 60.0
PAUSE = 0.2


def refusal(name: str, rpc_port: int, http_port: int | None) -> str:
    """Ask for the class of one pixel, through every process there is, until that is answered; empty if well."""
    while (err_msg := _http(name, http_port) if http_port else _grpc(rpc_port)) is None:
        time.sleep(PAUSE)
    return err_msg


def _http(name: str, port: int) -> str | None:
    """The ``err_msg`` of the answer; None while there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    body = json.dumps({"key": ["ready"], "value": [IMAGE]})
    try:
        connection.request("POST", f"/{quote(name)}/prediction", body)
        answer = connection.getresponse()
        return str(json.loads(answer.read())["err_msg"]) if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _grpc(port: int) -> str | None:
    """As ``_http``."""
    request = pipeline_service_pb2.Request(key=["ready"], value=[IMAGE])
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub = pipeline_service_pb2_grpc.PipelineServiceStub(channel)
            return str(stub.inference(request, timeout=TIMEOUT).err_msg)
        except grpc.RpcError:
            return None
