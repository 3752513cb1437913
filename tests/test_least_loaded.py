"""Several engines, as for several GPUs: real engine processes, of which one is slower than the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np
from running import configuration

from service.config import Config
from service.native.dispatch import Dispatcher
from service.native.engine_link import EngineLink
from service.native.listen import engine_listener
from service.native.metric_block import Block
from service.native.metrics import STAGE_SECONDS, Stage, cell_of
from service.native.same_model import note_files, share_model
from service.native.slots import SlotLayout, SlotMemory
from service.native.supervised import Child
from service.ops.model import load_model

SECONDS = 60
CALLERS = 8


@contextlib.asynccontextmanager
async def engines(config):
    """A dispatcher, and the engine processes that it is connected to, started as the supervisor does it."""
    model = load_model(Path(config.regnet.local_service_conf.model_config_))
    memory = SlotMemory.create(SlotLayout(CALLERS, model.height, model.width, model.classes))
    block = Block.create()
    listeners = [engine_listener() for _ in range(config.regnet.concurrency)]
    facts = share_model(model)
    order = {"config": config.model_dump_json(by_alias=True), "model": facts, "files": note_files(config, model)}
    children = [
        Child("engine", number, {**order, "instance": number, "listener": fd}, (fd, facts))
        for number, fd in enumerate(listener.fileno() for listener in listeners)
    ]
    links = [EngineLink(listener.getsockname(), memory) for listener in listeners]
    dispatcher = Dispatcher(memory, links, block)
    lives = [asyncio.create_task(life.run()) for life in (*children, *links)]
    try:
        async with asyncio.timeout(SECONDS):
            while not all(dispatcher.connected):
                dispatcher.changed.clear()
                await dispatcher.changed.wait()
        yield dispatcher, children
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)
            child.hang_up()
        await asyncio.gather(*(child.stop(10) for child in children))
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        for listener in listeners:
            listener.close()
        memory.close()
        for descriptor in (facts, *(one.descriptor for one in (block, *(child.block for child in children)))):
            os.close(descriptor)


async def ask(dispatcher, times):
    """So many images, one after the other."""
    for _ in range(times):
        [slot] = dispatcher.acquire(1, time.monotonic() + SECONDS)
        dispatcher.input(slot)[...] = 0
        scores = await asyncio.wait_for(dispatcher.scores(slot), SECONDS)
        assert np.isclose(scores.sum(), 1, atol=1e-4)
        dispatcher.release(slot)


def answered(child):
    """Images that an engine process has run, by its own count."""
    first = cell_of(STAGE_SECONDS, (Stage.INFER,))
    return int(sum(child.block.cells[first : first + len(STAGE_SECONDS.buckets) + 1]))


async def until(condition):
    """An engine counts when it has answered, a moment later."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 (shared memory has no event for it)
            await asyncio.sleep(0.005)


async def test_an_engine_that_stands_still_is_given_nothing_more_while_the_other_works(digits_model):
    local = {"model_config": str(digits_model), "thread_num": 1}
    op = {"concurrency": 2, "batch_size": 1}
    config = Config.model_validate(configuration(digits_model, native={"engine": "onnxruntime"}, op=op, local=local))
    async with engines(config) as (dispatcher, (slow, fast)):
        before = answered(slow), answered(fast)
        os.kill(slow.pid, signal.SIGSTOP)
        held = [asyncio.create_task(ask(dispatcher, 1)) for _ in range(CALLERS)]  # half of them for each engine
        done, waiting = await asyncio.wait(held, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        while len(waiting) > CALLERS // 2:
            more, waiting = await asyncio.wait(waiting, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
            done |= more
            assert more
        await asyncio.gather(*(ask(dispatcher, 20) for _ in range(CALLERS // 2 - 1)))
        assert answered(slow) == before[0]
        os.kill(slow.pid, signal.SIGCONT)
        await asyncio.gather(*done, *waiting)
        expected = CALLERS // 2, CALLERS // 2 + 20 * (CALLERS // 2 - 1)
        await until(lambda: (answered(slow) - before[0], answered(fast) - before[1]) == expected)
        # Now that both work, both are given something.
        between = answered(slow), answered(fast)
        await asyncio.gather(*(ask(dispatcher, 5) for _ in range(CALLERS)))
        await until(lambda: answered(slow) + answered(fast) - sum(between) == 5 * CALLERS)
        assert min(answered(slow) - between[0], answered(fast) - between[1]) >= CALLERS // 2
