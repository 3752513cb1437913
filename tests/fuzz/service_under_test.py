"""A real service with narrow limits for the targets that fuzz its doors, and what must hold of it afterwards."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import time
from pathlib import Path

import yaml
from fuzz.image_target import ImageTarget
from fuzz.targets import BrokenPromiseError, Target
from running import Service, configuration, start, wait_until_ready

from serving_models.bundled.digits.held_out import held_out

GROWTH = 256 << 20  # bytes that a process may take beyond what it had after its first answers
ANSWER_SECONDS = 60
LIMITS = {
    "max_body_bytes": 1 << 20,
    "max_buffered_bytes": 16 << 20,
    "max_image_bytes": 1 << 18,
    "slots": 64,
    "max_image_pixels": 2_000_000,
    "read_timeout_ms": 400,
    "request_timeout_ms": 20_000,
}
SIGNS = ("Traceback", "nobody thought of", "ended with")  # in the log: of a bug, or of a process that died


class ServiceUnderTest:
    """``python -m service serve`` with its log in a file."""

    def __init__(self, model: Path, folder: Path, *, idle_timeout_ms: int) -> None:
        config = folder / "config.yml"
        config.write_text(
            yaml.safe_dump(
                configuration(model, native={**LIMITS, "engine": "paddle", "idle_timeout_ms": idle_timeout_ms})
            )
        )
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = start(["serve", "--config", str(config)], stderr=log)
        self._service: Service = wait_until_ready(self._process)
        self._seen = 0
        image = base64.b64encode(held_out().images[0]).decode()
        self._body = json.dumps({"key": ["image"], "value": [image]})
        self._good = [self._ask("POST", "/regnet/prediction", self._body) for _ in range(20)][-1]
        self._pids = self._service.children()
        self._memory = {pid: _resident(pid) for pid in self._all()}

    @property
    def http(self) -> str:
        """host:port."""
        return self._service.http

    @property
    def rpc(self) -> str:
        """host:port."""
        return self._service.rpc

    def settle(self) -> None:
        """Raises BrokenPromiseError: not alive, other processes, another answer, more memory, a stack trace."""
        status, _ = self._ask("GET", "/healthz", None)
        if status != 200:
            raise BrokenPromiseError(f"/healthz answers {status}")
        if (answer := self._ask("POST", "/regnet/prediction", self._body)) != self._good:
            raise BrokenPromiseError(f"a good request is answered with {answer}")
        if self._service.children() != self._pids:
            raise BrokenPromiseError(f"processes were {self._pids}, now {self._service.children()}")
        for pid in self._all():
            if _resident(pid) - self._memory[pid] > GROWTH:
                raise BrokenPromiseError(f"process {pid} grew from {self._memory[pid]} to {_resident(pid)} bytes")
        self.check_log()

    def check_log(self) -> None:
        """Raises BrokenPromiseError where the log has a stack trace that it had not."""
        text = self._log.read_bytes()[self._seen :].decode(errors="replace")
        self._seen += len(text.encode())
        if any(sign in text for sign in SIGNS):
            raise BrokenPromiseError(f"in the log: {text[-3000:]}")

    def end(self) -> None:
        """Stop it; a service that does not stop is killed, and that is told."""
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BrokenPromiseError("it did not stop within 60 s") from None

    def _all(self) -> list[int]:
        return [self._process.pid, *(pid for pids in self._pids.values() for pid in pids)]

    def _ask(self, verb: str, path: str, body: str | None) -> tuple[int, bytes]:
        """One request on a connection of its own; a 429 or 503 is tried again while the cases before it are answered."""
        give_up = time.monotonic() + ANSWER_SECONDS
        while True:
            connection = http.client.HTTPConnection(self.http, timeout=ANSWER_SECONDS)
            try:
                connection.request(verb, path, body)
                response = connection.getresponse()
                answer = response.status, response.read()
            except OSError as error:
                raise BrokenPromiseError(f"no answer to {verb} {path}: {error!r}") from None
            finally:
                connection.close()
            if answer[0] not in (429, 503) or time.monotonic() > give_up:
                return answer
            time.sleep(0.05)


class ServiceTarget(Target):
    """A target that is a running service; of this kind there is one a door."""

    idle_timeout_ms = 400

    def __init__(self, model: Path) -> None:
        self._model = model
        self.images = ImageTarget()

    def open(self, folder: Path) -> None:
        self.service = ServiceUnderTest(self._model, folder, idle_timeout_ms=self.idle_timeout_ms)

    def close(self) -> None:
        if hasattr(self, "service"):
            self.service.end()

    def settle(self) -> None:
        self.service.settle()


def _resident(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
