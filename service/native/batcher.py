"""Waiting slots -> batch -> scores in the slots.

A batch is whatever waits when the engine is free, up to ``batch_size``: under load batches grow by themselves and a
lone image never waits, unless ``auto_batching_timeout`` asks for it.
"""

import logging
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from service.config import Config
from service.engines import Engine, open_engine, warm_up
from service.native.frontend_link import FrontendLink, Waiting
from service.native.metric_block import Block, Gauge, Histogram
from service.native.metrics import BATCH_SIZE, RUNNING_IMAGES, STAGE_SECONDS, Stage
from service.native.slots import UNCOUNTED
from service.native.wire import Status
from service.ops.model import Model

log = logging.getLogger("regnetx.engine")


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
        share = config.threads_under_load
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
        self.frontends: set[FrontendLink] = set()
        self._batch = np.zeros((batch_size, 3, model.height, model.width), np.float32)
        self._classes = model.classes
        self._linger = linger
        self.waiting: deque[Waiting] = deque()
        self.failed_runs = 0  # in a row

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
        for image in batch:
            image.frontend.memory.began[image.slot] = began
        self._meter.begins([began - since for since in counted])
        succeeded = self._run(batch)
        self.failed_runs = 0 if succeeded else self.failed_runs + 1
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

    def forget(self, frontend: FrontendLink) -> None:
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
        records: dict[FrontendLink, list[tuple[int, Status, int]]] = {}
        for image in batch:
            records.setdefault(image.frontend, []).append((image.slot, status, image.ticket))
        for frontend, answers in records.items():
            frontend.answer(answers)
