"""What is dear to make and shared: an exported model, and a service that only answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT, Service, configuration, serving
from stock import Stock, stock_configuration, stock_serving

DIGITS = ROOT / "serving_models/bundled/digits"


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled digits model, exported by the command that a user types."""
    folder = tmp_path_factory.mktemp("serving_models")
    command = [sys.executable, "-m", "serving_models", "export", str(DIGITS / "RegNetX_200MF_digits.pdparams")]
    result = subprocess.run(
        [*command, "--name", "digits", "--to", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return folder / "digits/serving_server"


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
