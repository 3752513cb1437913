"""The stock runtime: our op under paddle_serving_server 0.9.0, with the holes closed that can be."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stock
import yaml
from running import ROOT, is_alive, wait_for
from stock import last_line, output_of, post, stock_client, stock_configuration, stock_serving

needs_stock = pytest.mark.skipif(bool(stock.why_not()), reason=stock.why_not() or "it can")
DIGITS = sorted((ROOT / "serving_models/bundled/digits/samples").glob("*.png"))


def test_without_a_python_3_9_a_sentence_says_how_to_get_it():
    nowhere = {"PATH": os.environ["PATH"], "HOME": "/gone", "PYENV_ROOT": "/gone", "STOCK_PYTHON": "/gone/python3.9"}
    command = ["sh", "requirements/python39.sh"]
    result = subprocess.run(command, cwd=ROOT, env=nowhere, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    [sentence] = result.stderr.splitlines()
    assert "pyenv install 3.9" in sentence and "STOCK_PYTHON=" in sentence and "docs/migrating.md" in sentence


class Fuse:
    """Unpickling it runs ``open(path, "w")``."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


@needs_stock
@pytest.mark.parametrize("wrapped", [True, False], ids=["in an object array", "bare"])
def test_a_pickle_does_not_go_off_here_either(stock_service, tmp_path, wrapped):
    trace = tmp_path / "went off"
    content = BytesIO()
    if wrapped:
        np.save(content, np.array([Fuse(trace)], dtype=object), allow_pickle=True)
    else:
        content.write(pickle.dumps(Fuse(trace)))
    encoded = base64.b64encode(content.getvalue()).decode()
    body = json.dumps({"tensors": [{"name": "a", "elem_type": 13, "byte_data": encoded}]})
    status, _, answer = stock_service.ask(post(f"http://{stock_service.http}/regnet/prediction", body)).partition(" ")
    answer = json.loads(answer)
    assert status == "200" and answer["err_no"] == 8000 and "byte_data" in answer["err_msg"]
    assert not trace.exists()


def processes_of(group: int) -> list[int]:
    """The living processes of a process group."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if is_alive(pid) and group_of(pid) == group]


def group_of(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid)
    return 0


@needs_stock
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_gateway_and_all_its_processes(digits_model, tmp_path, number):
    with stock_serving(tmp_path, stock_configuration(digits_model)) as running:
        children = [pid for pid in processes_of(running.process.pid) if pid != running.process.pid]
        assert len(children) >= 2  # the gateway and the op
        running.process.send_signal(number)
        assert running.process.wait(20) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        wait_for(lambda: not any(map(is_alive, children)))


@needs_stock
def test_threads_give_every_request_its_own_scores(digits_model, tmp_path):
    config = stock_configuration(digits_model, worker_num=8, dag={"is_thread_op": True}, op={"concurrency": 4})
    with stock_serving(tmp_path, config) as running:
        paths = [shutil.copy(path, tmp_path / f"{number}_{path.name}") for number in range(12) for path in DIGITS]
        command = [sys.executable, "-m", "regnetx_client", "predict", "--json", "--concurrency", "8"]
        printed = running.ask([*command, "--url", f"http://{running.http}", *map(str, paths)])
    labels = [re.search(r'"label": ?"(\w+)"', line)[1] for line in printed.splitlines()]
    assert labels == [path.stem.partition("_")[2] for path in paths]


THREADS = """
import threading, time
from paddle_serving_server.pipeline import Op
from service.paddle_serving.op import RegnetOp
inside, most = [], []

def process(self, feed_batch, typical_logid=0):
    inside.append(self)
    most.append(len(inside))
    time.sleep(0.01)
    inside.pop()
    return {}, 0, ""

