"""config.yml -> the configurations that are measured: ours by engine, and stock's, plain and tuned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.subjects import ROOT

CORES = len(os.sched_getaffinity(0))
NAME = "regnet"


def ours(model: Path, *, engine: str, precision: str = "fp32") -> dict[str, Any]:
    """config.yml as users have it, with an engine process for each core; the operators' door counts answers."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "config.yml").read_text())
    op = values["op"][NAME]
    op["concurrency"] = CORES
    op["local_service_conf"] |= {"model_config": str(model), "thread_num": CORES, "precision": precision}
    values["dag"] |= {"enable_prometheus": True, "prometheus_port": 0}
    # 128 callers, and those of a load before it that are still being answered when it was cut.
    native = values["native"] | {"host": "127.0.0.1", "engine": engine, "slots": 256}
    return values | {"http_port": 0, "rpc_port": 0, "native": native}


def stock_plain(model: Path, http: int, rpc: int) -> dict[str, Any]:
    """PaddleClas's deploy/paddleserving/config.yml, on the CPU; oneDNN off, as where the file does not name it."""
    local = {"use_mkldnn": False, "device_type": 0, "devices": ""}
    return _stock(model, http, rpc, worker_num=1, op={"concurrency": 1}, local=local)


def stock_tuned(model: Path, http: int, rpc: int) -> dict[str, Any]:
    """What its documents offer for the CPU: op processes, auto-batching, oneDNN, workers for all callers."""
    op = {"concurrency": CORES, "batch_size": 8, "auto_batching_timeout": 2}
    local = {"use_mkldnn": True, "ir_optim": True, "thread_num": 1, "device_type": 0, "devices": ""}
    return _stock(model, http, rpc, worker_num=128, op=op, local=local)


def _stock(
    model: Path, http: int, rpc: int, *, worker_num: int, op: Mapping[str, Any], local: Mapping[str, Any]
) -> dict[str, Any]:
    local = {"client_type": "local_predictor", "model_config": str(model), "fetch_list": ["prediction"], **local}
    return {
        "http_port": http,
        "rpc_port": rpc,
        "worker_num": worker_num,
        "build_dag_each_worker": False,
        "dag": {"is_thread_op": False},
        "op": {NAME: {**op, "local_service_conf": local}},
    }
