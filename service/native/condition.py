"""What an operator's probe is told of the whole service: is it alive, is it ready, and if not, why."""

from collections.abc import Sequence

from service.native.supervised import Child
from service.native.versions import Versions
from service.native.vitals import Readiness


class Condition:
    """Judged at each question from what the processes have last written; nothing is asked of them."""

    def __init__(self, versions: Versions, frontends: Sequence[Child]) -> None:
        self._versions = versions
        self.frontends = frontends
        self.draining = False

    @property
    def engines(self) -> Sequence[Child]:
        """Of the version of the model that serves."""
        return self._versions.engines

    @property
    def why_not_alive(self) -> str:
        """Which frontend's loop stands still; empty while all turn. How much they have to do is not looked at.

        The supervisor ends one that goes on so (watchdog.py). A process that has died or is being started, and an
        engine that is stuck, are its to care for as well: to start everything again would help none of them.
        """
        silent = (_named(child) for child in self.frontends if child.ready.is_set())
        return next(filter(None, silent), "")

    @property
    def why_not_ready(self) -> str:
        """What new requests would miss here; empty where they are welcome."""
        if self.draining:
            return "draining"
        return self._why_no_engine or self._why_no_frontend

    def is_up(self, engine: Child) -> bool:
        """Whether an engine is there and not stuck."""
        return engine.ready.is_set() and not engine.vitals.trouble()

    @property
    def _why_no_engine(self) -> str:
        if any(self.is_up(engine) for engine in self.engines):
            return ""
        return "; ".join(filter(None, (_named(engine) for engine in self.engines)))

    @property
    def _why_no_frontend(self) -> str:
        for child in self.frontends:
            if trouble := _named(child):
                return trouble
            if child.vitals.state is not Readiness.READY:
                return f"{child.name}: {child.vitals.state.words}"
        return ""


def _named(child: Child) -> str:
    """What is wrong with a process, with its name; empty where nothing is."""
    if not child.ready.is_set():
        again = f"being started again{f' ({child.why_down})' if child.why_down else ''}"
        return f"{child.name} is {again if child.was_ready else 'loading'}"
    trouble = child.vitals.trouble()
    return f"{child.name} {trouble}" if trouble else ""
