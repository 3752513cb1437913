"""Files that are renewed while the service runs: what they hold is read once a second and used when it has changed."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from service.errors import ConfigError

log = logging.getLogger("regnetx.renewal")

# Contents are compared, not times: Kubernetes swaps a link, and two writes may fall into one tick of a file system.
LOOK_SECONDS = 1.0

Held = TypeVar("Held")


async def follow(
    what: str, held: Held | None, read: Callable[[], Held | None], use: Callable[[Held | None], None]
) -> None:
    """For ever: ``use`` what ``read`` returns when it differs from what is ``held``.

    ``read`` runs in a thread. What it raises as ConfigError is said once, and what was held before stays in force: half
    of a renewal may be written.
    """
    said = ""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            found = await asyncio.to_thread(read)
        except ConfigError as error:
            if str(error) != said:
                log.error("%s; the %s of before stay in force", error, what)
            said = str(error)
            continue
        said = ""
        if found != held:
            use(found)
            held = found
            log.info("the %s were read anew", what)
