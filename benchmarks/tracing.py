"""What traces cost: CPU time of a frontend for a lone request, with tracing off, on, and on but not sampled.

    python -m benchmarks.tracing [--requests 1000]

Three services with the digits model at once, asked over HTTP in turns, so that other work on the machine disturbs all
alike. The collector beside them takes everything and reads nothing; its time is not counted. Prints a table.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

from benchmarks.processes import children, memory, used
from benchmarks.subjects import ROOT
from benchmarks.throughput import configuration, serving

TURNS = 25
WARM_UP = 100
SEND_SECONDS = 6  # the SDK sends at least every 5 s
MIB = 2**20
UNSAMPLED = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}
DIGITS = ROOT / "serving_models/bundled/digits"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="to each service; default: 1000")
    requests = parser.parse_args().requests
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = _export(folder)
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.enter_context(_collector())}
        services = {
            name: stack.enter_context(_service(folder / name, model, environment, headers))
            for name, environment, headers in (("off", {}, {}), ("on", on, {}), ("on, not sampled", on, UNSAMPLED))
        }
        before = {name: used(service.pid) for name, service in services.items()}
        for _ in range(TURNS):
            for service in services.values():
                service.ask(requests // TURNS)
        time.sleep(SEND_SECONDS)
        print("| traces | frontend ms | of it event loop ms | frontend MiB |\n|---|--:|--:|--:|")
        for name, service in services.items():
            spent, [frontend] = used(service.pid).since(before[name]), children(service.pid)["frontend"]
            times = (seconds / (requests // TURNS * TURNS) * 1e3 for seconds in (spent.frontend, spent.loop))
            print(f"| {name} | {' | '.join(f'{time:.2f}' for time in times)} | {memory(frontend) / MIB:.0f} |")


class Service:
    """A running service and a connection to it."""

    def __init__(self, pid: int, address: str, headers: Mapping[str, str]) -> None:
        self.pid, self._headers = pid, dict(headers)
        self._connection = http.client.HTTPConnection(address)
        picture = base64.b64encode((DIGITS / "samples/seven.png").read_bytes()).decode()
        self._body = json.dumps({"key": ["image"], "value": [picture]})

    def ask(self, count: int) -> None:
        """So many requests, one after the other."""
        for _ in range(count):
            self._connection.request("POST", "/regnet/prediction", self._body, self._headers)
            answer = self._connection.getresponse()
            if answer.status != http.HTTPStatus.OK or json.loads(answer.read())["err_no"]:
                raise SystemExit(f"a request failed: {answer.status}")


@contextmanager
def _service(
    folder: Path, model: Path, environment: Mapping[str, str], headers: Mapping[str, str]
) -> Iterator[Service]:
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        with mock.patch.dict(os.environ, environment):
            process, ready = stack.enter_context(serving(configuration(folder, ROOT / "config.yml", model)))
        service = Service(process.pid, ready["http"], headers)
        service.ask(WARM_UP)
        yield service


@contextmanager
def _collector() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """A batch; the empty answer is an empty ExportTraceServiceResponse."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _export(folder: Path) -> Path:
    command = [sys.executable, "-m", "serving_models", "export", str(DIGITS / "RegNetX_200MF_digits.pdparams")]
    subprocess.run([*command, "--name", "digits", "--to", str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "digits/serving_server"


if __name__ == "__main__":
    main()
