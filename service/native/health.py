"""Whether this frontend is alive, and whether it is ready for requests."""

from service.native.dispatch import Dispatcher


class Health:
    """Ready: an image has been through an engine, one is connected now, and nobody has asked us to stop."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.proved = False
        self.draining = False

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        return self.proved and not self.draining and self._dispatcher.up.is_set()

    @property
    def reason(self) -> str:
        """Why it is not ready, in words for an operator."""
        if self.draining:
            return "draining"
        if not self._dispatcher.up.is_set():
            return "no engine is connected"
        return "ready" if self.proved else "no image has been through the engine yet"
