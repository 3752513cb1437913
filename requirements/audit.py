"""Every locked version -> its known vulnerabilities, by pip-audit from the OSV database: ``make audit``.

    python -m requirements.audit [--required] [--osv-url URL] [--seconds N]

What is wrong with a lock itself is told first, and always. Where the database cannot be reached nothing is known of
vulnerabilities: that is said in one line and is no failure, unless it is asked for with ``--required``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from requirements.advisories import LONGEST, Advisory, UnreachableError, ask
from requirements.locks import Locked, Pin, read_locks

ROOT = Path(__file__).parents[1]
IGNORED = Path("requirements/audit-ignore.toml")
OSV = "https://api.osv.dev/v1/query"
SECONDS = 300  # for all questions together
ANY = "*"
ENTRY = 'id = "..." (or "*"), package = "name==version", reason = "...", revisit = 2027-01-31'
# What is installed for a measurement and serves nobody; a range of which whoever installs it takes a version
TOLD_ONLY = ("benchmarks/", "client/")


class AuditError(Exception):
    """A file of this audit is not right; one sentence."""


class Ignored(BaseModel):
    """An advisory of one exact version, or all of that version, which somebody has looked at, until a day."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str = Field(min_length=1)  # or an alias; ANY
    package: str = Field(pattern=r"^[a-z0-9-]+==[^=\s]+$")
    reason: str = Field(min_length=1)
    revisit: date

    def covers(self, pin: Pin, advisory: Advisory) -> bool:
        return self.package == str(pin) and (self.id == ANY or self.id in advisory.names)


class IgnoreFile(BaseModel):
    """``audit-ignore.toml``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ignore: list[Ignored] = []


def main(arguments: list[str] | None = None) -> int:
    """0: nothing found, or nothing known and not required; 1: a fault or a vulnerability; 2: a file is not right."""
    options = _parser().parse_args(arguments)
    try:
        ignored = read_ignored(options.root / IGNORED)
        locked = read_locks(options.root)
    except AuditError as error:
        print(f"regnetx: {error}", file=sys.stderr)
        return 2
    for fault in locked.faults:
        print(fault)
    pins = {pin for of_one in locked.pins.values() for pin in of_one}
    try:
        found = ask(pins, options.osv_url, options.seconds)
    except UnreachableError as error:
        print(f"NOT audited: {error}; known vulnerabilities of {len(pins)} versions were not looked up", flush=True)
        return 1 if locked.faults or options.required else 0
    failed = _tell(found, locked, ignored)
    return 1 if failed or locked.faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m requirements.audit", description=__doc__)
    parser.add_argument("--osv-url", default=os.environ.get("OSV_URL", OSV), help=f"default: OSV_URL, or else {OSV}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all of it; default: {SECONDS}")
    parser.add_argument("--required", action="store_true", help="fail where the database cannot be reached")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser


def read_ignored(file: Path) -> list[Ignored]:
    """What is known and accepted. Raises AuditError."""
    try:
        return IgnoreFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))).ignore
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in fault["loc"])
        found = f"{place}: {str(fault['input'])[:LONGEST]!r}: {fault['msg']}"
        raise AuditError(f"{file}: {found}; accepted: [[ignore]] with {ENTRY}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AuditError(f"{file}: {reason}; accepted: a TOML file of [[ignore]] with {ENTRY}") from None


def _tell(found: dict[Pin, list[Advisory]], locked: Locked, ignored: list[Ignored]) -> bool:
    """Print what was found; whether a vulnerability is among it that is neither listed nor to be told only."""
    failed, used = False, set()
    for pin, advisory in [(pin, one) for pin, advisories in sorted(found.items()) for one in advisories]:
        entries = [entry for entry in ignored if entry.covers(pin, advisory)]
        used |= set(entries)
        if any(entry.revisit >= date.today() for entry in entries):
            continue
        places = sorted(name for name, pins in locked.pins.items() if pin in pins)
        late = f"; it was listed until {entries[0].revisit}: {entries[0].reason}" if entries else ""
        only_told = all(place.startswith(TOLD_ONLY) for place in places)
        failed |= not only_told
        print(f"{'(no failure) ' if only_told else ''}{', '.join(places)}: {pin}: {advisory}{late}")
    for entry in ignored:
        if entry not in used:
            print(f"{IGNORED}: nothing is known of {entry.package} as {entry.id} any more; take it out")
    known = sum(map(len, found.values()))
    print(f"audited {len(found)} versions: {known} known vulnerabilities, {len(used)} entries of {IGNORED} used")
    return failed


if __name__ == "__main__":
    sys.exit(main())
