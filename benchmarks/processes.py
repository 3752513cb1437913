"""What the processes of a running service have used, as the kernel counts it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
KINDS = {"service.native.frontend": "frontend", "service.native.engine_process": "engine"}
UTIME = 11  # its place among the fields of /proc/PID/stat after the name; stime follows


@dataclass(frozen=True)
class Used:
    """CPU seconds by kind: of all frontends, of their event loops alone, of all engines."""

    frontend: float
    loop: float
    engine: float

    def since(self, before: Used) -> Used:
        """What was used between two looks."""
        return Used(self.frontend - before.frontend, self.loop - before.loop, self.engine - before.engine)


def children(supervisor: int) -> dict[str, list[int]]:
    """Process ids of a service's frontends and engines."""
    found: dict[str, list[int]] = {"frontend": [], "engine": []}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int(_fields(entry / "stat")[1]) == supervisor:
                words = (entry / "cmdline").read_text().split("\0")
                found[next(KINDS[word] for word in words if word in KINDS)].append(int(entry.name))
    return found


def used(supervisor: int) -> Used:
    """CPU seconds since the service was started."""
    pids = children(supervisor)
    return Used(
        frontend=sum(_cpu(Path(f"/proc/{pid}/stat")) for pid in pids["frontend"]),
        # The first thread of a process has its number; in a frontend it is the event loop's.
        loop=sum(_cpu(Path(f"/proc/{pid}/task/{pid}/stat")) for pid in pids["frontend"]),
        engine=sum(_cpu(Path(f"/proc/{pid}/stat")) for pid in pids["engine"]),
    )


def memory(pid: int) -> int:
    """Bytes of a process, pages that it shares counted by their part (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


def _cpu(file: Path) -> float:
    user, system = _fields(file)[UTIME : UTIME + 2]
    return (int(user) + int(system)) / TICKS


def _fields(file: Path) -> list[str]:
    # The name, in parentheses, may hold anything.
    return file.read_text().rpartition(")")[2].split()
