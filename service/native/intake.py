"""Messages of gRPC calls on their way: refused where the memory of this process says that there are too many.

Nobody can see how much of a message is here, or how long it is, before it is whole. So it is the resident memory that
is looked at, while more messages are on their way than could all be as large as they may be: where it has grown by more
than requests may take together, the calls that came last are refused until few enough are left.
"""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from service.errors import OverloadedError, RequestTooSlowError, ServiceError

LOOK_SECONDS = 0.02  # apart, while there are many; a loopback device moves some 40 MB in it
FEW_LOOK_SECONDS = 1.0  # apart, for those who take too long
PAGE = os.sysconf("SC_PAGE_SIZE")
STATM = Path("/proc/self/statm")

Reading = asyncio.Task[object]


class Intake:
    """Lives on the event loop. A call costs it an entry in a table; what is watched costs a look a second."""

    def __init__(self, *, most_bytes: int, largest: int, seconds: float) -> None:
        """``most_bytes``: of messages together; ``largest``: bytes of one; ``seconds``: for one to come whole."""
        self._most_bytes = most_bytes
        self._sure = max(1, most_bytes // largest)  # so many are never too many
        self._seconds = seconds
        self._since: dict[Reading, float] = {}  # in the order in which they came
        self._refused: dict[Reading, ServiceError] = {}
        self._before = 0  # resident bytes when there were few
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf  # when the timer ends

    async def whole(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """The message of a call once it is whole. Raises OverloadedError, RequestTooSlowError; as ``read``."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._since[task] = loop.time()
        if len(self._since) == self._sure + 1:
            self._before = _resident()
        self._look_in(LOOK_SECONDS if len(self._since) > self._sure else FEW_LOOK_SECONDS)
        try:
            return await read()
        except asyncio.CancelledError:
            if task not in self._refused:
                raise
            task.uncancel()
            raise self._refused[task] from None
        finally:
            del self._since[task]
            self._refused.pop(task, None)

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() + seconds >= self._looks_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = loop.time() + seconds
        self._timer = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer, self._looks_at = None, math.inf
        self._refuse_the_slow()
        many = len(self._since) - self._sure
        if many > 0 and _resident() - self._before > self._most_bytes:
            for task in list(self._since)[-many:]:
                self._refuse(task, OverloadedError("messages on their way take all memory for them, try again later"))
        if self._since:
            self._look_in(LOOK_SECONDS if many > 0 else FEW_LOOK_SECONDS)

    def _refuse_the_slow(self) -> None:
        late = asyncio.get_running_loop().time() - self._seconds
        for task, since in list(self._since.items()):
            if since > late:
                return
            self._refuse(task, RequestTooSlowError(f"the message did not come whole within {self._seconds:g} s"))

    def _refuse(self, task: Reading, error: ServiceError) -> None:
        if task not in self._refused:
            self._refused[task] = error
            task.cancel()


def _resident() -> int:
    return int(STATM.read_bytes().split()[1]) * PAGE
