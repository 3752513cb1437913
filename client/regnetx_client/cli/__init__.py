"""The command ``regnetx``: arguments -> files -> predictions -> lines, and an exit status."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress

from regnetx_client.cli.arguments import UsageError, parsed
from regnetx_client.cli.client import opened
from regnetx_client.cli.files import image_files
from regnetx_client.cli.predict import Summary, predict
from regnetx_client.cli.streams import open_missing_streams

DONE, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 when images failed, 2 for wrong usage, 130 for Ctrl-C."""
    open_missing_streams()
    _let_any_name_through()
    try:
        options = parsed(arguments)
        return _report(asyncio.run(_interruptible(predict(image_files(options.paths), opened(options), options))))
    except UsageError as error:
        print(f"regnetx: {error}", file=sys.stderr)
        return USAGE
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("regnetx: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        # Of stdout: a file that cannot be read is one image that failed.
        _drop_the_rest()
        if not isinstance(error, BrokenPipeError):  # where the reader has gone (head, less), nobody is to be told
            print(f"regnetx: the results cannot be written: {error.strerror or error}", file=sys.stderr)
        return SOME_FAILED


def _drop_the_rest() -> None:
    """Python would try to write it once more while it closes stdout, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _interruptible(run: Coroutine[object, object, Summary]) -> Summary:
    """Ctrl-C cancels the run between two steps; before Python 3.11 it would strike in the middle of any."""
    task = asyncio.ensure_future(run)
    # Windows has no such handlers, and only the main thread may set one.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    return await task


def _report(summary: Summary) -> int:
    """Names every image that failed; nothing is said when none did."""
    if summary.stopped:
        print(f"regnetx: {summary.stopped}", file=sys.stderr)
        return SOME_FAILED
    for image, error in summary.failed:
        print(f"regnetx: {image}: {error}", file=sys.stderr)
    if summary.failed:
        print(f"regnetx: {len(summary.failed)} of {summary.total} images failed", file=sys.stderr)
    return SOME_FAILED if summary.failed else DONE


def _let_any_name_through() -> None:
    """File names are bytes and labels are any language's; neither may end the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if _is_utf8(stream) else "backslashreplace")


def _is_utf8(stream: io.TextIOWrapper) -> bool:
    return stream.encoding.lower().replace("-", "") == "utf8"
