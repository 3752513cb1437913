"""Which versions of the model there are: the one that serves, one that goes, and what those that went had counted."""

import asyncio
import time

from service.native.generation import Generation
from service.native.metric_block import Block
from service.native.supervised import Child

SUCCEEDED, FAILED = "succeeded", "failed"


class Versions:
    """Written by the reload, read by metrics and health."""

    def __init__(self, first: Generation) -> None:
        self.current = first
        self.since = time.time()  # Unix seconds at which the current one began to serve
        self.reloads = {SUCCEEDED: 0, FAILED: 0}
        self._going: list[Generation] = []
        self._past = Block.create()
        self._past_restarts = 0

    @property
    def engines(self) -> list[Child]:
        """Those of the version that serves."""
        return self.current.engines

    @property
    def all_engines(self) -> list[Child]:
        """Also those that finish what they have."""
        return [engine for generation in (self.current, *self._going) for engine in generation.engines]

    @property
    def blocks(self) -> list[Block]:
        """What all engines have counted, those that went included."""
        return [self._past, *(engine.block for engine in self.all_engines)]

    @property
    def engine_restarts(self) -> int:
        """Of all engines that have been."""
        return self._past_restarts + sum(engine.restarts for engine in self.all_engines)

    def switch(self, new: Generation) -> None:
        """From now on ``new`` serves, and the one that did goes."""
        self._going.append(self.current)
        self.current = new
        self.since = time.time()
        self.reloads[SUCCEEDED] += 1

    def has_gone(self, old: Generation) -> None:
        """Its engines have ended."""
        self._going.remove(old)
        for engine in old.engines:
            self._past.absorb(engine.block)
            self._past_restarts += engine.restarts

    async def stop(self) -> None:
        """End the engines of every version, all within the time that one takes."""
        await asyncio.gather(*(generation.stop() for generation in (self.current, *self._going)))
