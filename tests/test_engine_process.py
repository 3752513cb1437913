"""The engine's batcher, with an engine that is told what to do: batches, deadlines, failures."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from running import ROOT

from service.native.batcher import Batcher, Engines, RunMeter
from service.native.engine_process import BrokenError, EngineServer
from service.native.frontend_link import FrontendLink
from service.native.metric_block import Block
from service.native.metrics import BATCH_SIZE, RUNNING_IMAGES, STAGE_SECONDS, Stage, cell_of
from service.native.slots import ABANDONED, UNCOUNTED, SlotLayout, SlotMemory
from service.native.vitals import Vitals
from service.native.wire import READY, Status, pack, send_memory, unpack
from service.ops.model import Model

LAYOUT = SlotLayout(slots=8, height=2, width=2, classes=3)


class ScriptedEngine:
    """Scores of an image are its first three values; remembers the sizes of its batches."""

    def __init__(self):
        self.sizes = []
        self.answer = lambda batch: batch.reshape(len(batch), -1)[:, :3].copy()

    def run(self, batch):
        self.sizes.append(len(batch))
        return self.answer(batch)


class Peer:
    """The frontend's side of a connection to a batcher in this process."""

    def __init__(self, batcher):
        self.batcher = batcher
        self.memory = SlotMemory.create(LAYOUT)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection = ours
        ours.settimeout(10)
        send_memory(ours, self.memory)
        self.frontend = FrontendLink(theirs)
        batcher.frontends.add(self.frontend)
        assert ours.recv(100) == READY

    def submit(self, slot, ticket=1, *, deadline=None, counted=True):
        self.memory.inputs[slot] = slot + np.arange(12).reshape(3, 2, 2)
        self.memory.submitted[slot] = time.monotonic() if counted else UNCOUNTED
        self.memory.deadlines[slot] = time.monotonic() + 60 if deadline is None else deadline
        self.connection.send(pack([(slot, Status.WAITING, ticket)]))
        self.batcher.waiting.extend(self.frontend.receive())

    def answers(self):
        return list(unpack(self.connection.recv(65536)))

    def close(self):
        self.connection.close()
        self.frontend.close()
        self.memory.close()


def observed(block, stage):
    first = cell_of(STAGE_SECONDS, (stage,))
    return sum(block.cells[first : first + len(STAGE_SECONDS.buckets) + 1])


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
def block():
    with contextlib.closing(Block.create()) as block:
        yield block


@pytest.fixture
def make_batcher(tmp_path, engine, block):
    model = Model(
        "m", "RegNetX_200MF", tmp_path, tmp_path, "x", 2, 2, 2, 1.0, (0, 0, 0), (1, 1, 1), "y", ("a", "b", "c")
    )
    return lambda linger=0.0, alone=engine: Batcher(
        Engines(engine, alone), model, RunMeter(block), batch_size=4, linger=linger
    )


@pytest.fixture
def batcher(make_batcher):
    return make_batcher()


@pytest.fixture
def peer(batcher):
    peer = Peer(batcher)
    yield peer
    peer.close()


def test_a_lone_image_is_run_at_once(batcher, peer, engine):
    assert batcher.wait_for() is None
    peer.submit(3, ticket=9)
    assert batcher.wait_for() == 0.0
    batcher.run_next()
    assert engine.sizes == [1]
    assert peer.answers() == [(3, Status.DONE, 9)]
    assert peer.memory.scores[3].tolist() == [3, 4, 5]


def test_what_waits_becomes_one_batch_up_to_the_batch_size_and_no_row_is_swapped(batcher, peer, engine):
    order = [5, 0, 7, 2, 1, 6]
    for ticket, slot in enumerate(order):
        peer.submit(slot, ticket)
    batcher.run_next()
    assert peer.answers() == [(slot, Status.DONE, ticket) for ticket, slot in enumerate(order[:4])]
    batcher.run_next()
    assert engine.sizes == [4, 2]
    assert [peer.memory.scores[slot, 0] for slot in order] == order


def test_images_of_two_frontends_share_a_batch_and_go_back_to_their_own(batcher, peer, engine):
    other = Peer(batcher)
    peer.submit(1, ticket=11)
    other.submit(2, ticket=22)
    batcher.run_next()
    assert engine.sizes == [2]
    assert (peer.answers(), other.answers()) == ([(1, Status.DONE, 11)], [(2, Status.DONE, 22)])
    assert (peer.memory.scores[1, 0], other.memory.scores[2, 0]) == (1, 2)
    assert not peer.memory.scores[2].any() and not other.memory.scores[1].any()
    other.close()


