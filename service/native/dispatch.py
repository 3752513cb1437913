"""Slots -> the engine with the least to do -> scores. The pool of slots is the admission control.

A slot belongs to one image from ``acquire`` to ``release``. A ticket, new for each submission, tells an answer of now
from one that an engine still owed to the slot's last owner. A slot whose engine dies is submitted to another.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.errors import EngineError, OverloadedError, RpcPackageError, UnavailableError
from service.native.engine_link import EngineLink
from service.native.metric_block import Block, Gauge
from service.native.metrics import SLOTS_IN_USE, SUBMITTED_IMAGES
from service.native.pace import Pace
from service.native.slots import ABANDONED, NOT_BEGUN, UNCOUNTED, SlotMemory
from service.native.wire import Status

MOST_TRIES = 2  # an image whose batch has killed two engines is not tried on a third


@dataclass
class Submission:
    """One image that an engine works on, or that waits for an engine to come up."""

    slot: int
    done: asyncio.Future[None]
    ticket: int = 0
    tries: int = 0  # runs that engines have begun with it, and have not survived
    link: EngineLink | None = None


class Dispatcher:
    """The slots of one frontend and its links to all engines. Lives on the event loop; nothing here blocks."""

    def __init__(
        self,
        memory: SlotMemory,
        links: Sequence[EngineLink],
        block: Block,
        *,
        pace: Pace | None = None,
        patience: float = 10.0,
    ) -> None:
        """``block``: where the slots in use are counted; ``pace``: told of runs, asked what is worth while to take;
        ``patience``: seconds without any engine during which requests are still taken, to wait for the next one."""
        self.pace = pace or Pace()
        self._patience = patience
        self._down_since = time.monotonic()
        self._memory = memory
        self._links = links
        # Last in, first out: a service with little to do touches few slots, and their memory stays in the cache.
        self._free = list(range(memory.layout.slots))
        self._submissions: dict[int, Submission] = {}
        self._homeless: deque[Submission] = deque()
        self._ticket = 0
        self._slots_in_use = Gauge(block, SLOTS_IN_USE)
        self._submitted = Gauge(block, SUBMITTED_IMAGES)
        self.changed = asyncio.Event()  # an engine came up or was lost; whoever heard it clears it
        self.idle = asyncio.Event()  # no slot is taken
        self.idle.set()
        self.down = asyncio.Event()
        self.down.set()
        for link in links:
            link.on_answers = self._heard
            link.on_change = self._changed

    def let_go(self) -> None:
        """The links have ended. What they knew of us would keep the memory of the slots until a garbage collection."""
        for link in self._links:
            del link.on_answers, link.on_change

    @property
    def capacity(self) -> int:
        """All slots, free or taken."""
        return self._memory.layout.slots

    @property
    def in_use(self) -> int:
        """Slots that are taken."""
        return self.capacity - len(self._free)

    @property
    def connected(self) -> list[bool]:
        """Of each engine, by instance, whether it has warmed up and is connected."""
        return [link.is_up for link in self._links]

    def check_room(self, seconds: float) -> None:
        """Raises what ``acquire`` would say to a single image that has so many seconds: asked before a request is read,
        which costs more."""
        self._check_engine()
        self._check_room(1, seconds)

    def acquire(self, count: int, deadline: float) -> list[int]:
        """``count`` slots for one request, all or none. ``deadline`` in seconds of the monotonic clock.

        Raises OverloadedError when that many are not free now, or would not be answered in time; RpcPackageError when
        there never are that many; UnavailableError when no engine has been there for longer than our patience.
        """
        self._check_engine()
        if count > self.capacity:
            raise RpcPackageError(f"{count} images in one request, at most {self.capacity} accepted")
        self._check_room(count, deadline - time.monotonic())
        slots = [self._free.pop() for _ in range(count)]
        self.idle.clear()
        self._publish_use(count)
        self._memory.deadlines[slots] = deadline
        return slots

    def _check_engine(self) -> None:
        if self.down.is_set() and time.monotonic() - self._down_since > self._patience:
            raise UnavailableError("no engine is running, try again later")

    def _check_room(self, count: int, seconds: float) -> None:
        if count > len(self._free):
            raise OverloadedError(f"all {self.capacity} slots are taken, try again later")
        if self.pace.is_too_late(self.in_use, count, seconds, engines=len(self._links)):
            raise OverloadedError(
                f"not to be answered within {seconds:.3g} s behind what is in progress, try again later"
            )

    def release(self, slot: int) -> None:
        """Give a slot back; no thread and no engine may still look at it."""
        self._free.append(slot)
        self._publish_use(-1)
        if not self.in_use:
            self.idle.set()

    def abandon(self, slots: Sequence[int]) -> None:
        """Nobody waits for these any more: the engine passes them over if it has not begun."""
        self._memory.deadlines[list(slots)] = ABANDONED

    def input(self, slot: int) -> np.ndarray:
        """Where the input (3, height, width) float32 of a slot is written."""
        image: np.ndarray = self._memory.inputs[slot]
        return image

    def deadline(self, slot: int) -> float:
        """The deadline of a slot, or ABANDONED."""
        return float(self._memory.deadlines[slot])

    def run_began(self, slot: int) -> float:
        """When the run that answered a slot began, in seconds of the monotonic clock, which is ``perf_counter``'s."""
        return float(self._memory.began[slot])

    async def prove(self, slot: int) -> None:
        """Send a slot the whole way, in which nobody has written, for the way itself. Raises as ``scores``."""
        self._memory.submitted[slot] = UNCOUNTED
        await self._submit(slot)

    async def scores(self, slot: int) -> np.ndarray:
        """Submit a written slot; its scores (classes,) float32 when an engine has answered.

        Raises EngineError if the engine failed, TimeoutError if the slot's deadline passed before it was run.
        """
        self._memory.submitted[slot] = time.monotonic()
        self._submitted.add(1)
        try:
            await self._submit(slot)
        finally:
            self._submitted.add(-1)
        row: np.ndarray = self._memory.scores[slot].copy()
        return row

    async def _submit(self, slot: int) -> None:
        submission = Submission(slot, asyncio.get_running_loop().create_future())
        self._send(submission)
        try:
            await submission.done
        except asyncio.CancelledError:
            self._submissions.pop(slot, None)  # who comes with its answer finds nobody
            self._homeless = deque(one for one in self._homeless if one is not submission)
            raise

    def _publish_use(self, change: int) -> None:
        self._memory.taken[0] = self.in_use
        self._slots_in_use.add(change)  # while the model is reloaded another dispatcher counts here, too

    def _send(self, submission: Submission) -> None:
        up = [link for link in self._links if link.is_up]
        if not up:
            self._homeless.append(submission)
            return
        well = [link for link in up if not link.is_stuck] if len(up) > 1 else up
        link = min(well or up, key=lambda link: link.load)
        self._ticket = (self._ticket + 1) % 2**32
        submission.ticket, submission.link = self._ticket, link
        self._memory.began[submission.slot] = NOT_BEGUN
        self._submissions[submission.slot] = submission
        link.load += 1
        link.send([(submission.slot, submission.ticket)])

    def _heard(self, link: EngineLink, answers: Sequence[tuple[int, int, int]]) -> None:
        """What an engine says after a run, or of images that it has passed over: (slot, status, ticket) of each."""
        ran = [slot for slot, status, ticket in answers if self._answered(slot, status, ticket)]
        if ran and link.load:
            self.pace.ran(link, len(ran), time.monotonic() - self.run_began(ran[0]))

    def _answered(self, slot: int, status: int, ticket: int) -> bool:
        """Whether a run has had it."""
        submission = self._submissions.get(slot)
        if submission is None or submission.ticket != ticket:
            return False
        del self._submissions[slot]
        if submission.link is not None:
            submission.link.load -= 1
        if status == Status.DONE:
            submission.done.set_result(None)
        elif status == Status.EXPIRED:
            submission.done.set_exception(TimeoutError())
        else:
            submission.done.set_exception(EngineError("the engine failed on the batch of this image"))
        return status == Status.DONE

    def _changed(self, link: EngineLink) -> None:
        """An engine came up, or was lost with everything it had been sent."""
        self.changed.set()
        if link.is_up:
            self.down.clear()
            for _ in range(len(self._homeless)):
                self._send(self._homeless.popleft())
            return
        self.pace.lost(link)
        if not any(other.is_up for other in self._links):
            self.down.set()
            self._down_since = time.monotonic()
        for submission in [one for one in self._submissions.values() if one.link is link]:
            del self._submissions[submission.slot]
            submission.tries += self.run_began(submission.slot) != NOT_BEGUN  # or it only waited there
            if submission.tries < MOST_TRIES:
                self._send(submission)
            else:
                submission.done.set_exception(EngineError("the engine died twice on the batch of this image"))
