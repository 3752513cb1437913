"""A server of the table -> started, answering, and gone again with all that it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.asking import ask
from benchmarks.environments import NotInstalled
from benchmarks.forms import BadAnswer
from benchmarks.processes import family
from benchmarks.servers import Place, Server

START_SECONDS = 120
END_SECONDS = 15
PR_SET_CHILD_SUBREAPER = 36
# The first lines of our service.
OWN = (
    re.compile(r"^admin: http://(?P<admin>\S+)", re.MULTILINE),
    re.compile(r"^ready: .* at POST http://(?P<http>[^/]+)/.* and gRPC (?P<grpc>\S+)$", re.MULTILINE),
)


def told_in(text: str) -> dict[str, str]:
    """The addresses, host:port by door, that lines of our service tell."""
    found: dict[str, str] = {}
    for match in filter(None, (pattern.search(text) for pattern in OWN)):
        found |= match.groupdict()
    return found


class NotStarted(Exception):
    """Why a server does not answer."""


@dataclass(frozen=True)
class Running:
    """Where a server answers: host:port by http, grpc and, of ours, admin."""

    addresses: Mapping[str, str]

    def pids(self) -> list[int]:
        """Of the server; whoever else has children must not ask meanwhile."""
        return family(os.getpid())


@contextlib.contextmanager
def launched(server: Server, place: Place, image: bytes) -> Iterator[Running]:
    """The server once it answers the image. Raises NotStarted."""
    # What a server leaves behind becomes our child, so that it is counted and ended.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        command = server.command(place)
    except NotInstalled as error:
        raise NotStarted(f"not installed: {error}") from None
    said = place.folder / "server.log"
    try:
        with said.open("wb") as log:
            process = subprocess.Popen(
                command.words,
                cwd=command.folder,
                env=os.environ | command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    except OSError as error:
        raise NotStarted(str(error)) from None
    try:
        yield _wait(process, server, dict(command.addresses), said, image)
    finally:
        _end(process)


def _wait(
    process: subprocess.Popen[bytes], server: Server, addresses: dict[str, str], said: Path, image: bytes
) -> Running:
    give_up = time.monotonic() + START_SECONDS
    last = "it said nothing"
    while time.monotonic() < give_up:
        text = said.read_text(errors="replace")
        if process.poll() is not None:
            raise NotStarted(f"ended with {process.returncode}: {_last_line(text)}")
        if server.kind == "ours":
            addresses |= told_in(text)
        if "http" in addresses:
            try:
                form = server.doors["http"]
                form.label(ask(addresses["http"], form, image))
            except (OSError, BadAnswer) as error:
                last = str(error)
            else:
                return Running(addresses)
        time.sleep(0.2)
    raise NotStarted(f"no good answer within {START_SECONDS} s: {last}; {_last_line(said.read_text(errors='replace'))}")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, then SIGKILL to whatever is left of it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    while left := family(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)
    process.returncode = process.returncode if process.returncode is not None else -signal.SIGKILL