def test_all_threads_are_for_an_image_that_is_alone_in_all_frontends(make_batcher, engine):
    with_all_threads = ScriptedEngine()
    batcher = make_batcher(alone=with_all_threads)
    peer, other = Peer(batcher), Peer(batcher)
    for taken_here, taken_there in ((1, 0), (2, 0), (1, 1)):
        peer.memory.taken[0], other.memory.taken[0] = taken_here, taken_there
        peer.submit(0)
        batcher.run_next()
    assert (with_all_threads.sizes, engine.sizes) == ([1], [1, 1])
    batcher.forget(other.frontend)
    other.close()
    peer.memory.taken[0] = 1
    peer.submit(0)
    batcher.run_next()
    assert with_all_threads.sizes == [1, 1]
    peer.close()


def test_an_image_that_nobody_waits_for_is_not_run(batcher, peer, engine):
    peer.submit(0, deadline=ABANDONED)
    peer.submit(1, deadline=time.monotonic() - 1)
    batcher.run_next()
    assert engine.sizes == []
    assert peer.answers() == [(0, Status.EXPIRED, 1), (1, Status.EXPIRED, 1)]


@pytest.mark.parametrize("rows", [0, 1, 3], ids=["no row", "a row too few", "a row too many"])
def test_a_short_answer_from_the_engine_fails_the_batch(batcher, peer, engine, rows, caplog):
    engine.answer = lambda batch: np.zeros((rows, 3), np.float32)
    peer.submit(0)
    peer.submit(1)
    batcher.run_next()
    assert peer.answers() == [(0, Status.FAILED, 1), (1, Status.FAILED, 1)]
    assert "for a batch of 2" in caplog.text


def test_every_image_of_a_run_is_counted_but_the_frontends_own(batcher, peer, block):
    for slot in range(5):
        peer.submit(slot, counted=slot != 2)
    batcher.run_next()
    batcher.run_next()
    sizes = cell_of(BATCH_SIZE)
    assert list(block.cells[sizes : sizes + 4]) == [1, 0, 1, 0]  # up to 1, up to 2, up to 4, up to 8
    assert (observed(block, Stage.WAIT), observed(block, Stage.INFER)) == (4, 4)
    assert block.cells[cell_of(RUNNING_IMAGES)] == 0


def test_an_engine_is_in_trouble_in_a_run_that_takes_too_long_and_when_its_loop_stands_still(block):
    vitals = Vitals(block)
    assert "has been silent for" in vitals.trouble()
    vitals.beat()
    assert vitals.trouble() == ""
    vitals.patience = 1000.0
    vitals.begin_run()
    assert vitals.trouble() == ""
    vitals.patience = 0.0
    assert "has been in one run of the model for" in vitals.trouble()
    vitals.end_run()
    assert vitals.trouble() == ""


def test_an_engine_that_raises_fails_its_batch_and_serves_the_next(batcher, peer, engine, block, caplog):
    right = engine.answer
    engine.answer = lambda batch: 1 / 0
    peer.submit(0)
    batcher.run_next()
    engine.answer = right
    peer.submit(1)
    batcher.run_next()
    assert peer.answers() == [(0, Status.FAILED, 1)]
    assert peer.answers() == [(1, Status.DONE, 1)]
    assert "ZeroDivisionError" in caplog.text
    assert (observed(block, Stage.WAIT), observed(block, Stage.INFER)) == (2, 1)
    assert block.cells[cell_of(RUNNING_IMAGES)] == 0


def test_a_frontend_that_has_gone_takes_its_images_with_it(batcher, peer, engine):
    gone = Peer(batcher)
    gone.submit(0)
    peer.submit(1)
    batcher.forget(gone.frontend)
    gone.close()
    batcher.run_next()
    assert engine.sizes == [1]
    assert peer.answers() == [(1, Status.DONE, 1)]


def test_the_linger_starts_at_the_first_image_and_is_not_started_again(make_batcher):
    batcher = make_batcher(linger=30.0)
    peer = Peer(batcher)
    peer.submit(0)
    first = batcher.wait_for()
    assert 0 < first <= 30
    peer.submit(1)
    assert batcher.wait_for() <= first
    peer.submit(2)
    peer.submit(3)
    assert batcher.wait_for() == 0.0  # full: nothing to wait for
    peer.close()


def test_a_memory_that_is_smaller_than_its_layout_is_refused():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    small = SlotMemory.create(SlotLayout(1, 2, 2, 3))
    small.layout = LAYOUT
    send_memory(ours, small)
    with pytest.raises(OSError, match="needed"):
        FrontendLink(theirs)
    for end in (ours, theirs, small):
        end.close()


def test_a_frontend_that_leaves_before_it_says_anything_is_no_frontend():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    threading.Thread(target=ours.close).start()
    with pytest.raises(ConnectionError):
        FrontendLink(theirs)
    theirs.close()


