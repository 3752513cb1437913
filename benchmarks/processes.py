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


def family(root: int) -> list[int]:
    """Process ids of all that descend from ``root``; of a parent that has ended only where ``root`` is the reaper."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents.setdefault(int(_fields(entry / "stat")[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        descendants = parents.get(waiting.pop(), [])
        found += descendants
        waiting += descendants
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes and of the children that they have seen end."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _fields(Path(f"/proc/{pid}/stat"))
            total += sum(map(int, fields[UTIME : UTIME + 4])) / TICKS
    return total


def forget_peaks(pids: list[int]) -> None:
    """From now on the kernel keeps a new peak of each process."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(pids: list[int]) -> int:
    """Bytes of all: PSS now, and what each had more in RAM at its peak; where PSS cannot be read, RSS at its peak.

    An upper bound, for the peaks need not have been at one time. Nothing is asked while they are measured.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if "VmHWM" not in status:  # a zombie
                continue
            peak, resident = (int(status[key].split()[0]) * 1024 for key in ("VmHWM", "VmRSS"))
            try:
                total += memory(pid) + peak - resident
            except OSError:
                total += peak
    return total


def _cpu(file: Path) -> float:
    user, system = _fields(file)[UTIME : UTIME + 2]
    return (int(user) + int(system)) / TICKS


def _fields(file: Path) -> list[str]:
    # The name, in parentheses, may hold anything.
    return file.read_text().rpartition(")")[2].split()
