"""Slots and links of one frontend, with engines that are sockets in the test's hands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

import numpy as np
import pytest

from service.errors import EngineError, OverloadedError, RpcPackageError, UnavailableError
from service.native.dispatch import Dispatcher
from service.native.engine_link import EngineLink
from service.native.metric_block import Block
from service.native.metrics import SLOTS_IN_USE, SUBMITTED_IMAGES, cell_of
from service.native.pace import FRESH_SECONDS, MARGIN, Pace
from service.native.slots import ABANDONED, UNCOUNTED, SlotLayout, SlotMemory
from service.native.wire import READY, Status, pack, receive_memory, unpack

LAYOUT = SlotLayout(slots=6, height=2, width=2, classes=3)


class HandEngine:
    """A listener that a test accepts and answers by hand."""

    def __init__(self):
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind("")
        self.listener.listen()
        self.address = self.listener.getsockname()
        self.connection = None

    async def accept(self):
        await asyncio.to_thread(self._accept)

    def _accept(self):
        self.listener.settimeout(10)
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(10)
        self.memory = receive_memory(self.connection)
        self.connection.settimeout(10)
        self.connection.send(READY)

    async def receive(self):
        return list(unpack(await asyncio.to_thread(self.connection.recv, 65536)))

    async def receive_all(self, count):
        records = []
        while len(records) < count:
            records += await self.receive()
        return records

    def begin(self, slot, seconds_ago=0.0):
        self.memory.began[slot] = time.monotonic() - seconds_ago

    def answer(self, slot, ticket, status=Status.DONE, value=0.0, seconds=0.001):
        self.begin(slot, seconds)
        self.memory.scores[slot] = value
        self.connection.send(pack([(slot, status, ticket)]))

    def die(self):
        self.connection.close()
        self.memory.close()


@contextlib.asynccontextmanager
async def dispatching(*engines, **options):
    memory = SlotMemory.create(LAYOUT)
    links = [EngineLink(engine.address, memory) for engine in engines]
    block = Block.create()
    dispatcher = Dispatcher(memory, links, block, **options)
    tasks = [asyncio.create_task(link.run()) for link in links]
    try:
        for engine in engines:
            await engine.accept()
        await asyncio.wait_for(until(lambda: all(link.is_up for link in links)), 10)
        dispatcher.block = block
        yield dispatcher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for engine in engines:
            engine.listener.close()
            if engine.connection.fileno() >= 0:
                engine.die()
        memory.close()
        os.close(block.descriptor)


def gauge(dispatcher, family):
    return dispatcher.block.cells[cell_of(family)]


async def until(condition):
    while not condition():  # noqa: ASYNC110 (links and tasks have no event for it)
        await asyncio.sleep(0.005)


def acquire(dispatcher, count=1):
    return dispatcher.acquire(count, time.monotonic() + 60)


async def test_a_slot_comes_back_with_its_own_scores():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        slots = acquire(dispatcher, 3)
        tasks = [asyncio.create_task(dispatcher.scores(slot)) for slot in slots]
        for slot, _, ticket in reversed(await engine.receive_all(3)):
            engine.answer(slot, ticket, value=slot)
        for slot, task in zip(slots, tasks, strict=True):
            assert (await asyncio.wait_for(task, 10)).tolist() == [slot] * 3


async def test_a_request_gets_all_its_slots_or_none():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        acquire(dispatcher, 4)
        with pytest.raises(OverloadedError, match="all 6 slots are taken"):
            acquire(dispatcher, 3)
        assert dispatcher.in_use == engine.memory.taken[0] == 4
        acquire(dispatcher, 2)
        with pytest.raises(RpcPackageError, match="7 images in one request, at most 6 accepted"):
            acquire(dispatcher, 7)


async def test_what_is_taken_and_what_an_engine_owes_is_counted_and_the_frontends_own_image_is_not():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        slots = acquire(dispatcher, 3)
        tasks = [asyncio.create_task(dispatcher.scores(slot)) for slot in slots[:2]]
        proof = asyncio.create_task(dispatcher.prove(slots[2]))
        records = await engine.receive_all(3)
        assert (gauge(dispatcher, SLOTS_IN_USE), gauge(dispatcher, SUBMITTED_IMAGES)) == (3, 2)
        since = engine.memory.submitted[slots]
        assert all(0 < time.monotonic() - one < 60 for one in since[:2])
        assert since[2] == UNCOUNTED
        for slot, _, ticket in records:
            engine.answer(slot, ticket)
        await asyncio.wait_for(asyncio.gather(*tasks, proof), 10)
        for slot in slots:
            dispatcher.release(slot)
        assert (gauge(dispatcher, SLOTS_IN_USE), gauge(dispatcher, SUBMITTED_IMAGES)) == (0, 0)


async def test_an_answer_to_an_earlier_owner_of_the_slot_is_not_taken_for_this_one():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        [slot] = acquire(dispatcher)
        task = asyncio.create_task(dispatcher.scores(slot))
        [(_, _, ticket)] = await engine.receive()
        engine.answer(slot, ticket - 1, value=1.0)
        await asyncio.sleep(0.02)  # the wrong answer has every chance to be taken
        assert not task.done()
        engine.answer(slot, ticket, value=2.0)
        assert (await asyncio.wait_for(task, 10)).tolist() == [2.0] * 3


async def test_the_engine_with_the_least_to_do_is_given_the_next_slot():
    first, second = HandEngine(), HandEngine()
    async with dispatching(first, second) as dispatcher:
        tasks = [asyncio.create_task(dispatcher.scores(slot)) for slot in acquire(dispatcher, 4)]
        await first.receive_all(2)
        for slot, _, ticket in await second.receive_all(2):
            second.answer(slot, ticket)
        await asyncio.wait_for(until(lambda: sum(task.done() for task in tasks) == 2), 10)
        more = [asyncio.create_task(dispatcher.scores(slot)) for slot in acquire(dispatcher, 2)]
        assert len(await second.receive_all(2)) == 2
        for task in (*tasks, *more):
            task.cancel()


async def test_what_a_lost_engine_owed_is_given_to_another():
    first, second = HandEngine(), HandEngine()
    async with dispatching(first, second) as dispatcher:
        slots = acquire(dispatcher, 2)
        tasks = [asyncio.create_task(dispatcher.scores(slot)) for slot in slots]
        await first.receive()
        [(slot, _, ticket)] = await second.receive()
        second.answer(slot, ticket)
        first.die()
        [(slot, _, ticket)] = await second.receive()
        second.answer(slot, ticket, value=5.0)
        await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_an_image_whose_engine_died_twice_is_not_tried_again():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        [slot] = acquire(dispatcher)
        task = asyncio.create_task(dispatcher.scores(slot))
        for _ in range(2):
            assert [record[0] for record in await engine.receive()] == [slot]
            engine.begin(slot)
            engine.die()
            await engine.accept()
        with pytest.raises(EngineError, match="died twice"):
            await asyncio.wait_for(task, 10)
        assert dispatcher.connected == [True]


async def test_an_image_that_only_waited_where_engines_died_is_given_to_the_next():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        [slot] = acquire(dispatcher)
        task = asyncio.create_task(dispatcher.scores(slot))
        for _ in range(3):
            await engine.receive()
            engine.die()
            await engine.accept()
        [(slot, _, ticket)] = await engine.receive()
        engine.answer(slot, ticket, value=5.0)
        assert (await asyncio.wait_for(task, 10)).tolist() == [5.0] * 3


async def test_what_cannot_be_answered_in_time_behind_what_is_in_progress_is_refused():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        slots = acquire(dispatcher, 4)
        tasks = [asyncio.create_task(dispatcher.scores(slot)) for slot in slots]
        soon = time.monotonic() + 1
        dispatcher.release(dispatcher.acquire(1, soon)[0])  # nothing is known yet
        for slot, _, ticket in (await engine.receive_all(4))[:2]:
            engine.answer(slot, ticket, seconds=0.5)
        await asyncio.wait_for(until(lambda: sum(task.done() for task in tasks) == 2), 10)
        dispatcher.release(slots[0])
        # Two a second, three in progress: the fourth is answered after two seconds, of which MARGIN must be left
        dispatcher.check_room(2 / MARGIN + 0.2)
        for refused in (lambda: dispatcher.check_room(2 / MARGIN - 0.2), lambda: dispatcher.acquire(1, soon)):
            with pytest.raises(OverloadedError, match=r"not to be answered within \S+ s behind what is in progress"):
                refused()
        for slot in slots[1:3]:
            dispatcher.release(slot)
        dispatcher.check_room(0.001)  # an engine always has one to run and one that waits
        for task in tasks:
            task.cancel()


async def test_a_pace_is_that_of_the_slower_station_and_is_forgotten(monkeypatch):
    pace = Pace(threads=2)
    assert pace.expected(10) == 0
    pace.decoded(0.1)  # 20 images a second in two threads
    assert pace.expected(10) == pytest.approx(0.5)
    for engine in ("first", "second"):
        pace.ran(engine, 4, 0.8)  # 5 a second each
    assert pace.expected(10) == pytest.approx(1.0)
    pace.lost("first")
    assert pace.expected(10) == pytest.approx(2.0)
    for _ in range(30):
        pace.ran("second", 4, 0.1)
    assert pace.expected(10) == pytest.approx(0.5, rel=0.05)
    monkeypatch.setattr("service.native.pace.time.monotonic", lambda: time.monotonic_ns() / 1e9 + FRESH_SECONDS)
    assert pace.expected(10) == 0


async def test_without_an_engine_requests_wait_only_for_as_long_as_patience_lasts():
    engine = HandEngine()
    async with dispatching(engine, patience=0.0) as dispatcher:
        acquire(dispatcher)
        engine.die()
        await asyncio.wait_for(dispatcher.down.wait(), 10)
        with pytest.raises(UnavailableError, match="no engine is running"):
            acquire(dispatcher)
        await engine.accept()
        await asyncio.wait_for(until(lambda: any(dispatcher.connected)), 10)
        acquire(dispatcher)


async def test_a_failed_and_an_expired_slot_are_told_apart():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        for status, error in ((Status.FAILED, EngineError), (Status.EXPIRED, TimeoutError)):
            [slot] = acquire(dispatcher)
            task = asyncio.create_task(dispatcher.scores(slot))
            [(_, _, ticket)] = await engine.receive()
            engine.answer(slot, ticket, status)
            with pytest.raises(error):
                await asyncio.wait_for(task, 10)
            dispatcher.release(slot)
            assert engine.memory.taken[0] == 0


async def test_an_abandoned_slot_is_seen_by_the_engine_at_once():
    engine = HandEngine()
    async with dispatching(engine) as dispatcher:
        slots = acquire(dispatcher, 2)
        dispatcher.abandon(slots[:1])
        assert engine.memory.deadlines[slots[0]] == ABANDONED
        assert engine.memory.deadlines[slots[1]] > time.monotonic()
        dispatcher.input(slots[1])[...] = 7
        np.testing.assert_array_equal(engine.memory.inputs[slots[1]], np.full((3, 2, 2), 7, np.float32))
