"""Tensors in shared memory: one slot an image, written once by a decode thread, read in place by the engine.

The memory is an anonymous file: it has no name, its descriptor travels to the engine over a Unix socket, and the
kernel frees it with the last process that maps it, however that process ends.

    taken       (1,) int64                    slots that belong to a request now: how busy this frontend is
    deadlines   (slots,) float64              seconds of CLOCK_MONOTONIC; the engine skips a slot whose time has passed
    submitted   (slots,) float64              seconds of CLOCK_MONOTONIC; since when it waits for an engine
    began       (slots,) float64              seconds of CLOCK_MONOTONIC; when the engine began the run of its batch
    inputs      (slots, 3, height, width) float32
    scores      (slots, classes) float32
"""

import mmap
import os
from dataclasses import dataclass

import numpy as np

from service.native.shared_memory import anonymous, needed_for

ABANDONED = 0.0  # a deadline that has passed at any time: nobody waits for this slot any more
NOT_BEGUN = 0.0  # a time at which no run began: none has, since the slot was submitted last
UNCOUNTED = 0.0  # a time of submission: an image of the frontend itself, which no metric counts
CACHE_LINE = 64


@dataclass(frozen=True)
class SlotLayout:
    """The shape of a slot memory; both sides compute the same offsets from it."""

    slots: int
    height: int
    width: int
    classes: int

    @property
    def deadlines_at(self) -> int:
        """Byte offset of the deadlines."""
        return CACHE_LINE

    @property
    def submitted_at(self) -> int:
        """Byte offset of the times of submission."""
        return self.deadlines_at + _aligned(self.slots * 8)

    @property
    def began_at(self) -> int:
        """Byte offset of the times when a run began."""
        return self.submitted_at + _aligned(self.slots * 8)

    @property
    def inputs_at(self) -> int:
        """Byte offset of the inputs."""
        return self.began_at + _aligned(self.slots * 8)

    @property
    def scores_at(self) -> int:
        """Byte offset of the scores."""
        return self.inputs_at + _aligned(self.slots * 3 * self.height * self.width * 4)

    @property
    def size(self) -> int:
        """Bytes of the whole memory."""
        return self.scores_at + _aligned(self.slots * self.classes * 4)


class SlotMemory:
    """The mapped slots. Writers and readers agree over the socket on who owns a slot; there are no locks here."""

    def __init__(self, layout: SlotLayout, descriptor: int) -> None:
        """Map ``descriptor`` and own it. Raises OSError where it is too small for the layout, or no memory is left."""
        self.layout = layout
        self.descriptor = descriptor
        try:
            if os.fstat(descriptor).st_size < layout.size:
                raise OSError(f"slot memory of {os.fstat(descriptor).st_size} bytes, {layout.size} needed")
            memory = mmap.mmap(descriptor, layout.size)
        except OSError:
            os.close(descriptor)
            raise
        image = (layout.slots, 3, layout.height, layout.width)
        self.taken = np.ndarray((1,), np.int64, memory)
        self.deadlines = np.ndarray((layout.slots,), np.float64, memory, layout.deadlines_at)
        self.submitted = np.ndarray((layout.slots,), np.float64, memory, layout.submitted_at)
        self.began = np.ndarray((layout.slots,), np.float64, memory, layout.began_at)
        self.inputs = np.ndarray(image, np.float32, memory, layout.inputs_at)
        self.scores = np.ndarray((layout.slots, layout.classes), np.float32, memory, layout.scores_at)

    @classmethod
    def create(cls, layout: SlotLayout) -> "SlotMemory":
        """New, zeroed slots. Pages are taken from the system when they are first written.

        Raises StartupError where there is no memory for so many.
        """
        with needed_for(f"{layout.slots} slots, native.slots", layout.size):
            return cls(layout, anonymous("slots", layout.size))

    def close(self) -> None:
        """Give the descriptor back; the memory itself goes with the last array that looks at it."""
        os.close(self.descriptor)


def _aligned(size: int) -> int:
    return -(-size // CACHE_LINE) * CACHE_LINE
