"""The engine process: waiting slots -> batch -> scores in the slots. One predictor, one thread, no asyncio.

A batch is whatever waits when the engine is free, up to ``batch_size``: under load batches grow by themselves and a
lone image never waits, unless ``auto_batching_timeout`` asks for it.
"""

import contextlib
import logging
import selectors
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.config import Config
from service.engines import Engine, open_engine, warm_up
from service.errors import StartupError
from service.native.child import Control, become_child
from service.native.metric_block import Block, Gauge, Histogram
from service.native.metrics import BATCH_SIZE, RUNNING_IMAGES, STAGE_SECONDS, Stage
from service.native.slots import UNCOUNTED, SlotMemory
from service.native.vitals import BEAT_SECONDS, Vitals
from service.native.wire import PACKET_BYTES, READY, Status, pack, receive_memory, unpack
from service.ops.model import Model, load_model

log = logging.getLogger("regnetx.engine")

STUCK_SECONDS = 60  # and so many more for each image of a batch: no run takes that long
STUCK_SECONDS_PER_IMAGE = 5
# Before that it is only taken for stuck: when a run takes longer than twice the whole warm-up, and than this.
LEAST_PATIENCE_SECONDS = 5.0
WARM_UPS_OF_PATIENCE = 2


@dataclass(frozen=True)
class Waiting:
    """One image that waits for its batch."""

    frontend: "Frontend"
    slot: int
    ticket: int
    since: float


