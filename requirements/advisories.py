"""Versions -> what the OSV database knows of each, asked by pip-audit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from requirements.locks import Pin

PATIENCE = 10  # seconds for one question
LONGEST = 120  # characters of foreign text in a message


class UnreachableError(Exception):
    """Nothing is known, and why."""


@dataclass(frozen=True)
class Advisory:
    """A known vulnerability of a version."""

    names: tuple[str, ...]  # its id, then its aliases
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        aliases = f" ({', '.join(self.names[1:])})" if self.names[1:] else ""
        return f"{self.names[0]}{aliases}, {'fixed in ' + ', '.join(self.fixed_in) if self.fixed_in else 'not fixed'}"


def ask(pins: set[Pin], url: str, seconds: float) -> dict[Pin, list[Advisory]]:
    """What the database knows of each version. Raises UnreachableError where it does not answer for all of them."""
    give_up = time.monotonic() + seconds
    found: dict[Pin, list[Advisory]] = {}
    for layer in _layers(pins):
        try:
            result = _run(layer, url, give_up - time.monotonic())
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"{url} has not answered all questions within {seconds:g} s") from None
        found |= _read(result, url)
    if missing := pins - found.keys():
        raise UnreachableError(f"{url} was not asked for {', '.join(map(str, sorted(missing)))[:LONGEST]}")
    return found


def _layers(pins: set[Pin]) -> list[list[Pin]]:
    """All versions, each name only once in a layer: pip-audit refuses two versions of one name.

    The locks themselves will not do: of their lines for other platforms pip-audit reads none.
    """
    versions: dict[str, list[Pin]] = {}
    for pin in sorted(pins):
        versions.setdefault(pin.name, []).append(pin)
    return [[pin for pin in layer if pin] for layer in zip_longest(*versions.values())]


def _run(layer: list[Pin], url: str, seconds: float) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(map(str, layer)) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--desc", "off", "--progress-spinner", "off"]
        command += ["--disable-pip", "--no-deps", "--timeout", str(PATIENCE)]
        command += ["--vulnerability-service", "osv", "--osv-url", url, "--requirement", str(file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=max(0, seconds))


def _read(result: subprocess.CompletedProcess[str], url: str) -> dict[Pin, list[Advisory]]:
    try:
        answers = [one for one in json.loads(result.stdout)["dependencies"] if "vulns" in one]
        return {Pin.of(one["name"], one["version"]): _advisories(one["vulns"]) for one in answers}
    except (ValueError, KeyError, TypeError):
        lines = result.stderr.strip().splitlines() or ["pip-audit said nothing"]
        raise UnreachableError(f"{url} could not be asked ({lines[-1][:LONGEST]})") from None


def _advisories(answers: Iterable[dict[str, Any]]) -> list[Advisory]:
    return [Advisory((one["id"], *one["aliases"]), tuple(one["fix_versions"])) for one in answers]
