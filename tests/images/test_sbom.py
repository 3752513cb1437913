"""The bill of materials of an image, by the command that makes it."""

from __future__ import annotations

import json
import sys

import pytest
from command import attempt
from containers import ROOT
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


@pytest.fixture(scope="session")
def sbom(docker, cpu):
    """The document of the CPU image."""
    said = _sbom(docker, cpu)
    assert said.returncode == 0, said.stderr
    return said.stdout


def _sbom(docker, image):
    command = [sys.executable, ROOT / "docker/sbom.py", image]
    return attempt(*command, env={**docker.environment, "DOCKER": docker.client}, seconds=180)


def test_it_is_valid_by_cyclonedx_own_schema(sbom):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom) is None


def test_it_lists_the_python_packages_of_the_lock_and_the_debian_packages(sbom):
    components = {part["name"].lower(): part for part in json.loads(sbom)["components"]}
    lines = (ROOT / "requirements/native.txt").read_text().splitlines()
    locked = dict(line.split()[0].split("==") for line in lines if "==" in line)
    assert components["paddlepaddle"]["version"] == locked["paddlepaddle"]
    assert components["paddlepaddle"]["purl"] == f"pkg:pypi/paddlepaddle@{locked['paddlepaddle']}"
    assert components["libgomp1"]["purl"].startswith("pkg:deb/debian/libgomp1@")
    assert {"numpy", "regnetx-client", "cpython", "libc6", "tini"} <= components.keys()
    assert len(components) > 120


def test_it_says_which_image_it_is_of(docker, cpu, sbom):
    image = json.loads(sbom)["metadata"]["component"]
    assert (image["type"], image["name"], image["version"]) == ("container", cpu, "9.8.7")
    assert image["bom-ref"] == docker.docker("image", "inspect", "--format", "{{.Id}}", cpu).strip()


def test_an_image_that_is_not_there_is_one_sentence_and_exit_code_2(docker):
    said = _sbom(docker, "regnetx-verify/nothing")
    assert (said.returncode, said.stdout) == (2, "")
    [line] = said.stderr.splitlines()
    assert line.startswith("regnetx: docker image: ") and "regnetx-verify/nothing" in line
