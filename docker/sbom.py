"""An image -> its bill of materials, CycloneDX 1.6 as JSON: the Python packages and the Debian packages in it.

    python docker/sbom.py IMAGE > sbom.json

Runs where cyclonedx-python-lib is (requirements/verify.txt); the image itself is asked, without a network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

PYTHON_PACKAGES = """
import importlib.metadata, json, platform
found = {"python": platform.python_version(), "packages": []}
for package in importlib.metadata.distributions():
    about = package.metadata
    found["packages"].append([about["Name"], package.version, about["License-Expression"] or about["License"] or ""])
print(json.dumps(found))
"""
DEBIAN_PACKAGES = "${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\t${source:Version}\\n"
LONGEST_LICENSE = 80  # some packages put the whole text there


class SbomError(Exception):
    """The image cannot be asked, or what it answers makes no valid bill of materials."""


def main() -> int:
    """0 with the document on standard output, 2 with one sentence on standard error."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("regnetx: accepted: python docker/sbom.py IMAGE, for example regnetx-serving:cpu", file=sys.stderr)
        return 2
    try:
        print(document(sys.argv[1]))
    except SbomError as error:
        print(f"regnetx: {error}", file=sys.stderr)
        return 2
    return 0


def document(image: str) -> str:
    """The bill of materials of an image, valid by CycloneDX's own schema. Raises SbomError."""
    bom = Bom()
    bom.metadata.component = _image(image)
    for component in (*_python(image), *_debian(image)):
        bom.components.add(component)
    bom.register_dependency(bom.metadata.component, bom.components)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault:
        raise SbomError(f"the bill of materials of {image} is not valid CycloneDX: {fault}")
    return text


def _image(image: str) -> Component:
    facts = json.loads(_docker("image", "inspect", image))[0]
    labels = facts["Config"].get("Labels") or {}
    prefix = "org.opencontainers.image"
    known = {name: labels[f"{prefix}.{name}"] for name in ("revision", "title") if f"{prefix}.{name}" in labels}
    return Component(
        type=ComponentType.CONTAINER,
        name=image,
        bom_ref=facts["Id"],
        version=labels.get(f"{prefix}.version"),
        description=labels.get(f"{prefix}.description"),
        properties=[Property(name=f"{prefix}.{name}", value=value) for name, value in known.items()],
    )


def _python(image: str) -> Iterator[Component]:
    found: dict[str, Any] = json.loads(_inside(image, "python", "-c", PYTHON_PACKAGES))
    python = PackageURL("generic", None, "python", found["python"])
    yield Component(
        type=ComponentType.PLATFORM, name="CPython", version=found["python"], purl=python, bom_ref=str(python)
    )
    for name, version, license_ in found["packages"]:
        purl = PackageURL("pypi", None, name.lower().replace("_", "-"), version)
        yield Component(name=name, version=version, purl=purl, bom_ref=str(purl), licenses=_licenses(license_))


def _licenses(text: str) -> list[License]:
    line = " ".join(text.split())
    return [LicenseFactory().make_from_string(line)] if line and len(line) <= LONGEST_LICENSE else []


def _debian(image: str) -> Iterator[Component]:
    for line in _inside(image, "dpkg-query", "--show", "--showformat", DEBIAN_PACKAGES).splitlines():
        name, version, architecture, source, source_version = line.split("\t")
        purl = PackageURL("deb", "debian", name, version, {"arch": architecture, "distro": "debian-12"})
        upstream = Property(name="debian:source", value=f"{source} {source_version}")
        yield Component(name=name, version=version, purl=purl, bom_ref=str(purl), properties=[upstream])


def _inside(image: str, program: str, *arguments: str) -> str:
    """What a program of the image prints."""
    return _docker("run", "--rm", "--network=none", "--read-only", "--entrypoint", program, image, *arguments)


def _docker(*arguments: str) -> str:
    command = [os.environ.get("DOCKER", "docker"), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    except FileNotFoundError:
        raise SbomError(f"{command[0]}: no such command; Docker is needed") from None
    except subprocess.TimeoutExpired:
        raise SbomError(f"docker {arguments[0]}: no answer within 120 s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        raise SbomError(f"docker {arguments[0]}: {lines[-1]}") from None


if __name__ == "__main__":
    sys.exit(main())
