"""An engine that stands still is ended, for what it owes can be given to another only once it cannot write any more."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable

from service.native.supervised import Child

log = logging.getLogger("regnetx.supervisor")

LOOK_SECONDS = 1.0
# In a row, at which an engine that had been ready was silent or in one run for too long. Looks and not seconds are
# counted: after a machine or container was frozen everything looks late, once.
MOST_LOOKS = 10


async def end_the_stuck(engines: Callable[[], Iterable[Child]]) -> None:
    """For ever: kill each of ``engines()`` that stays in trouble. A stopped process has no alarm of its own."""
    troubled: Counter[int] = Counter()  # by process id
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        troubled = _look(engines(), troubled)


def _look(engines: Iterable[Child], before: Counter[int]) -> Counter[int]:
    """How often in a row each has been seen in trouble, now; those that have been too often are ended."""
    troubled: Counter[int] = Counter()
    for engine in engines:
        pid, trouble = engine.pid, engine.vitals.trouble()
        if pid is None or not engine.ready.is_set() or not trouble:
            continue
        troubled[pid] = before[pid] + 1
        if troubled[pid] == MOST_LOOKS:
            log.error("%s %s and is ended", engine.name, trouble)
            engine.kill()
    return troubled
