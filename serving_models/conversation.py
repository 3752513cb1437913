"""An order to a process of its own -> its answers; its crash, its lack of memory and its silence are a sentence."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

MODULE = "serving_models.latency_process"
SILENCE_SECONDS = 600  # the process tells what it does; RegNetX_32GF is exported in well under that on one core
_REASON_LENGTH = 300


class RefusedError(Exception):
    """What was asked for cannot be done with this machine, engine or model; why, in one line."""


class BrokenError(Exception):
    """It should have been done, and failed; how, in one line."""


def converse(order: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
    """Each line of JSON that the process says. It is ended where nobody listens any more.

    Raises RefusedError, BrokenError.
    """
    with tempfile.TemporaryFile() as errors, _process(errors) as process:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError), process.stdin:  # one that is dead already tells by its status
            process.stdin.write(json.dumps(order).encode())
        for line in _lines(process.stdout):
            answer = json.loads(line)
            if "refused" in answer:
                raise RefusedError(answer["refused"])
            if "broke" in answer:
                raise BrokenError(answer["broke"])
            yield answer
        if process.wait():
            raise BrokenError(_end(process.returncode, errors))


@contextmanager
def _process(errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONWARNINGS": "ignore"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "service.tied", str(os.getpid()), MODULE]
    # In a group of its own: Ctrl-C is for this process, which then ends the other.
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=errors, process_group=0) as process:
        try:
            yield process
        finally:
            process.kill()


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Whole lines, as they come. Raises BrokenError where none comes for too long."""
    rest, last = b"", time.monotonic()
    while True:
        readable, _, _ = select.select([stream], [], [], max(0.0, last + SILENCE_SECONDS - time.monotonic()))
        if not readable:
            raise BrokenError(f"gave no sign of life for {SILENCE_SECONDS} s, and was ended")
        piece = os.read(stream.fileno(), 1 << 16)
        if not piece:
            return
        last = time.monotonic()
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines


def _end(status: int, errors: IO[bytes]) -> str:
    if status == -signal.SIGKILL:
        return "was killed (signal 9), which is what happens where memory ends"
    if status < 0:
        return f"crashed (signal {-status})"
    errors.seek(0)
    said = " ".join(errors.read().decode(errors="replace").split())
    return f"ended with status {status}: {said[-_REASON_LENGTH:] or 'it said nothing'}"
