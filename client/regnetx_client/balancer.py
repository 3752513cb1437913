"""One service, whatever serves it -> where each attempt of a call goes, and whether there is another attempt."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from regnetx_client.deadline import Deadline
from regnetx_client.endpoints import Endpoint, URLs, base_urls
from regnetx_client.errors import ConnectionFailed, RegnetError
from regnetx_client.failover import Failover
from regnetx_client.replicas import Replica, Replicas
from regnetx_client.resolution import Resolution


class Balancer:
    """What Client and AsyncClient share: the replicas of a service. No method waits; threads may share it."""

    def __init__(self, url: URLs, timeout: float | None, retries: int | None, *, all_addresses: bool) -> None:
        bases = base_urls(url)
        self.failover = Failover.of(timeout, retries, several=all_addresses or len(bases) > 1)
        self.policy = self.failover.policy
        self._replicas = Replicas([] if all_addresses else map(Endpoint, bases))
        self._resolution = Resolution(bases, self._replicas.update) if all_addresses else None

    def refresh(self) -> Future[None] | None:
        """Looks for new addresses when it is time to; returns what has to be waited for before there are any."""
        return self._resolution.refresh() if self._resolution else None

    def endpoints(self) -> list[Endpoint]:
        """Of all replicas; raises ConnectionFailed when no address is known."""
        if not self._replicas and self._resolution:
            problem = self._resolution.problem or "no address of this name in the time allowed"
            raise ConnectionFailed(problem, sent=False)
        return self._replicas.endpoints()

    def course(self) -> Course:
        """For one call."""
        return Course(self._replicas, self._resolution, self.failover)


class Course:
    """One call's way through the replicas."""

    def __init__(self, replicas: Replicas, resolution: Resolution | None, failover: Failover) -> None:
        self._replicas, self._resolution, self._failover = replicas, resolution, failover
        self._tried: set[Replica] = set()

    @contextmanager
    def replica(self) -> Iterator[Replica]:
        """Where the next attempt goes, if possible where none was; what is raised inside tells how it went."""
        try:
            with self._replicas.asked(self._tried) as replica:
                self._tried.add(replica)
                yield replica
        except ConnectionFailed:
            if self._resolution:
                self._resolution.doubt()
            raise
        self._failover.budget.earn()

    def pause(self, error: RegnetError, failures: int, deadline: Deadline) -> float | None:
        """Seconds before the next attempt, None when there is none."""
        another = self._replicas.another(self._tried)
        if not another:
            self._tried.clear()
        return self._failover.pause(error, failures, deadline, another=another)
