"""The process in which a target's cases are checked: bounded, and its death is a finding and not the end.

``python -m fuzz.worker TARGET MODEL FOLDER``: batches come on standard input, an answer in JSON goes out for each.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import struct
import sys
import traceback
from pathlib import Path
from typing import BinaryIO

from fuzz.registry import target_named

MORE_MEMORY = 1536 << 20  # bytes of address space beyond what the process has when it begins


def _read_batch(stream: BinaryIO) -> list[bytes] | None:
    head = stream.read(4)
    if len(head) < 4:
        return None
    (count,) = struct.unpack("<I", head)
    return [stream.read(struct.unpack("<I", stream.read(4))[0]) for _ in range(count)]


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(name: str, model: str, folder: str) -> None:
    """Until standard input ends."""
    faulthandler.enable()
    batches = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be read as an answer
    target = target_named(name, Path(model))
    target.open(Path(folder))
    target.check(target.seeds()[:1])  # what is loaded late is loaded before memory is bounded
    _limit_memory()
    print(json.dumps("ready"), file=answers, flush=True)
    while (cases := _read_batch(batches)) is not None:
        found = None
        try:
            target.check(cases)
        except Exception as error:
            found = "".join(traceback.format_exception(error))
        print(json.dumps(found), file=answers, flush=True)
    os._exit(0)  # threads of servers in this process need not be waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
