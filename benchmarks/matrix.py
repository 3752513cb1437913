"""Which subject is measured in which situation, at which doors and concurrencies: the usual choice, all, or yours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.measure import BARE, LOOP
from benchmarks.servers import SERVERS

MODELS = ("RegNetX_200MF", "RegNetX_4GF")
IMAGES = {"500x375": (500, 375), "4000x3000": (4000, 3000)}
DOORS = ("http", "http-raw", "grpc")
CONCURRENCY = (1, 8, 32, 128)
CORNERS = (1, 32)
SHARES = (0.5, 0.7, 0.9)
BARE_BATCHES = (1, 8)
MAIN = (BARE, "auto", *(name for name, server in SERVERS.items() if server.kind != "ours"))
ENGINES = tuple(name for name, server in SERVERS.items() if server.kind == "ours" and name != "auto")
SUBJECTS = (*MAIN, *ENGINES)


@dataclass(frozen=True)
class Part:
    """Some subjects in some situations, all with the same cells."""

    models: Sequence[str]
    images: Sequence[str]
    subjects: Sequence[str]
    doors: Sequence[str]
    concurrency: Sequence[int]
    shares: Sequence[float]
    rounds: int

    def cells(self, subject: str) -> list[tuple[str, int]]:
        """Door and concurrency; of the bare loop the size of a batch."""
        if subject == BARE:
            return [(LOOP, batch) for batch in BARE_BATCHES]
        doors = [door for door in self.doors if door in SERVERS[subject].doors]
        return [(door, concurrency) for door in doors for concurrency in self.concurrency]

    def blocks(self) -> Iterator[tuple[int, str, str, str]]:
        """Round, model, image, subject; the subjects take turns in each round."""
        for model in self.models:
            for image in self.images:
                for round_ in range(self.rounds):
                    for subject in self.subjects:
                        yield round_, model, image, subject


def usual(rounds: int) -> list[Part]:
    """The smallest model with a small image in full, its engines and the other situations at their corners."""
    first, *others = MODELS
    small, large = IMAGES
    return [
        Part([first], [small], MAIN, DOORS, CONCURRENCY, SHARES, rounds),
        Part([first], [small], ENGINES, ["http"], CORNERS, [], rounds),
        Part([first], [large], MAIN, ["http"], CORNERS, [], 1),
        Part(others, list(IMAGES), MAIN, ["http"], CORNERS, [], 1),
    ]


def full(rounds: int) -> list[Part]:
    """Everything."""
    return [Part(MODELS, list(IMAGES), SUBJECTS, DOORS, CONCURRENCY, SHARES, rounds)]
