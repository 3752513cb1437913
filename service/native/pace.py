"""How long an image that comes now is going to take: all that are ahead of it, at the pace of the slower station.

So a request that could only be answered too late is refused at once, and what is accepted is in time. Of two stations
in a row (decode threads, then engines) the slower one tells how fast a queue moves; a mean of what it did lately, under
load, is enough, for a wrong guess costs a refusal or a late answer, and is corrected by what comes next.
"""

import time
from collections.abc import Hashable
from dataclasses import dataclass

KEEP = 0.8  # of what is known, each time that something new is seen
FRESH_SECONDS = 5.0  # what was seen longer ago says nothing of now; or so many times as long as it took:
FRESH_TIMES = 4.0
MARGIN = 0.7  # of the time that an image has: images differ, and a run that has begun is waited for
ALWAYS_TAKEN = 2  # images for each engine, one that runs and one that waits: else nothing new would ever be seen


@dataclass
class Rate:
    """Images a second of one engine or of one decode thread, by a mean that forgets."""

    images: float = 0.0
    seconds: float = 0.0
    until: float = 0.0  # of ``time.monotonic``: when this is too old

    def saw(self, images: int, seconds: float) -> None:
        """It was busy for ``seconds`` with so many images of ours."""
        self.images = KEEP * self.images + images
        self.seconds = KEEP * self.seconds + seconds
        self.until = time.monotonic() + max(FRESH_SECONDS, FRESH_TIMES * seconds)

    def now(self) -> float:
        """Images a second; 0 where nothing is known any more."""
        if self.until < time.monotonic():
            self.images = self.seconds = 0.0
        return self.images / self.seconds if self.seconds else 0.0


class Pace:
    """Of one frontend, whose images share engines with those of others: its own are all that it counts."""

    def __init__(self, threads: int = 1) -> None:
        """``threads``: that decode, at the same time."""
        self._threads = threads
        self._decoding = Rate()
        self._engines: dict[Hashable, Rate] = {}

    def decoded(self, seconds: float) -> None:
        """A decode thread was busy with one image for so long."""
        self._decoding.saw(1, seconds)

    def ran(self, engine: Hashable, images: int, seconds: float) -> None:
        """A run with ``images`` of ours took so long, and more of them waited for its end."""
        self._engines.setdefault(engine, Rate()).saw(images, seconds)

    def lost(self, engine: Hashable) -> None:
        """An engine has gone."""
        self._engines.pop(engine, None)

    def expected(self, images: int) -> float:
        """Seconds until so many images have been answered that are ahead now or come; 0 where nothing is known."""
        rates = [self._threads * self._decoding.now(), sum(rate.now() for rate in self._engines.values())]
        return images / min((rate for rate in rates if rate), default=float("inf"))

    def is_too_late(self, ahead: int, coming: int, seconds: float, *, engines: int) -> bool:
        """Whether ``coming`` images will not all be answered within ``seconds``; ``ahead``: those in progress."""
        return ahead >= ALWAYS_TAKEN * engines and self.expected(ahead + coming) > MARGIN * seconds
