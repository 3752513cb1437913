"""Host names -> the endpoints behind them, asked for again and again while the client is in use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Callable

from regnetx_client.endpoints import Endpoint, endpoints_of

_FRESH = 5.0  # seconds; Kubernetes' DNS lets its records be kept as long
_SOONEST = 1.0  # after a failure
_OLD = 60.0  # a client that slept so long waits for new addresses instead of trying the old ones


class Resolution:
    """Tells ``found`` the endpoints of all URLs, and tells it anew every 5 s and within 1 s after a failure.

    The system's resolver can only be waited for, so it is asked in a thread: a call waits for it only when there are
    no addresses yet, or only very old ones. A name that can no longer be resolved keeps the addresses it had.
    """

    def __init__(self, urls: Sequence[str], found: Callable[[list[Endpoint]], None]) -> None:
        self._known: dict[str, list[Endpoint]] = {url: [] for url in urls}
        self._found = found
        self._lock = threading.Lock()
        self._running: Future[None] | None = None
        self._asked = self._answered = -_OLD
        self._doubted = False
        self.problem = ""

    def doubt(self) -> None:
        """A replica has failed: the addresses may be others by now."""
        self._doubted = True

    def refresh(self) -> Future[None] | None:
        """Asks when it is time to; returns what a call has to wait for, or None when it need not."""
        now = time.monotonic()
        with self._lock:
            if self._running is None and now - self._asked >= (_SOONEST if self._doubted else _FRESH):
                self._start(now)
            return self._running if now - self._answered >= _OLD else None

    def _start(self, now: float) -> None:
        self._asked, self._doubted = now, False
        self._running = Future()
        # Running, so that a caller who gives up cannot cancel it for the others.
        self._running.set_running_or_notify_cancel()
        threading.Thread(target=self._resolve, args=(self._running,), name="regnetx-resolve", daemon=True).start()

    def _resolve(self, running: Future[None]) -> None:
        try:
            resolved = [self._ask(url) for url in self._known]
            if any(resolved):
                self._found(_each_once(self._known.values()))
                self._answered = time.monotonic()
        finally:
            with self._lock:
                self._running = None
            running.set_result(None)

    def _ask(self, url: str) -> bool:
        try:
            self._known[url] = endpoints_of(url)
        except (OSError, UnicodeError) as error:
            self.problem = f"{url}: {getattr(error, 'strerror', None) or error}"
            return False
        return True


def _each_once(found: Iterable[list[Endpoint]]) -> list[Endpoint]:
    """An address that two names have is one replica, under the name given first: its connections know no other."""
    by_url: dict[str, Endpoint] = {}
    for endpoints in found:
        for endpoint in endpoints:
            by_url.setdefault(endpoint.url, endpoint)
    return list(by_url.values())
