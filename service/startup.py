"""What a program does before all else: its standard streams are there, and signals mean at once what they mean later.

It imports nothing that takes time: until it has run, a signal ends the program in the kernel's way or in Python's.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import cache
from types import FrameType

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by the number of their descriptor


def open_missing_streams() -> None:
    """Open /dev/null for each of descriptors 0 to 2 that whoever started the program has closed.

    The next file, socket or shared memory would get its number, and what is printed would be written into that.
    """
    for number, (name, mode) in enumerate(STREAMS):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class EarlySignals:
    """SIGTERM and SIGINT end the program at once, with 0: nothing is in flight. SIGHUP is remembered as a reload."""

    def __init__(self) -> None:
        """From here on, until others are asked to heed them."""
        # Who has SIGHUP ignored, as nohup does, wants the service to outlive its terminal.
        self._ends_with_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()
        self.reload_asked = False
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, _end)
        signal.signal(signal.SIGHUP, self._hang_up)

    def terminal_has_gone(self) -> bool:
        """Whether there was a terminal that the service ends with, and it is there no longer."""
        return self._ends_with_terminal and not _has_terminal()

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        if self.terminal_has_gone():
            _end(number, frame)
        self.reload_asked = True


@cache
def early_signals() -> EarlySignals:
    """Those of this process, heeded from the first call on; for the main thread."""
    return EarlySignals()


def _end(_number: int, _frame: FrameType | None) -> None:
    """Not by an exception: one that strikes in a callback of an import is printed there, and lost."""
    os._exit(0)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
