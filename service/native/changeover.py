"""A frontend's side of a reload: what the supervisor says -> another lane made ready, used, the former one closed."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from service.errors import StartupError
from service.native.child import Control
from service.native.lane import Lane
from service.native.metric_block import Block


class Changeover:
    """The lanes of a frontend: the one that is used, one that is made ready, and those that are used up."""

    def __init__(self, lane: Lane, block: Block, use: Callable[[Lane], None]) -> None:
        """``use``: called when requests are to begin in another lane."""
        self.current = lane
        self._block = block
        self._use = use
        self._next: Lane | None = None
        self._former: dict[int, Lane] = {}
        self._preparing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self, control: Control, group: asyncio.TaskGroup) -> None:
        """Do as the supervisor says, until it says drain or is gone."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        def hear() -> None:
            try:
                heard.put_nowait(control.receive())
            except EOFError:
                loop.remove_reader(control.fileno())
                heard.put_nowait({"drain": True})

        loop.add_reader(control.fileno(), hear)
        while "drain" not in (message := await heard.get()):
            self._obey(message, control, group)
        loop.remove_reader(control.fileno())

    def cut(self) -> None:
        """Answer everything that is still in flight: the time to finish it is over."""
        for lane in (self.current, *self._former.values()):
            lane.classifier.cut()

    def hang_up(self) -> None:
        """The process ends, and nothing is in flight any more."""
        for task in self._tasks:
            task.cancel()
        for lane in (self.current, *self._former.values(), *([self._next] if self._next else [])):
            lane.hang_up()

    def _obey(self, message: dict[str, Any], control: Control, group: asyncio.TaskGroup) -> None:
        if "prepare" in message:
            self._preparing = self._do(group, self._prepare(message, control, group))
        elif "switch" in message:
            self._switch(message, control)
        elif "retire" in message:
            self._do(group, self._retire(message, control))
        elif "discard" in message:
            self._discard(group)

    def _do(self, group: asyncio.TaskGroup, what: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = group.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _prepare(self, message: dict[str, Any], control: Control, group: asyncio.TaskGroup) -> None:
        facts, *blocks = message["descriptors"]
        try:
            lane = Lane({**message["prepare"], "model": facts, "engine_blocks": blocks}, self._block)
        except StartupError as error:
            for block in blocks:
                os.close(block)
            _reply(control, message, refused=str(error))
            return
        finally:
            os.close(facts)
        lane.connect(group)
        try:
            await lane.prove(lane.proof_slot())
        except asyncio.CancelledError:
            await lane.close()
            raise
        self._next = lane
        _reply(control, message)

    def _discard(self, group: asyncio.TaskGroup) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
        if self._next is not None:
            self._do(group, self._next.close())
        self._preparing = self._next = None

    def _switch(self, message: dict[str, Any], control: Control) -> None:
        new = self._next
        if new is None or new.number != message["switch"]:
            _reply(control, message, refused="it has not been prepared")
            return
        self._former[self.current.number] = self.current
        self.current, self._next, self._preparing = new, None, None
        self._use(new)
        _reply(control, message)

    async def _retire(self, message: dict[str, Any], control: Control) -> None:
        """Once it has answered all that it began with."""
        lane = self._former.get(message["retire"])
        if lane is not None:
            await lane.close()
            del self._former[lane.number]
        _reply(control, message)


def _reply(control: Control, message: dict[str, Any], **reply: str) -> None:
    control.send({"question": message["question"], **reply})
