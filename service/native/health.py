"""Whether this frontend is alive, and whether it is ready for requests."""

import asyncio
from collections.abc import Sequence

from service.native.dispatch import Dispatcher
from service.native.vitals import Readiness, Vitals


class Health:
    """Ready: an image has been through an engine, one is connected and not stuck, and nobody has asked us to stop."""

    def __init__(self, dispatcher: Dispatcher, engines: Sequence[Vitals]) -> None:
        """As ``look_at``."""
        self.look_at(dispatcher, engines)
        self.proved = False
        self.draining = False

    def look_at(self, dispatcher: Dispatcher, engines: Sequence[Vitals]) -> None:
        """``engines``: of each engine by instance, as the dispatcher has them."""
        self._dispatcher = dispatcher
        self._engines = engines

    @property
    def changed(self) -> asyncio.Event:
        """Set when something of this may have changed; whoever heard it clears it."""
        return self._dispatcher.changed

    @property
    def state(self) -> Readiness:
        """Ready, or what is missing."""
        connected = [vitals for vitals, is_up in zip(self._engines, self._dispatcher.connected, strict=True) if is_up]
        if self.draining:
            return Readiness.DRAINING
        if not connected:
            return Readiness.NO_ENGINE
        if all(vitals.trouble() for vitals in connected):
            return Readiness.STUCK
        return Readiness.READY if self.proved else Readiness.UNPROVED
