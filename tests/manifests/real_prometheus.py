"""Prometheus and promtool: those of this machine, or Debian's, unpacked into the environment; and one that runs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import ROOT
from running import end, wait_for

SECONDS = 30


def tools() -> Path:
    """The folder of both programs. Where there are none, the test is skipped with the reason; in CI it fails."""
    return fetched("prometheus", "the alert rules and the dashboard")


def fetched(name: str, what: str) -> Path:
    """What ``requirements/NAME.sh`` finds or unpacks. Where there is nothing, the test of ``what`` is skipped."""
    command = ["sh", ROOT / f"requirements/{name}.sh", Path(sys.prefix) / name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"{what} are NOT tested: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@dataclass(frozen=True)
class Prometheus:
    """One that answers on loopback."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its API. Raises HTTPError where it refuses a query."""
        asked = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        """The series, or the one number, that an expression yields now."""
        data = self.get("query", query=expression)
        return list(data["result"]) if data["resultType"] == "vector" else [data["result"]]


@contextlib.contextmanager
def prometheus(config: dict[str, Any], folder: Path) -> Iterator[Prometheus]:
    """One with that configuration, ready; it listens on loopback alone and keeps everything in ``folder``."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [tools() / "prometheus", f"--config.file={folder / 'prometheus.yml'}",
               f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn",
               # It finds an Alertmanager 5 s after its start; what fired before is sent again, else after a minute.
               "--rules.alert.resend-delay=1s"]  # fmt: skip
    with started(command, folder) as url:
        yield Prometheus(url)


@contextlib.contextmanager
def started(command: list[str | Path], folder: Path) -> Iterator[str]:
    """A program of Prometheus's family on loopback -> its URL once it is ready; ended at the end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen([*command, f"--web.listen-address={address}"], cwd=folder)
    try:
        wait_for(lambda: process.poll() is not None or _is_ready(address), SECONDS)
        assert process.poll() is None, f"{command[0]} ended before it was ready"
        yield f"http://{address}"
    finally:
        end(process, SECONDS)


def _is_ready(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/-/ready", timeout=SECONDS) as answer:
        return bool(answer.status == 200)
    return False
