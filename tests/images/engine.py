"""This machine -> a Docker engine to verify with: the one that answers here, or one of our own for as long as we run."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from command import attempt, run
from own_engine import own_engine

DEBIAN_CLIENT = "/usr/bin/docker"


class CannotVerify(Exception):
    """There is no engine, and why none can be had; nothing was verified."""


@dataclass(frozen=True)
class Engine:
    """A docker command and the environment that leads it to its engine."""

    client: str
    environment: dict[str, str]
    is_ours: bool

    def docker(self, *arguments: str | Path, seconds: float = 60, stdin: str | None = None) -> str:
        """Standard output of a docker command. Raises CommandError."""
        return run(self.client, *arguments, seconds=seconds, env=self.environment, stdin=stdin)

    def answers(self, *arguments: str | Path, seconds: float = 60) -> bool:
        """Whether a docker command ends with exit code 0."""
        return attempt(self.client, *arguments, seconds=seconds, env=self.environment).returncode == 0


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """The engine of DOCKER_HOST or of this machine, if one answers; otherwise a real one of our own.

    Raises CannotVerify where there is none and none can be started.
    """
    with tempfile.TemporaryDirectory(prefix="regnetx-images-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        found = _answering(environment)
        if found:
            yield Engine(found, environment, is_ours=False)
            return
        _require(environment)
        # No settings of the user's, which may name plugins or engines that are not here.
        environment["DOCKER_CONFIG"] = f"{folder}/config"
        with own_engine(Path(folder)) as socket:
            environment["DOCKER_HOST"] = f"unix://{socket}"
            yield Engine(DEBIAN_CLIENT, environment, is_ours=True)


def _answering(environment: dict[str, str]) -> str | None:
    """A client that can build and whose engine answers."""
    for client in dict.fromkeys(filter(None, (shutil.which("docker"), DEBIAN_CLIENT))):
        if Path(client).exists() and _builds(client, environment) and _hears(client, environment):
            return client
    return None


def _builds(client: str, environment: dict[str, str]) -> bool:
    """Whether it has BuildKit: within itself up to version 22, as a plugin since."""
    version = attempt(client, "version", "--format", "{{.Client.Version}}", env=environment).stdout.partition(".")[0]
    return (version.isdecimal() and int(version) < 23) or not attempt(
        client, "buildx", "version", env=environment
    ).returncode


def _hears(client: str, environment: dict[str, str]) -> bool:
    return not attempt(client, "info", "--format", "{{.ServerVersion}}", env=environment).returncode


def _require(environment: dict[str, str]) -> None:
    if asked := environment.get("DOCKER_HOST"):
        raise CannotVerify(f"no Docker engine answers at DOCKER_HOST={asked}; unset it to have one started here")
    if os.geteuid() != 0:
        raise CannotVerify("no Docker engine answers here, and only root can start one; start yours, or run as root")
    if running := _running():
        raise CannotVerify(
            f"a Docker engine runs here (process {running}) but answers no docker command; a second one would change "
            "its firewall rules: set DOCKER_HOST to its socket, or stop it"
        )
    if not shutil.which("apt-get"):
        raise CannotVerify("no Docker engine answers here, and one can be installed here on Debian alone")


def _running() -> str:
    """The process id of a dockerd that somebody else started; empty if there is none."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text().strip() == "dockerd":
                return entry.name
    return ""
