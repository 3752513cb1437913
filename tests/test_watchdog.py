"""Who is ended for standing still, and who only looks as if: the supervisor's watch at looks that the test times."""

from __future__ import annotations

import contextlib
import os
import time
from types import SimpleNamespace

import pytest

from service.native.metric_block import Block
from service.native.vitals import SILENT_SECONDS, Vitals
from service.native.watchdog import LATE_SECONDS, LOOK_SECONDS, MOST_LOOKS, Watch


@pytest.fixture
def block():
    with contextlib.closing(Block.create()) as block:
        yield block


class Looked:
    """A process with cells of its own, that is looked at in time."""

    def __init__(self, kind, block):
        self.killed = 0
        vitals = Vitals(block)
        self.child = SimpleNamespace(name=f"{kind} 0", kind=kind, pid=os.getpid(), vitals=vitals, kill=self.kill)
        self.watch, self.now = Watch(), 0.0

    def kill(self):
        self.killed += 1

    def look(self, times=1, late=0.0):
        for _ in range(times):
            self.now += LOOK_SECONDS + late
            self.watch.look([self.child], self.now)


@pytest.fixture(params=["engine", "frontend"])
def looked(request, block):
    return Looked(request.param, block)


def silence(block, monkeypatch):
    """Its last beat lies back; the clock of beats is that of the machine, so it is the present that is moved."""
    at = time.monotonic() + SILENT_SECONDS + 1
    monkeypatch.setattr("service.native.vitals.time", SimpleNamespace(monotonic=lambda: at))


def test_one_that_is_silent_at_every_look_is_ended_once_and_said(looked, block, monkeypatch, caplog):
    looked.child.vitals.beat()
    silence(block, monkeypatch)
    looked.look(MOST_LOOKS[looked.child.kind] - 1)
    assert looked.killed == 0
    looked.look(5)
    assert looked.killed == 1
    [record] = caplog.records
    assert record.message == f"{looked.child.name} has been silent for 6 s and is ended"


def test_a_single_beat_between_two_looks_is_a_sign_of_life(looked, block, monkeypatch):
    most = MOST_LOOKS[looked.child.kind]
    for _ in range(3):
        looked.child.vitals.beat()
        with monkeypatch.context() as patch:
            silence(block, patch)
            looked.look(most - 1)
        looked.child.vitals.beat()
        looked.look()
    assert looked.killed == 0


def test_one_that_has_not_beaten_yet_is_starting(looked):
    looked.look(10 * MOST_LOOKS[looked.child.kind])
    assert looked.killed == 0


def test_looks_of_a_watch_that_is_itself_late_prove_nothing(looked, block, monkeypatch):
    looked.child.vitals.beat()
    silence(block, monkeypatch)
    looked.look()
    looked.look(10 * MOST_LOOKS[looked.child.kind], late=LATE_SECONDS + 0.1)
    assert looked.killed == 0
    looked.look(MOST_LOOKS[looked.child.kind] - 1)
    assert looked.killed == 1
