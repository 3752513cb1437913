"""Engines that never come back from loading while the service starts; what becomes of a running one: test_faults.py."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from running import end, ends_before_it_is_ready, quick, start

HANGS = "import threading\nthreading.Event().wait()\n"


@pytest.fixture
def starting(tmp_path, digits_model):
    """Starts the service with a vendor's library that hangs while it is loaded; ``native`` as given."""
    processes = []

    def begin(**native):
        (tmp_path / "onnxruntime.py").write_text(HANGS)
        file = tmp_path / "config.yml"
        file.write_text(yaml.safe_dump(quick(digits_model, native=native)))
        environment = {"PYTHONPATH": str(tmp_path)}
        processes.append(start(["serve", "--config", str(file)], environment, stderr=subprocess.PIPE))
        return processes[0]

    yield begin
    for process in processes:
        end(process)
        process.stderr.close()


def test_a_start_whose_engine_hangs_while_it_loads_ends_with_the_key_in_one_line(starting):
    process = starting(load_timeout_ms=500)
    out, err = process.communicate(timeout=60)
    line = "regnetx: engine 0 has not loaded the model within the 0.5 s of native.load_timeout_ms\n"
    assert (process.returncode, out, err) == (2, "", line)


def test_a_stop_does_not_wait_for_an_engine_that_loads_without_a_bound(starting):
    ends_before_it_is_ready(starting(load_timeout_ms=0))
