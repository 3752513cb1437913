"""Bytes of requests that a frontend may hold at the same time -> those that fit; the others are told to come again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from service.errors import OverloadedError


class Share:
    """What one request holds of a budget."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def grow_to(self, size: int) -> None:
        """Hold ``size`` bytes from now on, or as many as before if those are more. Raises OverloadedError."""
        if size > self.size:
            self._budget.take(size - self.size, alone=self._budget.used == self.size)
            self.size = size


class Budget:
    """Counts the bytes of requests, from their heads to their answers. A request that is alone is always taken.

    What a request takes beside its bytes is a small multiple of them: base64 decoded, texts, parsed fields.
    """

    def __init__(self, most: int) -> None:
        """``most``: bytes, of all requests together."""
        self.most = most
        self.used = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """A share that is given back at the end, whatever happens."""
        share = Share(self)
        try:
            yield share
        finally:
            self.used -= share.size

    def take(self, size: int, *, alone: bool) -> None:
        """Raises OverloadedError where that is more than there is, unless it is for the only request."""
        if self.used + size > self.most and not alone:
            held = f"requests of {self.used} bytes are in progress, at most {self.most}"
            raise OverloadedError(f"{held}, try again later")
        self.used += size
