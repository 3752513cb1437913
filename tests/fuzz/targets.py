"""What is fuzzed: a target makes cases, each one ``bytes``, and says of each whether the promise was kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from random import Random

CORPUS = Path(__file__).parent / "corpus"


class BrokenPromiseError(Exception):
    """What the code under test did that it must not do."""


class Target(ABC):
    """One door or one reader. ``open`` is called once; a case depends on nothing that came before it."""

    name: str
    batch = 1  # cases that are checked together

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Good cases, from which the others are made."""

    @abstractmethod
    def generate(self, random: Random, seeds: list[bytes]) -> bytes:
        """The next case."""

    @abstractmethod
    def check(self, cases: list[bytes]) -> None:
        """Raises BrokenPromiseError, or whatever the code under test should not have let through."""

    def open(self, folder: Path) -> None:  # noqa: B027
        """Before the first case; ``folder`` is empty and the target's own."""

    def settle(self) -> None:  # noqa: B027
        """After some batches: what must still hold."""

    def close(self) -> None:  # noqa: B027
        """After the last case."""


def kept(name: str) -> list[bytes]:
    """The corpus of a target: inputs that once found something, and what else is worth keeping."""
    folder = CORPUS / name
    return [file.read_bytes() for file in sorted(folder.iterdir())] if folder.is_dir() else []


def case_number(target: Target, seed: int, number: int, seeds: list[bytes]) -> bytes:
    """Case ``number`` of a run: first the corpus and the seeds as they are, then what is made of them."""
    if number < len(seeds):
        return seeds[number]
    return target.generate(Random(f"{target.name} {seed} {number}"), seeds)
