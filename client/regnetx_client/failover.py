"""A failed attempt -> when to try again, with several replicas: elsewhere, at once, and within a budget."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field

from regnetx_client.deadline import Deadline, Policy
from regnetx_client.errors import ConnectionFailed, RegnetError, ServerError, Unavailable

RETRIES = 2  # unless the caller says otherwise
_FIRST_PAUSE = 0.1  # seconds, doubled at each further failure
_LONGEST_PAUSE = 2.0
_CLOSED = 3001  # err_no of a call that was unanswered when its server had to stop


class Budget:
    """Keeps retries from multiplying an overload: 100 at once, then one for every five calls answered."""

    most = 100.0
    earned = 0.2

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = self.most

    def take(self) -> bool:
        """Whether one more retry may be made."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def earn(self) -> None:
        """A call was answered."""
        with self._lock:
            self._left = min(self._left + self.earned, self.most)


@dataclass(frozen=True)
class Failover:
    """Whether a call that failed is made again; with one replica that is the policy's own rule.

    With several, all that was not answered is tried again at another one: an answer changes nothing at a server, so
    work may be done twice, but no answer counts twice.
    """

    policy: Policy
    several: bool
    budget: Budget = field(default_factory=Budget)

    @classmethod
    def of(cls, timeout: float | None, retries: int | None, *, several: bool) -> Failover:
        """With the number of retries that a caller expects who has not given one; raises ValueError."""
        usual = RETRIES if several else 0
        return cls(Policy(timeout, usual if retries is None else retries), several)

    def pause(self, error: RegnetError, failures: int, deadline: Deadline, *, another: bool) -> float | None:
        """Seconds before the next attempt (0 when there is ``another`` replica to ask), None when there is none."""
        if not self.several:
            return self.policy.pause(error, failures, deadline)
        if failures >= self.policy.retries or not _unanswered(error):
            return None
        pause = 0.0 if another else _pause(error, failures)
        return pause if deadline.allows(pause) and self.budget.take() else None


def _unanswered(error: RegnetError) -> bool:
    if isinstance(error, ServerError):
        return error.err_no == _CLOSED
    return isinstance(error, (ConnectionFailed, Unavailable))


def _pause(error: RegnetError, failures: int) -> float:
    """Longer each time and never the same, so that clients who failed together do not come back together."""
    longest = min(_FIRST_PAUSE * 2.0 ** min(failures, 8), _LONGEST_PAUSE)
    named = (error.retry_after or 0.0) if isinstance(error, Unavailable) else 0.0
    return max(named, longest * random.uniform(0.5, 1.0))
