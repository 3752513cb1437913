"""A container as the documentation starts it, and what a test may ask of it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import CommandError, attempt
from engine import Engine

ROOT = Path(__file__).parents[2]
SEVEN = ROOT / "serving_models/bundled/digits/samples/seven.png"
BODY = json.dumps({"key": ["image"], "value": [base64.b64encode(SEVEN.read_bytes()).decode()]})
# As in docs/containers.md and compose.yaml.
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:size=64m")
PUBLISHED = ("--publish=127.0.0.1::18080", "--publish=127.0.0.1::9993")
HEALTH = ("--health-interval=1s", "--health-retries=2", "--health-timeout=5s")
START_SECONDS = 180  # a bound for a machine that is busy; a start takes a few seconds
LABEL = "regnetx-verify"


@dataclass
class Container:
    """A container that was started by ``running``."""

    engine: Engine
    name: str

    def inspect(self, template: str) -> str:
        """One of its facts, as ``docker inspect --format`` prints it."""
        return self.engine.docker("inspect", "--format", template, self.name).strip()

    def logs(self) -> str:
        """What it said, on both streams."""
        said = attempt(self.engine.client, "logs", self.name, env=self.engine.environment)
        return said.stdout + said.stderr

    def python(self, program: str, *arguments: str, seconds: float = 60) -> str:
        """What a Python program prints that runs within it, as its user."""
        return self.engine.docker("exec", self.name, "python", "-c", program, *arguments, seconds=seconds)

    def address(self, port: int) -> str:
        """Where a port of it is published on this machine."""
        return self.engine.docker("port", self.name, f"{port}/tcp").split()[0]

    def ask(self, path: str = "/regnet/prediction", body: str | None = BODY, port: int = 18080) -> tuple[int, str]:
        """The status and the body that its HTTP door answers; without a body it is a GET."""
        connection = http.client.HTTPConnection(self.address(port), timeout=60)
        with contextlib.closing(connection):
            connection.request("POST" if body else "GET", path, body)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def label(self) -> str:
        """The label that it gives the picture of a seven."""
        status, answer = self.ask()
        assert status == 200, answer
        return str(json.loads(answer)["value"][0])

    @property
    def health(self) -> str:
        """``starting``, ``healthy`` or ``unhealthy``; ``exited`` where it does not run any more."""
        return self.inspect("{{if .State.Running}}{{.State.Health.Status}}{{else}}exited{{end}}")

    def wait_for_health(self, wanted: str) -> None:
        """Until Docker says so; fails at once if it ends, and after a bound."""
        wait_for(lambda: self.health in (wanted, "exited"), START_SECONDS)
        assert self.health == wanted, self.logs()

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, once it has ended."""
        return int(self.engine.docker("wait", self.name, seconds=seconds))


@contextlib.contextmanager
def running(engine: Engine, image: str, *options: str, command: tuple[str, ...] = ()) -> Iterator[Container]:
    """A container of that image, removed at the end."""
    name = f"{LABEL}-{uuid.uuid4().hex[:12]}"
    engine.docker("run", "--detach", "--name", name, "--label", LABEL, *options, image, *command)
    try:
        yield Container(engine, name)
    finally:
        engine.answers("rm", "--force", "--volumes", name)


@contextlib.contextmanager
def serving(engine: Engine, image: str, *options: str) -> Iterator[Container]:
    """A hardened container that is healthy, its ports published on this machine."""
    with running(engine, image, *HARDENED, *PUBLISHED, *HEALTH, *options) as container:
        container.wait_for_health("healthy")
        yield container


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Until a condition holds of which no event tells; fails after ``seconds``."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise CommandError("it did not come to that in time")
        time.sleep(0.1)
