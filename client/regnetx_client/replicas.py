"""Several replicas of one service -> the one to ask next: the least busy of those that answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from regnetx_client.endpoints import Endpoint
from regnetx_client.errors import ConnectionFailed, DeadlineExceeded, RegnetError, Unavailable
from regnetx_client.uploads import Forms

_FIRST_ASIDE = 0.5  # seconds, doubled at each further failure
_LONGEST_ASIDE = 10.0
_PATIENCE = 1.0  # a replica that was given less time than this to answer has not failed


@dataclass(eq=False)
class Replica:
    """What is known of one replica."""

    endpoint: Endpoint
    in_flight: int = 0
    failures: int = 0  # times set aside since it answered last
    aside_until: float = 0.0  # on the monotonic clock
    turn: int = 0  # of the last request
    forms: Forms = field(default_factory=Forms)  # in which it takes images

    def able(self, now: float) -> bool:
        """Not set aside; one that was is tried with a single request before it gets its share again."""
        return now >= self.aside_until and not (self.failures and self.in_flight)


class Replicas:
    """Spreads requests; may be shared by threads, and no method waits.

    The replica with the fewest requests in flight is asked, among equals the one that was asked longest ago: equal
    replicas get equal shares, and one that is slow or stuck gets no more than it works off. One that fails is set
    aside, 0.5 s at first and up to 10 s, or as long as it asked for (Retry-After, 10 s at most). When all are set
    aside, all are asked.
    """

    def __init__(self, endpoints: Iterable[Endpoint] = ()) -> None:
        self._lock = threading.Lock()
        self._all: list[Replica] = []
        self._turns = 0
        self.update(endpoints)

    def __len__(self) -> int:
        return len(self._all)

    def endpoints(self) -> list[Endpoint]:
        """Of all replicas, set aside or not."""
        return [replica.endpoint for replica in self._all]

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """The replicas that there are now; what is known of those that stay is kept."""
        with self._lock:
            known = {replica.endpoint: replica for replica in self._all}
            now = [known.get(endpoint) or Replica(endpoint) for endpoint in dict.fromkeys(endpoints)]
            # Otherwise the first one listed would get the first request of every client there is.
            random.shuffle(now)
            self._all = now

    @contextmanager
    def asked(self, tried: Collection[Replica]) -> Iterator[Replica]:
        """The replica for one request, if possible none of these; what is raised inside tells how it did."""
        replica, began = self._chosen(tried), time.monotonic()
        try:
            yield replica
        except (ConnectionFailed, Unavailable) as error:
            self._fails(replica, error)
            raise
        except DeadlineExceeded as error:
            if time.monotonic() - began >= _PATIENCE:
                self._fails(replica, error)
            raise
        except RegnetError:
            self._answers(replica)  # what it cannot do for this request it may do for the next
            raise
        else:
            self._answers(replica)
        finally:
            with self._lock:
                replica.in_flight -= 1

    def another(self, tried: Collection[Replica]) -> bool:
        """Whether one that is not set aside has not been tried."""
        now = time.monotonic()
        return any(replica.able(now) for replica in self._all if replica not in tried)

    def _chosen(self, tried: Collection[Replica]) -> Replica:
        now = time.monotonic()
        with self._lock:
            fresh = [replica for replica in self._all if replica not in tried] or self._all
            able = [replica for replica in fresh if replica.able(now)] or fresh
            replica = min(able, key=lambda one: (one.in_flight, one.turn))
            self._turns += 1
            replica.turn = self._turns
            replica.in_flight += 1
        return replica

    def _fails(self, replica: Replica, error: RegnetError) -> None:
        now = time.monotonic()
        with self._lock:
            # Many requests that fail together are one failure.
            if now < replica.aside_until:
                return
            pause = min(_FIRST_ASIDE * 2.0 ** min(replica.failures, 8), _LONGEST_ASIDE)
            asked = (error.retry_after or 0.0) if isinstance(error, Unavailable) else 0.0
            replica.failures += 1
            # Clients that met the failure together do not come back together.
            replica.aside_until = now + max(pause * random.uniform(0.8, 1.2), min(asked, _LONGEST_ASIDE))

    def _answers(self, replica: Replica) -> None:
        with self._lock:
            # An answer to what was asked before the failure is no proof.
            if time.monotonic() >= replica.aside_until:
                replica.failures = 0
