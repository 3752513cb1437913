"""A command line -> what it printed; what failed says so in full."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


class CommandError(AssertionError):
    """A command ended with another exit code than 0."""


def run(
    *command: str | Path,
    seconds: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> str:
    """Standard output of a command. Raises CommandError, with all it said, where it fails or takes too long."""
    said = attempt(*command, seconds=seconds, env=env, cwd=cwd, stdin=stdin)
    if said.returncode:
        raise CommandError(f"{' '.join(map(str, command))}: exit code {said.returncode}\n{said.stdout}{said.stderr}")
    return said.stdout


def attempt(
    *command: str | Path,
    seconds: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """As ``run``, for commands that may fail. Raises CommandError only where it takes too long."""
    try:
        return subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=env,
            cwd=cwd,
            input=stdin,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{' '.join(map(str, command))}: no end after {seconds:.0f} s") from None
