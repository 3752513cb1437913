"""Work in a thread that nobody waits for at exit: a file system that does not answer holds it for ever."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def aside(work: Callable[[], Found]) -> "asyncio.Future[Found]":
    """What ``work`` returns or raises, from a thread of its own. Cancelled, it goes on, and what it finds is dropped.

    asyncio.to_thread and its kind are waited for: when the loop ends, and again when the interpreter does.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Found] = loop.create_future()

    def settle(found: Found | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found)  # type: ignore[arg-type]  # it is there where no error is

    def run() -> None:
        found, error = None, None
        try:
            found = work()
        except Exception as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=run, daemon=True).start()
    return future
