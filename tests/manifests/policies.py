"""checkov and yamllint over files, as a person would run them; the checks that are skipped, each with its reason."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from rendering import TOOLS

SKIPPED = {
    "CKV_K8S_15": "imagePullPolicy Always: tags are not moved here, and an image that was loaded into a node has no "
    "registry to be pulled from",
    "CKV_K8S_43": "images by digest: the digest is that of the user's own push; `images: digest:` in their overlay",
    "CKV_K8S_35": "secrets as files: the token is one variable of an init container, which has ended when the server "
    "starts, and a variable can be optional",
}


def checkov(folder: Path) -> tuple[dict[str, set[str]], int]:
    """The ids of the checks that failed, by the name of the file, and how many checks passed in all."""
    command = [TOOLS / "checkov", "--framework", "kubernetes", "--skip-download", "--compact", "--output", "json"]
    skipped = ["--skip-check", ",".join(SKIPPED)]
    done = subprocess.run(
        [*command, *skipped, "--directory", folder], capture_output=True, text=True, timeout=300, check=False
    )
    report = json.loads(done.stdout)
    if report["results"]["parsing_errors"]:
        raise ValueError(f"checkov cannot read {report['results']['parsing_errors']}")
    failed: dict[str, set[str]] = {}
    for one in report["results"]["failed_checks"]:
        failed.setdefault(Path(one["file_path"]).stem, set()).add(one["check_id"])
    return failed, report["summary"]["passed"]


def yamllint(folder: Path) -> list[str]:
    """What yamllint says of the files of a folder, by the rules of its own .yamllint; warnings count."""
    command = [TOOLS / "yamllint", "--strict", "--format", "parsable", "--config-file", folder / ".yamllint", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line]
