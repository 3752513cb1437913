"""Standard output and standard error of a service: a reader that stands still makes no process wait.

What cannot be written at once waits in memory, where a thread takes it from; what finds no room there is lost, and told
of by number.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

MOST_LINES = 10_000  # that wait in a process
MOST_BYTES = 1 << 20
LAST_SECONDS = 1.0  # that the end of a process waits for a reader of its last lines


class Piece(NamedTuple):
    """What is written in one go."""

    data: bytes
    lines: int  # that are lost if it is


class Output:
    """One descriptor to write to. Lines keep their order, also where some are lost."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        # The line that stands where others are missing, made from their number; none where it is None
        self.tell_loss: Callable[[int], bytes] | None = None
        self._at_once = _never_waits(descriptor)
        # With a lock that its owner may take again: a destructor may write at any time, in the middle of ``write`` too.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Piece] = deque()  # the first may be on its way
        self._bytes = 0
        self._lost = 0  # lines since they were last told of
        self._is_full = False  # until all that waits is written, or every second line would tell of a loss
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        """Write it, or keep it until it can be written, or lose it; never waits and never raises."""
        with self._lock:
            piece = Piece(data, data.count(b"\n"))
            if self._lost and not self._waiting:
                piece = Piece(self._loss() + data, self._lost + piece.lines)
                self._lost = 0
            left = self._write_now(piece) if self._at_once and not self._waiting else piece
            if left is not None:
                self._keep(left)

    def drain(self, seconds: float) -> None:
        """Wait until nothing waits, for so long at most."""
        with self._changed:
            if self._thread is None and self._waiting:  # no thread was to be had
                self._write_while_there_is_room(seconds)
            else:
                self._changed.wait_for(lambda: not self._waiting, seconds)

    def _write_while_there_is_room(self, seconds: float) -> None:
        room = select.poll()
        room.register(self.descriptor, select.POLLOUT)
        while self._waiting and room.poll(seconds * 1000):
            piece = self._waiting[0]
            self._have_written(piece, is_written=self._write(piece.data))

    def _loss(self) -> bytes:
        return self.tell_loss(self._lost) if self._lost and self.tell_loss else b""

    def _write_now(self, piece: Piece) -> Piece | None:
        """What is left of it."""
        try:
            written = os.write(self.descriptor, piece.data)
        except BlockingIOError:
            return piece
        except OSError:  # nobody reads any more, or a disk is full
            self._lost = piece.lines
            return None
        return Piece(piece.data[written:], piece.lines) if written < len(piece.data) else None

    def _keep(self, piece: Piece) -> None:
        has_room = len(self._waiting) < MOST_LINES and self._bytes + len(piece.data) <= MOST_BYTES
        self._is_full = bool(self._waiting) and (self._is_full or not has_room)
        if self._is_full:
            self._lost += piece.lines
        else:
            self._append(piece)
        if self._thread is None:
            with contextlib.suppress(RuntimeError):  # there are as many threads as may be; at the next line, perhaps
                thread = threading.Thread(target=self._write_what_waits, name="output", daemon=True)
                thread.start()
                self._thread = thread

    def _append(self, piece: Piece) -> None:
        self._waiting.append(piece)
        self._bytes += len(piece.data)
        self._changed.notify_all()

    def _write_what_waits(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                piece = self._waiting[0]
            self._have_written(piece, is_written=self._write(piece.data))

    def _write(self, data: bytes) -> bool:
        """Whether it could be written, however long that took."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:
                room = select.poll()
                room.register(self.descriptor, select.POLLOUT)
                room.poll()
            except OSError:
                return False
        return True

    def _have_written(self, piece: Piece, *, is_written: bool) -> None:
        with self._changed:
            self._waiting.popleft()
            self._bytes -= len(piece.data)
            if not is_written:
                self._lost += piece.lines
            if self._waiting:
                return
            self._is_full = False
            if is_written and self._lost:
                lost, line, self._lost = self._lost, self._loss(), 0
                self._append(Piece(line, lost))
            self._changed.notify_all()


class _Stream(io.RawIOBase):
    """What ``print``, warnings and the traceback of a crash write to."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._output.descriptor

    def isatty(self) -> bool:
        return os.isatty(self._output.descriptor)

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._output.write(piece)
        return len(piece)


_outputs: dict[str, Output] = {}


def unblock(name: Literal["stdout", "stderr"]) -> Output | None:
    """From now on nobody in this process waits for its reader. Where it goes; None if it is closed."""
    stream = getattr(sys, name)
    if stream is not None and name not in _outputs:
        if not _outputs:
            atexit.register(_end)
        _outputs[name] = output = Output({"stdout": 1, "stderr": 2}[name])
        text = io.TextIOWrapper(_Stream(output), "utf-8", "backslashreplace", line_buffering=True)  # type: ignore[type-var]
        setattr(sys, name, text)
    return _outputs.get(name)


def _end() -> None:
    """Let the last lines out, if somebody reads."""
    give_up = time.monotonic() + LAST_SECONDS
    for name, output in _outputs.items():
        getattr(sys, name).flush()
        output.drain(max(0, give_up - time.monotonic()))


def _never_waits(descriptor: int) -> bool:
    """Whether a write to it is done or refused at once.

    O_NONBLOCK belongs to the open file, which is not ours alone: shells and other programs write to it too. So a pipe
    or terminal is opened once more in the descriptor's place, and C libraries that print do not wait either.
    """
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
        return stat.S_ISREG(mode) or stat.S_ISCHR(mode)  # not a socket
    try:
        ours = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # /proc is not there, or the pipe is another user's
        return False
    os.dup2(ours, descriptor)
    os.close(ours)
    return True
