"""One version of the model with the engines that run it. While the model is reloaded there are two."""

import asyncio
import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from service.config import Config
from service.native.listen import engine_listener
from service.native.same_model import note_files, share_model
from service.native.supervised import Child, all_of
from service.ops.model import Model, expected_sha256
from service.ops.version import version_of

log = logging.getLogger("regnetx.supervisor")

STOP_SECONDS = 5.0  # for an engine to leave once nothing is in flight


class Generation:
    """What its processes need to know, and a supervised process for each engine."""

    def __init__(self, number: int, config: Config, model: Model) -> None:
        """``number``: 0 at the start of the service, then one more at each reload. Starts nothing.

        Raises StartupError where a file cannot be read or no shared memory is left.
        """
        self.number, self.model = number, model
        self.config = config
        self.version = version_of(model)
        recorded = expected_sha256(model)
        self.params_sha256 = "" if recorded is None else recorded.text("params")  # of stock's converter none is known
        self._note = note_files(config, model)
        self._facts = share_model(model)
        self._order = {"config": config.model_dump_json(by_alias=True), "number": number}
        order = {**self._order, "model": self._facts, "files": self._note}
        engine = partial(Child, "engine", load_seconds=config.native.load_timeout_ms / 1000)
        # Kept open: frontends that wait for an engine that is started again wait in its backlog.
        self._listeners = [engine_listener() for _ in range(config.regnet.concurrency)]
        self.engines = [
            engine(instance, {**order, "instance": instance, "listener": fd}, (fd, self._facts))
            for instance, fd in enumerate(listener.fileno() for listener in self._listeners)
        ]
        self._lives: list[asyncio.Task[None]] = []

    def answers_as(self, other: "Generation") -> bool:
        """Whether it is the same version, run from files of the same content (also where int8 was calibrated anew)."""
        return self.version == other.version and self._contents == other._contents

    @property
    def _contents(self) -> list[tuple[str, str]]:
        return [(Path(file).name, sha256) for file, _, sha256 in self._note]

    @property
    def order(self) -> dict[str, Any]:
        """For a frontend; the numbers of ``descriptors`` are not in it."""
        addresses = [listener.getsockname().hex() for listener in self._listeners]
        return {**self._order, "version": self.version, "engines": addresses}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """For a frontend: the facts of the model, and the block of each engine."""
        return (self._facts, *(engine.block.descriptor for engine in self.engines))

    def start(self) -> None:
        """Start the engines, and again whenever one ends that had been ready."""
        self._lives = [asyncio.create_task(engine.run()) for engine in self.engines]

    async def ready(self) -> None:
        """Until every engine has warmed up. Raises StartupError where one cannot."""
        await all_of(*(child.first_ready(life) for child, life in zip(self.engines, self._lives, strict=True)))
        for life in self._lives:
            life.add_done_callback(_end_loudly)

    async def stop(self) -> None:
        """End the engines, within STOP_SECONDS. One that loads owes nothing, and does not hear that it is to stop."""
        for engine in self.engines:
            engine.hang_up()
            if not engine.ready.is_set():
                engine.kill()
        await asyncio.gather(*(engine.stop(STOP_SECONDS) for engine in self.engines))
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    def close(self) -> None:
        """Give back what the engines shared; they have ended."""
        for listener in self._listeners:
            listener.close()
        os.close(self._facts)
        for engine in self.engines:
            engine.block.close()


def _end_loudly(life: "asyncio.Task[None]") -> None:
    """An engine that nobody would start again is the end of the service, as it is with a frontend."""
    if not life.cancelled() and (error := life.exception()) is not None:
        log.critical("an engine can be cared for no longer", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)
