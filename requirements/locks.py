"""Lock files -> exact versions, and what is wrong with a lock that can be told without a network."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from pip_requirements_parser import InstallRequirement, RequirementsFile

LOCKS = ("requirements/*.txt", "benchmarks/peers/*/requirements.txt")
CLIENT = "client/pyproject.toml"
SERVED = "requirements/native.txt"  # what the client is installed beside


@dataclass(frozen=True, order=True)
class Pin:
    """One version of one distribution, both in their normal form."""

    name: str
    version: str

    @classmethod
    def of(cls, name: str, version: str) -> Pin:
        return cls(canonicalize_name(name), str(Version(version)))

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Locked:
    """Versions by the files that name them, relative to the root, and the faults of these files, a sentence each."""

    pins: dict[str, set[Pin]]
    faults: list[str]


def read_locks(root: Path) -> Locked:
    """Every lock below ``root``, and the lowest version of each range of the client's."""
    pins: dict[str, set[Pin]] = {}
    faults: list[str] = []
    for lock in sorted(file for pattern in LOCKS for file in root.glob(pattern)):
        name = str(lock.relative_to(root))
        requirements, invalid = _read(lock)
        faults += [f"{name}: {one}" for one in invalid]
        faults += [f"{name}: {one}" for requirement in requirements for one in _faults(requirement)]
        pins[name] = {pin for requirement in requirements if (pin := _pin(requirement))}
        source = lock.with_suffix(".in")
        if source.is_file():
            wanted = [one.req for one in _read(source)[0] if one.req is not None]
            faults += [f"{name}: {one}" for one in _unmet(wanted, pins[name], str(source.relative_to(root)))]
    project = root / CLIENT
    if project.is_file():
        ranges = _ranges(project)
        faults += [f"{SERVED}: {one}" for one in _unmet(ranges, pins.get(SERVED, set()), CLIENT)]
        pins[CLIENT] = {pin for each in ranges if (pin := _lowest(each))}
    return Locked(pins, faults)


def _read(file: Path) -> tuple[list[InstallRequirement], list[str]]:
    """The requirements of a file and of those that it includes; the lines that are none."""
    found = RequirementsFile.from_file(str(file), include_nested=True)
    return found.requirements, [f"{line.line!r} is no requirement" for line in found.invalid_lines]


def _pin(requirement: InstallRequirement) -> Pin | None:
    """The exact version of a requirement; None where it has none."""
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==" or specifiers[0].version.endswith("*"):
        return None
    return Pin.of(requirement.name, specifiers[0].version)


def _faults(requirement: InstallRequirement) -> Iterator[str]:
    if _pin(requirement) is None:
        yield f"{requirement.line} is not an exact version; accepted: name==version"
    elif not any(option.startswith("sha256:") for option in requirement.hash_options):
        yield f"{_pin(requirement)} has no --hash=sha256:, so anything could be installed in its place"


def _unmet(wanted: list[Requirement], pins: set[Pin], source: str) -> Iterator[str]:
    """Requirements that no version of the lock meets: the lock is older than its source."""
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        versions = sorted(pin.version for pin in pins if pin.name == name)
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            found = ", ".join(versions) or "no version of it"
            yield f"has {found}, and {source} asks for {name}{requirement.specifier}; renew it: make lock"


def _ranges(project: Path) -> list[Requirement]:
    about = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = about.get("optional-dependencies", {})
    return [Requirement(text) for texts in (about["dependencies"], *extras.values()) for text in texts]


def _lowest(requirement: Requirement) -> Pin | None:
    versions = [one.version for one in SpecifierSet(str(requirement.specifier)) if one.operator in (">=", "==", "~=")]
    return Pin.of(requirement.name, versions[0]) if versions else None
