"""One process of the service as its supervisor has it: started, heard, and started again whenever it ends."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Any

from service.errors import StartupError
from service.native.child import Control, control_pair
from service.native.metric_block import Block
from service.native.vitals import Vitals

log = logging.getLogger("regnetx.supervisor")

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 10.0
STABLE_SECONDS = 30.0  # a child that lived this long starts again without backoff
# Large pages for what malloc gets from the kernel: a third of the time of a large JPEG is page faults, for OpenCV
# decodes into fresh memory. glibc from 2.35 on reads it; elsewhere it has no effect.
ENVIRONMENTS = {"frontend": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}}
MODULES = {"engine": "service.native.engine_process", "frontend": "service.native.frontend"}


class Child:
    """One supervised process: kept running until ``stopping``, with growing pauses if it keeps dying."""

    def __init__(self, kind: str, number: int, order: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        """``order``: its first message; ``descriptors``: what it inherits beside its control connection and block."""
        self.kind, self.number = kind, number
        self.name = f"{kind} {number}"
        self.ready = asyncio.Event()
        self.failure: str | None = None
        self.stopping = False
        self.was_ready = False
        self.restarts = 0
        self.block = Block.create()
        self.vitals = Vitals(self.block)
        self._order = {**order, "block": self.block.descriptor}
        self._descriptors = (*descriptors, self.block.descriptor)
        self._control: Control | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> None:
        """Start the process, and again whenever it ends. Raises StartupError if it never gets ready."""
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_SECONDS
        while not self.stopping:
            started = loop.time()
            code = await self._run_once()
            self.ready.clear()
            self.block.forget_process()
            if self.stopping:
                return
            if not self.was_ready:
                raise StartupError(self.failure or f"{self.name} {_how_it_ended(code)} before it was ready")
            backoff = FIRST_BACKOFF_SECONDS if loop.time() - started > STABLE_SECONDS else backoff
            why = f" ({self.failure})" if self.failure else ""
            log.error("%s %s%s; starting it again in %.1f s", self.name, _how_it_ended(code), why, backoff)
            await asyncio.sleep(backoff)
            self.restarts += 1
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    def say(self, message: dict[str, Any]) -> None:
        """Send the child a message, if it is there."""
        if self._control is not None:
            self._control.send(message)

    async def stop(self, grace: float) -> None:
        """Let it end within ``grace`` seconds, then end it."""
        self.stopping = True
        process = self._process
        if process is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace)
        if process.returncode is None:
            log.error("%s did not end within %.0f s and was killed", self.name, grace)
            process.kill()
            await process.wait()

    def hang_up(self) -> None:
        """End the control connection: for an engine, the order to stop."""
        self.stopping = True
        if self._control is not None:
            self._control.close()
            self._control = None

    async def _run_once(self) -> int:
        self.failure = None
        control, theirs = control_pair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", MODULES[self.kind], str(theirs.fileno()), str(os.getpid()),
                    pass_fds=(theirs.fileno(), *self._descriptors), stdin=asyncio.subprocess.DEVNULL,
                    env={**ENVIRONMENTS.get(self.kind, {}), **os.environ},
                )  # fmt: skip
            except OSError as error:  # no memory or no process to be had: later, perhaps
                control.close()
                self.failure = f"{self.name} cannot be started: {error.strerror}"
                return os.EX_OSERR
        self._control = control
        control.send(self._order)
        loop = asyncio.get_running_loop()
        loop.add_reader(control, self._hear, control)
        try:
            return await self._process.wait()
        finally:
            if control.fileno() >= 0:
                loop.remove_reader(control)
                control.close()
            self._control = None

    def _hear(self, control: Control) -> None:
        try:
            message = control.receive()
        except EOFError:
            asyncio.get_running_loop().remove_reader(control)
            return
        self.failure = message.get("failed", self.failure)
        if message.get("ready"):
            self.was_ready = True
            self.ready.set()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    known = {number.value: number.name for number in signal.Signals}  # a real-time signal has no name
    return f"was ended by {known.get(-code, f'signal {-code}')}"
