"""What a frontend has for one generation of the model: slots, links to its engines, decode threads."""

import asyncio
import logging
import math
from typing import Any

from service.config import Config
from service.errors import EngineError
from service.native.classify import Classifier, ImageMeter
from service.native.dispatch import Dispatcher
from service.native.engine_link import EngineLink
from service.native.metric_block import Block
from service.native.pace import Pace
from service.native.same_model import shared_model
from service.native.slots import SlotLayout, SlotMemory
from service.native.vitals import Vitals
from service.ops.decode import Limits

log = logging.getLogger("regnetx.frontend")

PROOF_PAUSE_SECONDS = 0.5


class Lane:
    """Made and used on the event loop. A request stays in the lane that it began in."""

    def __init__(self, order: dict[str, Any], block: Block) -> None:
        """``order``: as a Generation gives it, with the descriptors that it goes with; ``block``: the frontend's.

        Raises StartupError where there is no memory for the slots.
        """
        config = Config.model_validate_json(order["config"])
        native = config.native
        model = shared_model(order["model"])
        self.number: int = order["number"]
        self.version: str = order["version"]
        self.classes = model.classes
        self._memory = SlotMemory.create(SlotLayout(config.slots, model.height, model.width, model.classes))
        self._blocks = [Block(descriptor) for descriptor in order["engine_blocks"]]
        self.engines = [Vitals(one) for one in self._blocks]
        links = zip(order["engines"], self.engines, strict=True)
        self._links = [EngineLink(bytes.fromhex(address), self._memory, vitals) for address, vitals in links]
        self.dispatcher = Dispatcher(self._memory, self._links, block, pace=Pace(config.decode_threads))
        limits = Limits(max_bytes=native.max_image_bytes, max_pixels=native.max_image_pixels)
        self.classifier = Classifier(
            self.dispatcher, model, ImageMeter(block),
            limits=limits, scales_jpeg=native.scales_jpeg, threads=config.decode_threads, timeout=config.timeout,
        )  # fmt: skip
        self._lives: list[asyncio.Task[None]] = []

    def connect(self, group: asyncio.TaskGroup) -> None:
        """Keep the links to the engines up from now on."""
        self._lives = [group.create_task(link.run()) for link in self._links]

    def proof_slot(self) -> int:
        """A slot for ``prove``. Before callers come: they could leave none, and nothing would ever be ready."""
        [slot] = self.dispatcher.acquire(1, math.inf)
        return slot

    async def prove(self, slot: int) -> None:
        """Send one empty image the whole way, and again while engines are lost over it; then give the slot back."""
        try:
            while True:
                try:
                    await self.dispatcher.prove(slot)
                    return
                except EngineError as error:
                    log.error("not ready: %s", error)
                    await asyncio.sleep(PROOF_PAUSE_SECONDS)
        finally:
            self.dispatcher.release(slot)

    async def close(self) -> None:
        """Once no slot is taken any more: hang up, end the threads, give the memory back."""
        await self.dispatcher.idle.wait()
        self.hang_up()
        await asyncio.gather(*self._lives, return_exceptions=True)
        await asyncio.to_thread(self.classifier.close)
        self.dispatcher.let_go()
        self._memory.close()
        for block in self._blocks:
            block.close()

    def hang_up(self) -> None:
        """Let the links go, whatever they still owe."""
        for life in self._lives:
            life.cancel()
