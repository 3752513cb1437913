"""The peers' environments: each in a folder of its own, from its lock; and what could not be installed, with why."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"
LOCKS = Path(__file__).parent / "peers"
STAMP = "ready"
INSTALL_SECONDS = 900


class NotInstalled(Exception):
    """Why a peer is not there."""


def install(name: str, *, folder: Path = FOLDER, locks: Path = LOCKS) -> Path:
    """The Python of a peer's environment, made if its lock has changed. Raises NotInstalled."""
    lock = locks / name / "requirements.txt"
    environment = folder / name
    python = environment / "bin/python"
    try:
        wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
        if not _is(environment / STAMP, wanted):
            print(f"installing {name} into {environment}, once", file=sys.stderr, flush=True)
            shutil.rmtree(environment, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(environment)])
            _run([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)])
            (environment / STAMP).write_text(wanted)
    except OSError as error:
        raise NotInstalled(str(error)) from None
    return python


def _is(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text() == wanted


def _run(command: list[str]) -> None:
    settings = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=settings)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"not installed within {INSTALL_SECONDS} s") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said[-1:] or ["pip said nothing"]
        raise NotInstalled(errors[0].removeprefix("ERROR: "))
