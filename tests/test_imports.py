"""Imports point one way: each room is imported in a fresh interpreter, and what came with it is looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest
from running import ROOT

INFERENCE = {"paddle", "onnx", "onnxruntime", "openvino", "tensorrt", "torch"}
SERVERS = {"grpc", "uvicorn", "httptools", "starlette", "flask", "paddle_serving_server"}
OURS = {
    "service.engines",
    "service.native",
    "service.contract",
    "service.ops",
    "service.paddle_serving",
    "serving_models",
}

ROOMS = [
    ("service.startup", INFERENCE | SERVERS | OURS | {"numpy", "yaml", "pydantic", "asyncio", "service.config"}),
    ("service.tied", INFERENCE | SERVERS | OURS | {"numpy", "yaml", "pydantic", "asyncio", "service.config"}),
    ("service.errors", INFERENCE | SERVERS | OURS | {"numpy", "yaml", "pydantic"}),
    ("service.config", INFERENCE | SERVERS | OURS | {"numpy"}),
    ("service.ops.decode", INFERENCE | SERVERS | OURS - {"service.ops"}),
    ("service.ops.preprocess", INFERENCE | SERVERS | OURS - {"service.ops"}),
    ("service.ops.label", INFERENCE | SERVERS | OURS - {"service.ops"}),
    ("service.ops.model", INFERENCE | SERVERS | OURS - {"service.ops"}),
    ("service.contract.answers", INFERENCE | SERVERS | {"service.engines", "service.native", "serving_models"}),
    ("service.contract.unpack", INFERENCE | SERVERS | {"service.engines", "service.native", "serving_models"}),
    ("service.engines", INFERENCE | SERVERS | {"asyncio", "service.native", "service.contract", "serving_models"}),
    (
        "service.native.frontend",
        INFERENCE | {"service.engines", "serving_models", "prometheus_client", "opentelemetry"},
    ),
    (
        "service.native.supervisor",
        INFERENCE | SERVERS | {"service.engines", "service.contract", "cv2", "numpy", "opentelemetry"},
    ),
    ("service.native.admin", INFERENCE | {"grpc", "service.engines", "service.contract", "cv2", "numpy"}),
    ("service.native.engine_process", SERVERS | {"service.contract", "service.native.dispatch", "prometheus_client"}),
    (
        "service.paddle_serving.pipeline_config",
        INFERENCE | SERVERS | {"service.engines", "service.native", "serving_models"},
    ),
    ("serving_models.latency_tables", INFERENCE | SERVERS | {"service.engines", "service.native", "service.contract"}),
    ("service.predict", SERVERS | {"service.native", "service.contract", "serving_models"}),
    ("serving_models.__main__", {"paddle", "service.native", "service.engines", "service.contract"}),
    ("regnetx_client", INFERENCE | {"grpc", "service", "serving_models", "cv2", "numpy", "PIL"}),
]


@pytest.mark.parametrize(("room", "strangers"), ROOMS, ids=[room for room, _ in ROOMS])
def test_a_room_brings_no_strangers(room, strangers):
    program = f"import sys, {room}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert not strangers & set(result.stdout.split())


def test_a_running_frontend_has_no_inference_library_in_memory(service):
    [frontend] = service.children()["frontend"]
    with open(f"/proc/{frontend}/maps") as maps:
        assert "paddle" not in maps.read()
    [engine] = service.children()["engine"]
    with open(f"/proc/{engine}/maps") as maps:
        assert "paddle" in maps.read()