class Frontend:
    """One connected frontend and the mapped memory of its slots."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.memory: SlotMemory = receive_memory(connection)
        try:
            self.connection.sendall(READY)
        except OSError:
            self.memory.close()
            raise

    def receive(self) -> list[Waiting]:
        """What the next packet announces. Raises BlockingIOError when none is there, ConnectionError when the frontend
        has gone."""
        packet = self.connection.recv(PACKET_BYTES, socket.MSG_DONTWAIT)
        if not packet:
            raise ConnectionError
        now = time.monotonic()
        return [Waiting(self, slot, ticket, now) for slot, _, ticket in unpack(packet)]

    def answer(self, records: list[tuple[int, Status, int]]) -> None:
        """Tell the frontend; one that has gone needs no answer, its memory is only unmapped later."""
        with contextlib.suppress(OSError):
            self.connection.sendall(pack(records))

    def close(self) -> None:
        """Forget the connection; arrays of a running batch keep the memory mapped until it is done."""
        self.connection.close()
        self.memory.close()


@dataclass(frozen=True)
class Engines:
    """The model of this process, loaded for two situations.

    Several engine processes with few threads each do more than one with many, because no thread waits for another that
    is busy decoding; but a lone image is answered soonest by all threads. Both are the same where there is one process.
    """

    shared: Engine
    alone: Engine
    warm_up_seconds: float = 0.0  # of ``shared``, all batch sizes

    @classmethod
    def open(cls, config: Config, model: Model, *, instance: int) -> "Engines":
        """Load and warm up. Raises StartupError."""
        settings, batch_size = config.regnet.local_service_conf, config.regnet.batch_size
        threads = settings.thread_num
        share = max(1, threads // config.regnet.concurrency)
        shared = open_engine(config, model, instance=instance, threads=share)
        began = time.monotonic()
        warm_up(shared, model, batch_size=batch_size)
        seconds = time.monotonic() - began
        if share == threads or settings.on_gpu:
            return cls(shared, shared, seconds)
        alone = open_engine(config, model, instance=instance, threads=threads)
        warm_up(alone, model, batch_size=1)
        return cls(shared, alone, seconds)


class RunMeter:
    """The metrics of the runs of one engine."""

    def __init__(self, block: Block) -> None:
        self._waits = Histogram(block, STAGE_SECONDS, Stage.WAIT)
        self._runs = Histogram(block, STAGE_SECONDS, Stage.INFER)
        self._sizes = Histogram(block, BATCH_SIZE)
        self._running = Gauge(block, RUNNING_IMAGES)

    def begins(self, waits: list[float]) -> None:
        """A run begins, of images that have waited so many seconds each."""
        if waits:
            self._sizes.observe(len(waits))
        self._running.set(len(waits))
        for wait in waits:
            self._waits.observe(wait)

    def ended(self, answered: int, seconds: float) -> None:
        """A run has ended; each of the images that it answered for waited for the whole of it."""
        self._runs.observe(seconds, times=answered)
        self._running.set(0)


class Batcher:
    """Gathers slots of all frontends, runs them together and writes each row of scores back to its own slot."""

    def __init__(self, engines: "Engines", model: Model, meter: RunMeter, *, batch_size: int, linger: float) -> None:
        """``linger``: seconds that the first image of a batch waits for company; 0 runs what is there."""
        self._engines = engines
        self._meter = meter
        self.frontends: set[Frontend] = set()
        self._batch = np.zeros((batch_size, 3, model.height, model.width), np.float32)
        self._classes = model.classes
        self._linger = linger
        self.waiting: deque[Waiting] = deque()

    def wait_for(self) -> float | None:
        """Seconds until the next batch is due; None when nothing waits."""
        if not self.waiting:
            return None
        if self._linger <= 0 or len(self.waiting) >= len(self._batch):
            return 0.0
        return max(0.0, self.waiting[0].since + self._linger - time.monotonic())

    def run_next(self) -> None:
        """Run one batch and answer for every image in it, whatever happens to the run."""
        batch = self._take()
        if not batch:
            return
        submitted = [float(image.frontend.memory.submitted[image.slot]) for image in batch]
        counted = [since for since in submitted if since != UNCOUNTED]
        began = time.monotonic()
        self._meter.begins([began - since for since in counted])
        succeeded = self._run(batch)
        self._meter.ended(len(counted) if succeeded else 0, time.monotonic() - began)

    def _run(self, batch: list[Waiting]) -> bool:
        try:
            scores = self._chosen().run(self._gather(batch))
            if scores.shape != (len(batch), self._classes):
                raise RuntimeError(f"the engine answered {scores.shape} for a batch of {len(batch)}")
        except Exception:
            log.exception("a batch of %d failed", len(batch))
            self._answer(batch, Status.FAILED)
            return False
        for row, image in zip(scores, batch, strict=True):
            image.frontend.memory.scores[image.slot] = row
        self._answer(batch, Status.DONE)
        return True

    def forget(self, frontend: Frontend) -> None:
        """Drop a frontend that has gone, with what it was waiting for."""
        self.frontends.discard(frontend)
        self.waiting = deque(image for image in self.waiting if image.frontend is not frontend)

    def _chosen(self) -> Engine:
        """All threads for an image that is the only one in the whole service; its share of them under load."""
        taken = sum(int(frontend.memory.taken[0]) for frontend in self.frontends)
        return self._engines.alone if taken <= 1 else self._engines.shared

    def _take(self) -> list[Waiting]:
        """The next images that somebody still waits for, in order of arrival."""
        batch: list[Waiting] = []
        expired: list[Waiting] = []
        now = time.monotonic()
        while self.waiting and len(batch) < len(self._batch):
            image = self.waiting.popleft()
            alive = image.frontend.memory.deadlines[image.slot] > now
            (batch if alive else expired).append(image)
        self._answer(expired, Status.EXPIRED)
        return batch

    def _gather(self, batch: list[Waiting]) -> np.ndarray:
        if len(batch) == 1:
            image = batch[0]
            return image.frontend.memory.inputs[image.slot : image.slot + 1]
        for row, image in zip(self._batch, batch, strict=False):
            row[...] = image.frontend.memory.inputs[image.slot]
        return self._batch[: len(batch)]

    def _answer(self, batch: list[Waiting], status: Status) -> None:
        records: dict[Frontend, list[tuple[int, Status, int]]] = {}
        for image in batch:
            records.setdefault(image.frontend, []).append((image.slot, status, image.ticket))
        for frontend, answers in records.items():
            frontend.answer(answers)


class EngineServer:
    """Listens for frontends and feeds the batcher until the supervisor hangs up."""

    def __init__(
        self,
        batcher: Batcher,
        listener: socket.socket,
        control: Control,
        vitals: Vitals,
        *,
        stuck_after: int = STUCK_SECONDS,
    ) -> None:
        """``stuck_after``: seconds of one run after which the process ends, for the supervisor to start another."""
        self._batcher = batcher
        self._vitals = vitals
        self._stuck_after = stuck_after
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(control, selectors.EVENT_READ)
        self._control = control

    def run(self) -> None:
        """Serve until the control connection ends, which is the supervisor's word to stop, or its death."""
        while True:
            self._vitals.beat()
            wait = self._batcher.wait_for()
            for key, _ in self._selector.select(BEAT_SECONDS if wait is None else min(wait, BEAT_SECONDS)):
                if key.fileobj is self._control:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._receive(key.data)
            if self._batcher.wait_for() == 0.0:
                # The kernel ends the process; nothing in it could while the vendor's code holds the interpreter.
                signal.alarm(self._stuck_after)
                self._vitals.begin_run()
                self._batcher.run_next()
                self._vitals.end_run()
                signal.alarm(0)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            frontend = Frontend(connection)
        except PermissionError as error:
            log.warning("refused a connection: %s", error)
            connection.close()
        except OSError:
            connection.close()  # a frontend that ended while it waited to be heard
        else:
            self._batcher.frontends.add(frontend)
            self._selector.register(connection, selectors.EVENT_READ, frontend)

    def _receive(self, frontend: Frontend) -> None:
        """Everything that it has announced meanwhile: what stays in the socket is in no batch."""
        try:
            while True:
                self._batcher.waiting.extend(frontend.receive())
        except BlockingIOError:
            return
        except OSError:
            self._selector.unregister(frontend.connection)
            self._batcher.forget(frontend)
            frontend.close()


def main() -> None:
    """Started by the supervisor: loads, warms up, says ready, serves."""
    control = become_child()
    order = control.receive()
    config = Config.model_validate_json(order["config"])
    listener = socket.socket(fileno=order["listener"])
    block = Block(order["block"], writable=True)
    vitals = Vitals(block)
    try:
        model = load_model(Path(config.regnet.local_service_conf.model_config_))
        engines = Engines.open(config, model, instance=order["instance"])
    except StartupError as error:
        control.send({"failed": str(error)})
        sys.exit(1)
    vitals.patience = max(LEAST_PATIENCE_SECONDS, WARM_UPS_OF_PATIENCE * engines.warm_up_seconds)
    vitals.beat()
    control.send({"ready": True})
    linger = max(0, config.regnet.auto_batching_timeout) / 1000
    batch_size = config.regnet.batch_size
    batcher = Batcher(engines, model, RunMeter(block), batch_size=batch_size, linger=linger)
    stuck_after = STUCK_SECONDS + STUCK_SECONDS_PER_IMAGE * batch_size
    EngineServer(batcher, listener, control, vitals, stuck_after=stuck_after).run()


if __name__ == "__main__":
    main()
