"""The service with its bundled model, in the environment that make sets up for it: this one has nothing of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from real_prometheus import SECONDS
from rendering import ROOT
from running import Service, configuration, end, wait_until_ready

PYTHON = ROOT / ".venv/bin/python"
DIGITS = ROOT / "serving_models/bundled/digits"


@contextlib.contextmanager
def digits_service(folder: Path, **changes: Any) -> Iterator[Service]:
    """One that classifies digits, ready, with its admin door open; ``changes``: as in ``running.configuration``."""
    if not PYTHON.exists() and os.environ.get("CI") != "true":
        pytest.skip("monitoring is NOT tested: make test or make serve sets up the service in .venv first")
    export = [PYTHON, "-m", "serving_models", "export", DIGITS / "RegNetX_200MF_digits.pdparams", "--name", "digits"]
    subprocess.run([*export, "--to", folder], cwd=ROOT, capture_output=True, check=True, timeout=300)
    dag = {"enable_prometheus": True, "prometheus_port": 0}
    config = configuration(folder / "digits/serving_server", dag=dag, **changes)
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    command = [PYTHON, "-m", "service", "serve", "--config", folder / "config.yml"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield wait_until_ready(process)
    finally:
        end(process, SECONDS)
