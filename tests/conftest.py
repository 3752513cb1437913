"""What is dear to make and shared: an exported model, and a service that only answers."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT, Service, configuration, serving
from stock import Stock, stock_configuration, stock_serving

DIGITS = ROOT / "serving_models/bundled/digits"

# `make test` gives whole files to processes, one after the other: the longest first, or one process would end alone.
LONGEST = (
    "test_admin_door.py", "test_export.py", "test_fuzz.py", "test_faults.py", "test_overload.py", "test_reload.py",
    "test_tracing.py", "test_readme.py", "test_quantize.py", "test_replicas.py", "test_stock_runtime.py",
    "test_both_runtimes.py", "test_end_to_end.py", "test_metrics.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file nothing moves."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled digits model, exported by the command that a user types: once, and a copy for each test process."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "exporting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "exported/digits").exists():
            _export(shared / "exported")
    folder = shutil.copytree(shared / "exported/digits", tmp_path_factory.mktemp("serving_models") / "digits")
    return folder / "serving_server"


def _export(folder: Path) -> None:
    command = [sys.executable, "-m", "serving_models", "export", str(DIGITS / "RegNetX_200MF_digits.pdparams")]
    result = subprocess.run(
        [*command, "--name", "digits", "--to", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def service(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of the digits model for tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("service"), configuration(digits_model)) as running:
        yield running


@pytest.fixture(scope="session")
def stock_service(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """The same model under paddle_serving_server; for tests that are skipped where it cannot be."""
    with stock_serving(tmp_path_factory.mktemp("stock"), stock_configuration(digits_model)) as running:
        yield running
