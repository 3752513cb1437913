"""nginx in front of services, as operators have it, for tests; on loopback, ended with the test."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from running import ROOT, wait_for
from stock import free_ports

UNPACKED = ROOT / ".nginx/usr/sbin/nginx"

CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream replicas {{
        {servers}
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 64m;
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def binary() -> str | None:
    return shutil.which("nginx") or (str(UNPACKED) if UNPACKED.exists() else None)


@contextlib.contextmanager
def nginx(folder: Path, upstreams: Sequence[str]) -> Iterator[str]:
    """``host:port`` of a proxy that spreads requests over ``host:port`` addresses, its retries as they are by default.

    With ``max_fails`` an instance that is back counts as failed for a while, and the next must not be stopped meanwhile.
    """
    [port] = free_ports(1)
    servers = " ".join(f"server {address} max_fails=0;" for address in upstreams)
    file = folder / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=folder, servers=servers, port=port))
    process = subprocess.Popen([str(binary()), "-c", str(file), "-p", str(folder), "-e", str(folder / "error.log")])
    try:
        wait_for(lambda: _answers(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    return False