def test_the_memory_of_a_frontend_that_left_before_it_heard_ready_is_given_back():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.closing(SlotMemory.create(LAYOUT)) as memory:
        send_memory(ours, memory)
    ours.close()
    with theirs:
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(BrokenPipeError):
            FrontendLink(theirs)
        assert set(os.listdir("/proc/self/fd")) == before


@contextlib.contextmanager
def served(batcher, block):
    """An engine's server in a thread; yields what connects a frontend to it: () -> (connection, memory)."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind("")
        listener.listen()
        control, supervisor = (stack.enter_context(end) for end in socket.socketpair())
        server = threading.Thread(target=EngineServer(batcher, listener, control, Vitals(block)).run, daemon=True)
        server.start()

        def connect():
            memory = stack.enter_context(contextlib.closing(SlotMemory.create(LAYOUT)))
            memory.deadlines[:] = time.monotonic() + 60
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            connection.settimeout(30)
            connection.connect(listener.getsockname())
            send_memory(connection, memory)
            assert connection.recv(100) == READY
            return connection, memory

        yield connect
        supervisor.close()
        server.join(30)
        assert not server.is_alive()
        for frontend in batcher.frontends:
            frontend.close()


def hear(connection, count):
    """So many answers, in the order in which they come."""
    answers = []
    while len(answers) < count:
        answers += unpack(connection.recv(65536))
    return answers


def test_what_was_announced_during_a_run_is_in_the_next_batch_together(batcher, engine, block):
    """Each image comes in a packet of its own; an engine that took one a turn would never have a batch."""
    begun, goes_on = threading.Event(), threading.Event()
    right = engine.answer

    def run(batch):
        begun.set()
        assert goes_on.wait(30)
        return right(batch)

    engine.answer = run
    with served(batcher, block) as connect:
        connection, _ = connect()
        for slot in range(6):
            connection.send(pack([(slot, Status.WAITING, slot)]))
            assert begun.wait(30)
        goes_on.set()
        answered = hear(connection, 6)
    assert [slot for slot, _, _ in answered] == list(range(6))
    assert engine.sizes == [1, 4, 1]


def test_a_frontend_that_does_not_read_its_answers_keeps_nobody_waiting_and_gets_them_when_it_does(batcher, block):
    many = 2000  # in batches of 4; a socket takes less than 300 packets that nobody reads
    with served(batcher, block) as connect:
        (standing, _), (other, _) = connect(), connect()
        for ticket in range(many):
            standing.send(pack([(ticket % LAYOUT.slots, Status.WAITING, ticket)]))
        other.send(pack([(5, Status.WAITING, 7)]))
        assert hear(other, 1) == [(5, Status.DONE, 7)]
        assert hear(standing, many) == [(ticket % LAYOUT.slots, Status.DONE, ticket) for ticket in range(many)]
        standing.send(pack([(0, Status.WAITING, many)]))
        assert hear(standing, 1) == [(0, Status.DONE, many)]


class Failing:
    """A batcher whose runs fail as told."""

    def __init__(self, *fails):
        self.frontends, self.failed_runs, self.fails = set(), 0, list(fails)

    def wait_for(self):
        return 0.0

    def run_next(self):
        self.failed_runs = self.failed_runs + 1 if self.fails.pop(0) else 0


def test_an_engine_whose_runs_fail_thrice_in_a_row_ends_for_another_to_begin_anew(block):
    batcher = Failing(True, True, False, True, True, True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("")
        listener.listen()
        supervisor, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with supervisor, control, pytest.raises(BrokenError, match="the last 3 runs of the model have failed"):
            EngineServer(batcher, listener, control, Vitals(block)).run()
    assert batcher.fails == []


def test_a_batch_that_finds_no_memory_fails_and_is_counted_until_one_succeeds(batcher, peer, engine):
    right = engine.answer

    def no_memory(batch):
        raise MemoryError

    for answer, failed in ((no_memory, 1), (no_memory, 2), (right, 0)):
        engine.answer = answer
        peer.submit(0)
        batcher.run_next()
        assert batcher.failed_runs == failed


STUCK = """
import socket, time
from types import SimpleNamespace
from service.native.engine_process import EngineServer
from service.native.metric_block import Block
from service.native.vitals import Vitals

(listener, _kept), control = socket.socketpair(), socket.socketpair()
batcher = SimpleNamespace(wait_for=lambda: 0.0, run_next=lambda: time.sleep(600))
EngineServer(batcher, listener, control[0], Vitals(Block.create()), stuck_after=1).run()
"""


def test_an_engine_whose_run_does_not_end_is_ended_by_the_kernel():
    assert subprocess.run([sys.executable, "-c", STUCK], cwd=ROOT, timeout=60).returncode == -signal.SIGALRM
