"""One process of the service as its supervisor has it: started, heard, and started again whenever it ends."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from service.errors import StartupError
from service.native.child import Control, control_pair
from service.native.metric_block import Block
from service.native.vitals import Vitals

log = logging.getLogger("regnetx.supervisor")

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 10.0
STABLE_SECONDS = 30.0  # a child that got ready and lived this long starts again without backoff
LOAD_KEY = "native.load_timeout_ms"
LOAD_STEPS = 10  # that loading is waited for in: a machine that was frozen meanwhile makes one of them late
# Large pages for what malloc gets from the kernel: a third of the time of a large JPEG is page faults, for OpenCV
# decodes into fresh memory. glibc from 2.35 on reads it; elsewhere it has no effect.
# And one heap for all threads: malloc_trim gives back the end of no other, and that of a decode thread may be large.
ENVIRONMENTS = {"frontend": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"}}
MODULES = {"engine": "service.native.engine_process", "frontend": "service.native.frontend"}


class ChildGoneError(Exception):
    """The process that was asked is not there, or ended before it replied."""


class Child:
    """One supervised process: kept running until ``stopping``, with growing pauses if it keeps dying."""

    def __init__(
        self, kind: str, number: int, order: dict[str, Any], descriptors: tuple[int, ...], *, load_seconds: float = 0.0
    ) -> None:
        """``order``: its first message; ``descriptors``: what it inherits beside its control connection and block.

        ``load_seconds``: a process that is not ready by then is ended; 0: it may take for ever.
        """
        self.kind, self.number = kind, number
        self.name = f"{kind} {number}"
        self.ready = asyncio.Event()
        self.failure: str | None = None
        self.why_down = ""  # what the last process said before it ended; until another is ready
        self.load_seconds = load_seconds
        self.stopping = False
        self.was_ready = False
        self.restarts = 0
        self.block = Block.create()
        self.vitals = Vitals(self.block)
        self.generation: int | None = None  # of the model, that the process serves
        self.renew(order, descriptors)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}  # by the number of the question
        self._asked = 0
        self._control: Control | None = None
        self._process: asyncio.subprocess.Process | None = None

    def renew(self, order: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        """What the next process of this child is told; the one that runs does not hear of it."""
        self._order = {**order, "block": self.block.descriptor}
        self._descriptors = (*descriptors, self.block.descriptor)

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
            was_stable = self.ready.is_set() and loop.time() - started > STABLE_SECONDS
            self.ready.clear()
            self.block.forget_process()
            self.why_down = self.failure or ""
            if self.stopping:
                return
            if not self.was_ready:
                raise StartupError(self.failure or f"{self.name} {_how_it_ended(code)} before it was ready")
            backoff = FIRST_BACKOFF_SECONDS if was_stable else backoff
            why = f" ({self.failure})" if self.failure else ""
            log.error("%s %s%s; starting it again in %.1f s", self.name, _how_it_ended(code), why, backoff)
            await asyncio.sleep(backoff)
            self.restarts += 1
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    def say(self, message: dict[str, Any]) -> None:
        """Send the child a message, if it is there."""
        if self._control is not None:
            self._control.send(message)

    async def ask(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """The child's reply to a message. Raises ChildGoneError."""
        if self._control is None:
            raise ChildGoneError
        self._asked += 1
        question = self._asked
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[question] = reply
        self._control.send(message | {"question": question}, descriptors)
        try:
            return await reply
        finally:
            del self._replies[question]

    def kill(self) -> None:
        """End the process at once; ``run`` starts another."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def first_ready(self, life: "asyncio.Task[None]") -> None:
        """Until it is ready; ``life``: the task of ``run``. Raises what that raises."""
        ready = asyncio.create_task(self.ready.wait())
        try:
            await asyncio.wait([ready, life], return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                life.result()
        finally:
            ready.cancel()

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
            # First: the next socket may get its number, and the loop would take it for this one.
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    async def _run_once(self) -> int:
        self.failure = None
        try:
            control, self._process = await self._start()
        except (OSError, RuntimeError) as error:  # no memory, process, thread or descriptor to be had: later, perhaps
            self.failure = f"{self.name} cannot be started: {getattr(error, 'strerror', None) or error}"
            return os.EX_OSERR
        self._control = control
        self.generation = self._order.get("number")
        control.send(self._order)
        loop = asyncio.get_running_loop()
        loop.add_reader(control, self._hear, control)
        bound = asyncio.create_task(self._end_late_load())
        try:
            return await self._process.wait()
        finally:
            bound.cancel()
            if control.fileno() >= 0:
                loop.remove_reader(control)
                control.close()
            self._control = None
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_exception(ChildGoneError())

    async def _end_late_load(self) -> None:
        """A file on a dead mount, or a lock in a vendor's library, holds a process that could not say so."""
        if not self.load_seconds:
            return
        for _ in range(LOAD_STEPS):
            await asyncio.sleep(self.load_seconds / LOAD_STEPS)
            if self.ready.is_set():
                return
        self.failure = f"{self.name} has not loaded the model within the {self.load_seconds:g} s of {LOAD_KEY}"
        self.kill()

    async def _start(self) -> tuple[Control, asyncio.subprocess.Process]:
        control, theirs = control_pair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", MODULES[self.kind], str(theirs.fileno()), str(os.getpid()),
                    pass_fds=(theirs.fileno(), *self._descriptors), stdin=asyncio.subprocess.DEVNULL,
                    env={**ENVIRONMENTS.get(self.kind, {}), **os.environ},
                )  # fmt: skip
            except BaseException:
                control.close()
                raise
        return control, process

    def _hear(self, control: Control) -> None:
        try:
            message = control.receive()
        except EOFError:
            asyncio.get_running_loop().remove_reader(control)
            return
        if "question" in message:
            reply = self._replies.get(message["question"])
            if reply is not None and not reply.done():
                reply.set_result(message)
            return
        self.failure = message.get("failed", self.failure)
        if message.get("ready"):
            self.was_ready = True
            self.why_down = ""
            self.ready.set()


async def all_of(*awaited: Coroutine[Any, Any, None]) -> None:
    """All together; the error of the first that has one ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in awaited:
                group.create_task(one)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    known = {number.value: number.name for number in signal.Signals}  # a real-time signal has no name
    return f"was ended by {known.get(-code, f'signal {-code}')}"
