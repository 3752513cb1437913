"""Image files -> results, many in flight, in the order of the files."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from regnetx_client.cli.arguments import Options
from regnetx_client.cli.client import Classifier
from regnetx_client.cli.output import Result, writer
from regnetx_client.cli.progress import Progress
from regnetx_client.errors import BadRequest, ConnectionFailed, RegnetError, ServerError

# Finished requests that wait for a slow one before them; the files in memory stay bounded.
_WINDOW = 4
_MOMENT = 0.1  # seconds


@dataclass
class Summary:
    """What became of a run."""

    total: int
    done: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    stopped: str = ""


async def predict(files: Sequence[str], client: Classifier, options: Options) -> Summary:
    """Writes each result to stdout as soon as those before it are there."""
    summary = Summary(len(files))
    write = writer(options.format, files, sys.stdout)
    progress = Progress(sys.stderr, len(files), shares_terminal=sys.stdout.isatty())
    results = _results(files, client, options)
    try:
        async for result in results:
            if _nobody_there(result, summary):
                summary.stopped = result.failure
                break
            _count(result, summary)
            with progress.around(summary.done, len(summary.failed)):
                write(result)
    finally:
        progress.clear()
        await results.aclose()
        await client.close()
    return summary


def _nobody_there(result: Result, summary: Summary) -> bool:
    """A server that cannot be reached for the first image is not asked again for all the others."""
    error = result.error
    return summary.done == 0 and isinstance(error, ConnectionFailed) and not error.sent


def _count(result: Result, summary: Summary) -> None:
    summary.done += 1
    if result.error is not None:
        summary.failed.append((result.image, result.failure))


async def _results(files: Sequence[str], client: Classifier, options: Options) -> AsyncGenerator[Result, None]:
    """Bounded: so many requests in flight, so many finished ones kept."""
    free = asyncio.Semaphore(options.concurrency)
    waiting: deque[asyncio.Task[list[Result]]] = deque()

    async def limited(names: Sequence[str]) -> list[Result]:
        async with free:
            return await _classified(names, client, options.top_k)

    try:
        for start in range(0, len(files), options.batch):
            waiting.append(asyncio.create_task(limited(files[start : start + options.batch])))
            if len(waiting) >= options.concurrency * _WINDOW:
                for result in await _first(waiting):
                    yield result
        while waiting:
            for result in await _first(waiting):
                yield result
    finally:
        await _stop(waiting)


async def _first(waiting: deque[asyncio.Task[list[Result]]]) -> list[Result]:
    await asyncio.wait({waiting[0]})
    return waiting.popleft().result()


async def _stop(waiting: Iterable[asyncio.Task[list[Result]]]) -> None:
    """Cancels until it is so: before Python 3.11, anyio loses a cancellation that meets a connection just made."""
    pending = {task for task in waiting if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_MOMENT)


async def _classified(names: Sequence[str], client: Classifier, top_k: int) -> list[Result]:
    """One request; when it fails for what it holds, each image on its own, so that the others are answered."""
    if len(names) == 1:
        return [await _alone(names[0], client, top_k)]
    try:
        rows = await client.classify_batch([Path(name) for name in names], top_k)
    except (BadRequest, ServerError, OSError):
        return [await _alone(name, client, top_k) for name in names]
    except RegnetError as error:
        return [Result(name, error=error) for name in names]
    return [Result(name, tuple(row)) for name, row in zip(names, rows)]


async def _alone(name: str, client: Classifier, top_k: int) -> Result:
    try:
        return Result(name, tuple((await client.classify_batch([Path(name)], top_k))[0]))
    except (RegnetError, OSError) as error:
        return Result(name, error=error)
