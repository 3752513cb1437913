"""Processes that stock forks -> processes that end with the one that forked them."""

from __future__ import annotations

import ctypes
import os
import signal
from types import FrameType

PR_SET_PDEATHSIG = 1


def tie_children() -> None:
    """From now on every forked child is killed by the kernel when its parent ends, however that ends.

    Stock's gateway else survives SIGTERM and holds the HTTP port. NOTE the kernel means the thread that forked; stock
    forks from the main thread only.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parents: list[int] = []

    def remember() -> None:
        parents[:] = [os.getpid()]

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Ctrl-C reaches the whole group; the parent decides what it means
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getppid() != parents[0]:
            os._exit(1)  # the parent had ended before it could be watched

    os.register_at_fork(before=remember, after_in_child=tie)


def end_at_once() -> None:
    """SIGTERM and SIGINT end this process, and so its children; stock cannot finish what is in flight."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    # NOTE an ordinary exit would wait for threads that wait for ops that are gone
    os._exit(0)
