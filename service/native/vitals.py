"""Heartbeats: how a frontend or an engine says that it is alive, and how another process sees that it is not."""

import time
from enum import IntEnum

from service.native.metric_block import Block
from service.native.metrics import Vital

BEAT_SECONDS = 0.5
# Ten beats. A loop that is busy or short of processor misses some; one that has missed ten serves nobody.
SILENT_SECONDS = 5.0
RUNS_OF_PATIENCE = 10  # of the longest that has ended


class Readiness(IntEnum):
    """What a frontend says of itself; the number is what its vital cell holds, 0 before it says anything."""

    UNPROVED = 0
    READY = 1
    NO_ENGINE = 2
    STUCK = 3
    DRAINING = 4

    @property
    def words(self) -> str:
        """For an operator."""
        return _WORDS[self]


_WORDS = {
    Readiness.UNPROVED: "no image has been through the engine yet",
    Readiness.READY: "ready",
    Readiness.NO_ENGINE: "no engine is connected",
    Readiness.STUCK: "no engine does anything",
    Readiness.DRAINING: "draining",
}


class Vitals:
    """The vital cells of one process. Times are seconds of CLOCK_MONOTONIC, which all processes share."""

    def __init__(self, block: Block) -> None:
        self._cells = block.cells

    def beat(self) -> None:
        """The loop has come round."""
        self._cells[Vital.BEAT.value] = time.monotonic()

    @property
    def has_beaten(self) -> bool:
        """Whether its loop has turned at all; before, it is starting."""
        return bool(self._cells[Vital.BEAT.value])

    def begin_run(self) -> None:
        """From here the loop stands still until the run of the model ends."""
        self._cells[Vital.RUN_BEGAN.value] = time.monotonic()

    def end_run(self) -> None:
        """The run has ended, and was not stuck however long it took: others may take as long, and longer under load."""
        took = time.monotonic() - self._cells[Vital.RUN_BEGAN.value]
        self.patience = max(self.patience, RUNS_OF_PATIENCE * took)
        self.beat()
        self._cells[Vital.RUN_BEGAN.value] = 0.0

    @property
    def patience(self) -> float:
        """Seconds after which a run counts as stuck."""
        return self._cells[Vital.PATIENCE.value]

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._cells[Vital.PATIENCE.value] = seconds

    @property
    def state(self) -> Readiness:
        """What a frontend has last said of itself."""
        return Readiness(int(self._cells[Vital.STATE.value]))

    @state.setter
    def state(self, readiness: Readiness) -> None:
        self._cells[Vital.STATE.value] = readiness

    def trouble(self) -> str:
        """What is wrong, in words that follow the name of the process; empty where nothing is."""
        now = time.monotonic()
        began = self._cells[Vital.RUN_BEGAN.value]
        if began:
            stuck = now - began > self.patience
            return f"has been in one run of the model for {now - began:.0f} s" if stuck else ""
        silence = now - self._cells[Vital.BEAT.value]
        return f"has been silent for {silence:.0f} s" if silence > SILENT_SECONDS else ""
