"""The Dockerfile and the compose file before anything is built: rules of hadolint and checkov."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from command import attempt, run
from containers import ROOT

BIN = Path(sys.executable).parent
DOCKERFILE = ROOT / "docker/Dockerfile"


def test_hadolint_has_nothing_to_say():
    said = attempt(BIN / "hadolint", "--no-color", DOCKERFILE)
    assert (said.returncode, said.stdout) == (0, "")


def test_hadolint_notices_a_fault(tmp_path):
    faulty = tmp_path / "Dockerfile"
    faulty.write_text(DOCKERFILE.read_text().replace("USER 10001:10001", "USER root"))
    assert "DL3002" in attempt(BIN / "hadolint", "--no-color", faulty).stdout


def test_checkov_has_nothing_to_say():
    report = _checkov(DOCKERFILE)
    assert [check["check_id"] for check in report["results"]["failed_checks"]] == []
    assert report["summary"]["passed"] > 20


def test_checkov_notices_a_fault(tmp_path):
    faulty = tmp_path / "Dockerfile"
    faulty.write_text(DOCKERFILE.read_text().replace("HEALTHCHECK", "# HEALTHCHECK"))
    failed = {check["check_id"] for check in _checkov(faulty)["results"]["failed_checks"]}
    assert "CKV_DOCKER_2" in failed


def _checkov(file):
    command = ["--framework", "dockerfile", "--file", file, "--skip-download", "--quiet", "--compact", "--soft-fail"]
    return json.loads(run(BIN / "checkov", *command, "--output", "json", seconds=300))


def test_nothing_of_this_machine_is_sent_to_the_engine_but_what_is_in_the_images(docker, images, tmp_path):
    """The build context, seen by building an image of it."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    docker.docker("build", "--file", tmp_path / "Dockerfile", "--output", tmp_path / "context", ROOT, seconds=300)
    top = {path.name for path in (tmp_path / "context").iterdir()}
    assert top == {"client", "config.yml", "docker", "requirements", "service", "serving_models"}
    sent = [
        path for path in (tmp_path / "context").rglob("*") if path.name in ("__pycache__", "serving_server", ".git")
    ]
    assert sent == []