Op.process = process
op = RegnetOp(None, name="regnet", input_ops=[])
threads = [threading.Thread(target=op.process, args=([],)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(most), max(most))
"""


@needs_stock
def test_threads_take_turns_at_their_one_predictor(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVING_LOG_PATH", str(tmp_path))
    assert output_of([str(stock.PYTHON), "-c", THREADS]).splitlines()[-1] == "8 1"


@needs_stock
def test_it_starts_though_the_c_library_does_not_say_its_version_at_once(digits_model, tmp_path, monkeypatch):
    asked = tmp_path / "asked"
    silent_once = f"""#!/bin/sh\nif [ -e "{asked}" ]; then exec {shutil.which("ldd")} "$@"; fi\n: > "{asked}"\n"""
    (tmp_path / "ldd").write_text(silent_once)
    (tmp_path / "ldd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with stock_serving(tmp_path, stock_configuration(digits_model)) as running:
        [answer] = last_line(running.ask(stock_client(running.rpc, [{"feed": {"image": str(DIGITS[0])}}])))
    assert answer["label"] == "['eight']" and asked.exists()


@needs_stock
def test_it_serves_grpc_alone(digits_model, tmp_path):
    config = stock_configuration(digits_model)
    del config["http_port"]
    with stock_serving(tmp_path, config) as running:
        [answer] = last_line(running.ask(stock_client(running.rpc, [{"feed": {"image": str(DIGITS[0])}}])))
        assert answer["label"] == "['eight']"


@needs_stock
def test_batches_across_requests_keep_them_apart(digits_model, tmp_path):
    config = stock_configuration(digits_model, worker_num=8, op={"batch_size": 8, "auto_batching_timeout": 20})
    with stock_serving(tmp_path, config) as running:
        command = [sys.executable, "-m", "regnetx_client", "predict", "--json", "--concurrency", "8"]
        printed = running.ask([*command, "--url", f"http://{running.http}", *map(str, DIGITS)])
    labels = [re.search(r'"label": ?"(\w+)"', line)[1] for line in printed.splitlines()]
    assert labels == [path.stem for path in DIGITS]


@needs_stock
def test_it_logs_no_line_for_a_request_that_goes_well(stock_service):
    links = Path(f"/proc/{stock_service.process.pid}/fd").iterdir()
    [log] = {os.readlink(link) for link in links if os.readlink(link).endswith("pipeline.log")}
    before = Path(log).stat().st_size
    stock_service.ask(stock_client(stock_service.rpc, [{"feed": {"image": str(DIGITS[0])}}]))
    assert Path(log).stat().st_size == before


SHARED = ("errors", "config", "ops.decode", "ops.preprocess", "ops.label", "ops.model", "contract.encoded_image")


@needs_stock
@pytest.mark.parametrize("module", [*SHARED, "paddle_serving.pipeline_config"])
def test_what_both_runtimes_share_runs_on_python_3_9_and_needs_no_server(module):
    program = f"import sys, service.{module}; assert sys.version_info[:2] == (3, 9); print(*sys.modules)"
    loaded = set(output_of([str(stock.PYTHON), "-c", program]).split())
    assert not {"paddle", "paddle_serving_server", "grpc", "flask"} & loaded


@needs_stock
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"http_port": 80}, "http_port: 80 is not accepted by the stock runtime; accepted: 1024 to 65535"),
        ({"rpc_port": 0}, "rpc_port: 0 is not accepted by the stock runtime; accepted: 1024 to 65535"),
        ({"local": {"device_type": 1}}, "devices: '' is not accepted by the stock runtime beside device_type 1"),
        (
            {"local": {"precision": "int8"}},
            "precision: int8 is not accepted by the stock runtime on the CPU, where it would",
        ),
        ({"native": {"tokens_file": "/gone"}}, "native.tokens_file: '/gone' is not accepted by the stock runtime"),
        ({"rpc_prt": 1}, "rpc_prt: unknown key, did you mean rpc_port?"),
        ({"local": {"model_config": "/gone"}}, "/gone: no such directory, accepted: serving_models/<name>"),
    ],
)
def test_what_it_cannot_do_is_said_in_a_sentence_before_anything_starts(digits_model, tmp_path, changes, said):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(stock_configuration(digits_model, **changes)))
    command = [str(stock.PYTHON), "-m", "service.paddle_serving", "--config", str(file)]
    environment = {**os.environ, "SERVING_LOG_PATH": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr


@needs_stock
def test_a_port_in_use_ends_it_in_a_sentence(stock_service, digits_model, tmp_path):
    config = stock_configuration(digits_model, rpc_port=int(stock_service.rpc.rpartition(":")[2]))
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(config))
    program = (
        "import os, subprocess, sys; os.environ['SERVING_LOG_PATH'] = sys.argv[2];"
        "result = subprocess.run([sys.argv[1], '-m', 'service.paddle_serving', '--config', sys.argv[3]],"
        " capture_output=True, text=True, timeout=60); print(result.returncode, result.stderr)"
    )
    said = stock_service.ask([sys.executable, "-c", program, str(stock.PYTHON), str(tmp_path), str(file)])
    assert said.startswith("2 ") and "regnetx:" in said and "Traceback" not in said and f"{config['rpc_port']}" in said
