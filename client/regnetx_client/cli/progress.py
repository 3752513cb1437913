"""How far a run has come -> one line on stderr, when that is a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_CELLS = 24
_EVERY = 0.1  # seconds
_ERASE = "\r\x1b[K"


class Progress:
    """A bar that is wiped before a result is printed on the same terminal, and drawn again below it."""

    def __init__(self, stream: TextIO, total: int, *, shares_terminal: bool) -> None:
        self._stream = stream
        self._total = total
        self._shares_terminal = shares_terminal
        self._on = total > 1 and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._drawn: float | None = None

    @contextmanager
    def around(self, done: int, failed: int) -> Iterator[None]:
        """Makes room for what is printed inside."""
        if self._shares_terminal:
            self.clear()
        yield
        if self._on and (self._drawn is None or time.monotonic() - self._drawn >= _EVERY):
            self._draw(done, failed)

    def clear(self) -> None:
        """Wipes the bar."""
        if self._drawn is not None:
            print(_ERASE, end="", file=self._stream, flush=True)
            self._drawn = None

    def _draw(self, done: int, failed: int) -> None:
        now = time.monotonic()
        full = _CELLS * done // self._total
        line = f"[{'#' * full}{'.' * (_CELLS - full)}] {done}/{self._total}"
        line += f"  {done / max(now - self._began, 0.001):.0f}/s" + (f"  {failed} failed" if failed else "")
        print(f"{_ERASE}{line}", end="", file=self._stream, flush=True)
        self._drawn = now
