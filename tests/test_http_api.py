"""The HTTP application in this process, for what cannot be timed from outside: callers that leave, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from service.native.budget import Budget
from service.native.http_api import HttpApi
from service.native.metric_block import Block
from service.native.metrics import REQUESTS, REQUESTS_IN_FLIGHT, Door, Outcome, cell_of
from service.native.request_meter import RequestMeter

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/regnet/prediction",
    "raw_path": b"/regnet/prediction",
    "query_string": b"",
    "headers": [],
}


@pytest.fixture
def block():
    with contextlib.closing(Block.create()) as block:
        yield block


def ended(block, outcome):
    return block.cells[cell_of(REQUESTS, (Door.HTTP, outcome))]


def in_flight(block):
    return block.cells[cell_of(REQUESTS_IN_FLIGHT, (Door.HTTP,))]


class EndlessInference:
    """Never answers; knows whether somebody still waits."""

    classes = 10

    def __init__(self):
        self.asked, self.abandoned = asyncio.Event(), False

    def check_room(self, timeout=None):
        """There always is."""

    async def answer(self, request, exchange, *, top_k, deadline, large):
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.abandoned = True
            raise


class Caller:
    """One connection: what it sends, and what it was answered."""

    def __init__(self, *messages):
        self.messages = list(messages)
        self.is_silent, self.leaves = asyncio.Event(), asyncio.Event()
        self.heard = []

    async def receive(self):
        if self.messages:
            return self.messages.pop(0)
        self.is_silent.set()
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.heard.append(message)


async def test_the_work_of_a_caller_that_leaves_is_given_up_and_nothing_is_sent(block):
    inference, caller = EndlessInference(), Caller({"type": "http.request", "body": b"{}"})
    api = HttpApi(inference, None, RequestMeter(block, Door.HTTP), Budget(10_000), max_body_bytes=1000)
    request = asyncio.create_task(api(dict(SCOPE), caller.receive, caller.send))
    await asyncio.wait_for(inference.asked.wait(), 10)
    assert not inference.abandoned
    caller.leaves.set()
    await asyncio.wait_for(request, 10)
    assert inference.abandoned
    assert caller.heard == []
    assert (ended(block, Outcome.CALLER_LEFT), in_flight(block)) == (1, 0)


async def test_a_body_that_is_still_on_its_way_when_draining_ends_is_answered_with_err_no_3001(block):
    caller = Caller({"type": "http.request", "body": b"{", "more_body": True})
    api = HttpApi(EndlessInference(), None, RequestMeter(block, Door.HTTP), Budget(10_000), max_body_bytes=1000)
    request = asyncio.create_task(api(dict(SCOPE), caller.receive, caller.send))
    await asyncio.wait_for(caller.is_silent.wait(), 10)
    request.cancel()
    await asyncio.wait_for(request, 10)
    start, body = caller.heard
    assert (start["status"], json.loads(body["body"])["err_no"]) == (200, 3001)
    assert (ended(block, Outcome.DRAINING), in_flight(block)) == (1, 0)
