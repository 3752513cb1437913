"""A process that stands still is ended, so that another can take its place: a stopped one has no alarm of its own.

What an engine owes can be given to another only once it cannot write any more. A frontend keeps the connections that it
has accepted, and their callers would wait; the ports are the supervisor's and its successor's.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable

from service.native.supervised import Child

log = logging.getLogger("regnetx.supervisor")

LOOK_SECONDS = 1.0
# A look that is so late was made by a process that has itself been starved or frozen. It proves nothing of others.
LATE_SECONDS = 1.0
# In a row, at which it was silent or in one run for too long, by kind. Looks and not seconds are counted: after a
# machine or container was frozen everything looks late, once. What an engine owes is not lost with it; with a frontend
# its connections are, so it is given twice as long: 25 s in all. Callers wait for 30; and the worst messages known, of
# 60 MiB and four at a time as the usual bounds allow, held a loop for less than 5 on a busy machine of 2 cores.
MOST_LOOKS = {"engine": 10, "frontend": 20}


class Watch:
    """What has been seen of the processes at the looks until now."""

    def __init__(self) -> None:
        self._troubled: Counter[int] = Counter()  # looks in a row, by process id
        self._due = math.inf

    def look(self, children: Iterable[Child], now: float) -> None:
        """Kill each that has been in trouble for too long. One that has not beaten yet is starting, not silent.

        ``now``: seconds of the event loop's clock.
        """
        late, self._due = now - self._due, now + LOOK_SECONDS
        if late > LATE_SECONDS:
            return
        before, self._troubled = self._troubled, Counter()
        for child in children:
            pid, trouble = child.pid, child.vitals.trouble()
            if pid is None or not child.vitals.has_beaten or not trouble:
                continue
            self._troubled[pid] = before[pid] + 1
            if self._troubled[pid] == MOST_LOOKS[child.kind]:
                log.error("%s %s and is ended", child.name, trouble)
                child.kill()


async def end_the_stuck(children: Callable[[], Iterable[Child]]) -> None:
    """For ever: kill each of ``children()`` that stays in trouble. Whoever runs them starts another."""
    watch = Watch()
    while True:
        watch.look(children(), asyncio.get_running_loop().time())
        await asyncio.sleep(LOOK_SECONDS)
