"""The stock runtime and its own client, as processes of Python 3.9, for the tests that have the two runtimes meet."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from running import ROOT, START_SECONDS, configuration

PYTHON = ROOT / ".venv-stock/bin/python"
READY = re.compile(r"ready: .* at (?:POST http://(?P<http>\S+?)/\S+/prediction and )?gRPC (?P<rpc>\S+)$")
# Stock listens on all interfaces; in a network of its own nobody else can reach it. Only root may make one.
_OWN_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def why_not() -> str:
    """Why the stock runtime cannot be tested here; empty where it can."""
    return "" if PYTHON.exists() else "no .venv-stock: no Python 3.9 was there when `make test` set things up"


@dataclass
class Stock:
    """A running stock server."""

    process: subprocess.Popen[str]
    http: str
    rpc: str
    own_network: bool

    def ask(self, command: Sequence[str]) -> str:
        """The standard output of a client that runs where it can reach the server."""
        enter = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net"] if self.own_network else []
        return output_of([*enter, *command])


def output_of(command: Sequence[str]) -> str:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def can_have_own_network() -> bool:
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    return subprocess.run([*_OWN_NETWORK, "true"], capture_output=True).returncode == 0


def free_ports(count: int) -> list[int]:
    """Ports that are free now: stock takes no 0."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def stock_configuration(model: Path, **changes: Any) -> dict[str, Any]:
    """A configuration that stock takes, with free ports; ``changes`` as for ``running.configuration``."""
    http_port, rpc_port = free_ports(2)
    ports = {"http_port": http_port, "rpc_port": rpc_port, "worker_num": 4}
    return configuration(model, **{**ports, "dag": {"is_thread_op": False}, **changes})


@contextlib.contextmanager
def stock_serving(folder: Path, config: dict[str, Any]) -> Iterator[Stock]:
    """``python -m service.paddle_serving`` with that configuration, ready; its whole group is gone at the end."""
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump(config))
    own_network = can_have_own_network()
    command = [str(PYTHON), "-m", "service.paddle_serving", "--config", str(file)]
    process = subprocess.Popen(
        [*(_OWN_NETWORK if own_network else []), *command],
        cwd=ROOT,
        env={**os.environ, "SERVING_LOG_PATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        match = _wait_until_ready(process)
        yield Stock(process, match["http"] or "", match["rpc"], own_network)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def _wait_until_ready(process: subprocess.Popen[str]) -> re.Match[str]:
    assert process.stdout is not None
    give_up = time.monotonic() + START_SECONDS
    said = []
    while time.monotonic() < give_up:
        readable, _, _ = select.select([process.stdout], [], [], 1)
        line = process.stdout.readline() if readable else "\n"
        if not line:
            break
        said.append(line)
        if match := READY.search(line.rstrip("\n")):
            return match
    raise AssertionError(f"the stock server was not ready; it said {said}, exit code {process.poll()}")


def last_line(printed: str) -> Any:
    """The JSON that a client printed; stock's prints times before."""
    return json.loads(printed.splitlines()[-1])


POST = """
import http.client, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(url.netloc, timeout=60)
connection.request("POST", url.path, sys.argv[2])
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


def post(url: str, body: str) -> list[str]:
    """The command that posts a body and prints status and body of the answer."""
    return [sys.executable, "-c", POST, url, body]


def stock_client(rpc: str, requests: list[dict[str, Any]]) -> list[str]:
    """The command that sends requests by the real PipelineClient and prints the answers as JSON."""
    return [str(PYTHON), str(Path(__file__).parent / "stock_client.py"), rpc, json.dumps(requests)]
