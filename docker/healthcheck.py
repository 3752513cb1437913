"""HEALTHCHECK of the images: exit 0 when the service answers. It asks at the ports of the configuration in force."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from pathlib import Path
from urllib.parse import quote

from service.config import Config, load_config
from service.errors import StartupError

TIMEOUT = 4.0  # less than the HEALTHCHECK's own, so that the reason gets into its log
EVERY_INTERFACE = ("0.0.0.0", "::")
# One grey pixel, as PNG: the stock runtime has no other health check than an image that goes through.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def main() -> int:
    """0, or 1 with the reason on standard output, which ``docker inspect`` shows."""
    stock = sys.argv[1:] == ["stock"]
    try:
        config = load_config(Path("config.yml"), os.environ)
        reason = _stock(config) if stock else _native(config)
    except (StartupError, OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or repr(error)
    print(reason or "ready")
    return 1 if reason else 0


def _native(config: Config) -> str:
    """Why it is not ready; empty if it is."""
    host = "localhost" if config.native.host in EVERY_INTERFACE else config.native.host
    if not config.http_port:
        return _grpc_health(host, config.rpc_port)
    status, body = _ask(host, config.http_port, "GET", "/readyz")
    return "" if status == 200 else body.decode(errors="replace").strip()


def _grpc_health(host: str, port: int | None) -> str:
    # Late, because it is needed only where HTTP is closed, and takes longer than all the rest.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        except grpc.RpcError as error:
            return f"gRPC {address}: {error.code().name}"
    return "" if answer.status == answer.SERVING else "not ready"


def _stock(config: Config) -> str:
    if not config.http_port:
        # gRPC alone, and without the health service: that it listens is all there is to see.
        socket.create_connection(("localhost", config.rpc_port or 0), TIMEOUT).close()
        return ""
    request = json.dumps({"key": ["image"], "value": [PIXEL]})
    status, body = _ask("localhost", config.http_port, "POST", f"/{quote(config.service_name)}/prediction", request)
    return str(json.loads(body)["err_msg"]) if status == 200 else f"HTTP {status}"


def _ask(host: str, port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
