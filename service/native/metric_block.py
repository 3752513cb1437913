"""The cells of one process in shared memory: it alone writes them, the supervisor reads them.

The memory belongs to the supervisor and outlives the process, so a counter goes on where its predecessor ended. Like
the slots it is an anonymous file: no name, nothing left behind. One thread of one process writes; an aligned float64 is
stored and loaded whole, so a reader needs no lock.
"""

import mmap
import os
from bisect import bisect_left

from service.native.metrics import ALL, CELLS, Family, Kind, Vital, cell_of
from service.native.shared_memory import anonymous, needed_for

BYTES = CELLS * 8


class Block:
    """The mapped cells of one process."""

    def __init__(self, descriptor: int, *, writable: bool = False) -> None:
        """Map ``descriptor`` and own it. Raises OSError or ValueError where it is smaller than the cells."""
        self.descriptor = descriptor
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self.cells = memoryview(mmap.mmap(descriptor, BYTES, access=access)).cast("d")

    @classmethod
    def create(cls) -> "Block":
        """New cells, all 0. Raises StartupError where there is no memory for them."""
        with needed_for("what a process counts", BYTES):
            return cls(anonymous("metrics", BYTES), writable=True)

    def forget_process(self) -> None:
        """The process has ended: what it was just doing is over, what it has counted stays counted."""
        for vital in Vital:
            self.cells[vital.value] = 0.0
        for family in ALL:
            if family.kind is Kind.GAUGE:
                for labels in family.series():
                    self.cells[cell_of(family, labels)] = 0.0

    def absorb(self, other: "Block") -> None:
        """Count on what a process has counted that will not come back."""
        for family in ALL:
            if family.kind is not Kind.GAUGE:
                for labels in family.series():
                    first = cell_of(family, labels)
                    for cell in range(first, first + family.cells_of_one):
                        self.cells[cell] += other.cells[cell]

    def close(self) -> None:
        """Unmap, and give the descriptor back."""
        self.cells.release()
        os.close(self.descriptor)


class Counter:
    """A number that only grows."""

    def __init__(self, block: Block, family: Family, *labels: str) -> None:
        self._cells = block.cells
        self._at = cell_of(family, labels)

    def add(self, amount: float = 1.0) -> None:
        """Count ``amount`` more."""
        self._cells[self._at] += amount


class Gauge(Counter):
    """A number that also falls."""

    def set(self, value: float) -> None:
        """What it is now."""
        self._cells[self._at] = value


class Histogram:
    """How often a value fell into each bucket, and the sum of the values."""

    def __init__(self, block: Block, family: Family, *labels: str) -> None:
        self._cells = block.cells
        self._at = cell_of(family, labels)
        self._bounds = family.buckets
        self._sum = self._at + len(family.buckets) + 1

    def observe(self, value: float, times: int = 1) -> None:
        """``value`` was seen ``times`` times."""
        self._cells[self._at + bisect_left(self._bounds, value)] += times
        self._cells[self._sum] += value * times
