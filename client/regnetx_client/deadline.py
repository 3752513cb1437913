"""Seconds a caller allows -> what is left of them, and what may be tried again in that time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from typing import Union

from regnetx_client.errors import ConnectionFailed, DeadlineExceeded, RegnetError, Unavailable

_FIRST_PAUSE = 0.1  # seconds, doubled at each further refused connection
_LONGEST_PAUSE = 2.0
_MOMENT = 0.001  # 0 would mean "do not block" to a socket


class Default(Enum):
    """Tells "not given" from None, which means no deadline."""

    TIMEOUT = "the client's own timeout"


Timeout = Union[float, None, Default]


@dataclass(frozen=True)
class Deadline:
    """A point on the monotonic clock, ``seconds`` after the call began; neither is set when there is none."""

    seconds: float | None
    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Starts the clock."""
        return cls(seconds, None if seconds is None else time.monotonic() + seconds)

    def remaining(self) -> float | None:
        """Seconds left, None without a deadline; raises DeadlineExceeded when none are."""
        if self.at is None:
            return None
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def left(self) -> float | None:
        """As ``remaining``, but never an error: a step that begins too late gets a moment and then times out."""
        return None if self.at is None else max(self.at - time.monotonic(), _MOMENT)

    def passed(self) -> bool:
        """Whether nothing is left."""
        return self.at is not None and time.monotonic() >= self.at

    def allows(self, pause: float) -> bool:
        """Whether something is left after so many seconds."""
        return self.at is None or pause < self.at - time.monotonic()

    def exceeded(self) -> DeadlineExceeded:
        """The error of this deadline."""
        return DeadlineExceeded(f"no answer within {self.seconds:g} s" if self.seconds else "no answer in time")


@dataclass(frozen=True)
class Policy:
    """How long a caller waits and how often it asks again."""

    timeout: float | None
    retries: int

    def __post_init__(self) -> None:
        seconds(self.timeout, "timeout")
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise ValueError(f"retries {self.retries!r} is not a whole number from 0 on")

    def deadline(self, timeout: Timeout) -> Deadline:
        """The deadline of one call."""
        if isinstance(timeout, Default):
            return Deadline.after(self.timeout)
        return Deadline.after(seconds(timeout, "timeout"))

    def pause(self, error: RegnetError, failures: int, deadline: Deadline) -> float | None:
        """Seconds to wait before asking the same server again after so many failures, or None when this error is final.

        Only what surely repeats no work is tried again: a refused connection, and a refusal that names a time.
        """
        pause = _pause(error, failures)
        if pause is None or failures >= self.retries:
            return None
        return pause if deadline.allows(pause) else None


def _pause(error: RegnetError, failures: int) -> float | None:
    if isinstance(error, Unavailable):
        return error.retry_after
    if isinstance(error, ConnectionFailed) and not error.sent:
        # The exponent is bounded first: retries need not be.
        return min(_FIRST_PAUSE * 2.0 ** min(failures, 8), _LONGEST_PAUSE)
    return None


def seconds(value: float | None, name: str) -> float | None:
    """The value itself when it is a duration or None (no limit); raises ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} {value!r} is not a positive number of seconds, nor None for no limit")
    return float(value)
