"""One attempt -> as many as there may be; the two loops every client shares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Callable, TypeVar

from regnetx_client.deadline import Deadline
from regnetx_client.errors import RegnetError

T = TypeVar("T")
# An error, the failures before it, the deadline -> seconds until the next attempt, None when there is none.
Pause = Callable[[RegnetError, int, Deadline], "float | None"]


def retried(attempt: Callable[[], T], pause_after: Pause, deadline: Deadline) -> T:
    """The first answer; raises the last attempt's error."""
    failures = 0
    while True:
        try:
            return attempt()
        except RegnetError as error:
            pause = pause_after(error, failures, deadline)
            if pause is None:
                raise
        failures += 1
        time.sleep(pause)


async def retried_async(attempt: Callable[[], Awaitable[T]], pause_after: Pause, deadline: Deadline) -> T:
    """As ``retried``; other tasks run during the pauses."""
    failures = 0
    while True:
        try:
            return await attempt()
        except RegnetError as error:
            pause = pause_after(error, failures, deadline)
            if pause is None:
                raise
        failures += 1
        await asyncio.sleep(pause)
