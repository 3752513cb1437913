"""The servers that are measured: how each is started, at which doors it is asked, and in words how it was set up."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks import settings
from benchmarks.environments import LOCKS, install
from benchmarks.forms import Form, peer, pipeline
from benchmarks.network import free_ports
from benchmarks.settings import CORES
from benchmarks.subjects import ROOT, STOCK_PYTHON


@dataclass(frozen=True)
class Place:
    """Where a server is started: a folder of its own, and the model."""

    folder: Path
    model: Path  # serving_server


@dataclass(frozen=True)
class Command:
    """A server's command line. An address that is empty is told by the server itself, in its first lines."""

    words: list[str]
    addresses: Mapping[str, str]  # host:port by the first word of a door, http or grpc
    environment: Mapping[str, str]
    folder: Path = ROOT


@dataclass(frozen=True)
class Server:
    """One subject of the table."""

    title: str
    kind: str  # ours, stock or peer
    told: str
    doors: Mapping[str, Form]
    command: Callable[[Place], Command]
    on_loopback: bool = True  # False: it listens on every interface
    precision: str = "fp32"


def _ours(engine: str, precision: str = "fp32") -> Callable[[Place], Command]:
    def command(place: Place) -> Command:
        file = _written(place, settings.ours(place.model, engine=engine, precision=precision))
        return Command([sys.executable, "-m", "service", "serve", "--config", str(file)], {}, {})

    return command


def _stock(configuration: Callable[..., dict[str, object]], *program: str) -> Callable[[Place], Command]:
    """``program``: of the stock environment; the configuration's file follows it. Stock leaves logs where it runs."""

    def command(place: Place) -> Command:
        http, rpc = free_ports(2)
        file = _written(place, configuration(place.model, http, rpc))
        addresses = {"http": f"127.0.0.1:{http}", "grpc": f"127.0.0.1:{rpc}"}
        environment = {"PYTHONPATH": str(ROOT), "PEER_MODEL": str(place.model.parent / "peer.json")}
        return Command([str(STOCK_PYTHON), *program, str(file)], addresses, environment, place.folder)

    return command


def _written(place: Place, values: dict[str, object]) -> Path:
    file = place.folder / "config.yml"
    file.write_text(yaml.safe_dump(values))
    return file


def _peer(name: str, words: str, **environment: str) -> Callable[[Place], Command]:
    """``words`` follow the peer's own bin folder; PORT and CORES stand for their numbers."""

    def command(place: Place) -> Command:
        home = install(name).parent
        (port,) = free_ports(1)
        program, *rest = words.replace("PORT", str(port)).replace("CORES", str(CORES)).split()
        facts = place.model.parent / "peer.json"
        path = os.pathsep.join([str(LOCKS), str(LOCKS / name)])
        settings_ = {"PEER_MODEL": str(facts), "PEER_CORES": str(CORES), "PYTHONPATH": path, **environment}
        addresses = {"http": f"127.0.0.1:{port}"}
        return Command([str(home / program), *rest], addresses, settings_, LOCKS / name)

    return command


def _bento_body(file: bytes) -> bytes:
    return json.dumps({"image": [base64.b64encode(file).decode()]}).encode()


_OURS = f"config.yml, with {CORES} engine processes, thread_num {CORES} and 256 slots"
_DOORS = pipeline(settings.NAME)
_STOCK_DOORS = {door: _DOORS[door] for door in ("http", "grpc")}
_TUNED = (
    f"128 workers, {CORES} op processes with one thread each, oneDNN, auto-batching of up to 8 within 2 ms; the fastest"
    " of six such settings here with our op"
)

# Stock as its users have it: the op that its documents tell them to write, and nothing of ours.
_THEIR_OP = (str(LOCKS / "stock/service.py"),)
_OUR_OP = ("-m", "service.paddle_serving", "--config")

SERVERS = {
    "auto": Server("ours", "ours", f"{_OURS}; `engine: auto`", _DOORS, _ours("auto")),
    "paddle": Server("ours, paddle", "ours", f"{_OURS}", _DOORS, _ours("paddle")),
    "onnxruntime": Server("ours, onnxruntime", "ours", f"{_OURS}", _DOORS, _ours("onnxruntime")),
    "openvino": Server("ours, openvino", "ours", f"{_OURS}", _DOORS, _ours("openvino")),
    "bf16": Server("ours, bf16", "ours", f"{_OURS}, `engine: auto`", _DOORS, _ours("auto", "bf16"), precision="bf16"),
    "stock": Server(
        "stock, plain", "stock",
        "Paddle Serving with its own image transforms (benchmarks/peers/stock) and the keys of PaddleClas's"
        " deploy/paddleserving/config.yml on the CPU: one worker, one op process, no oneDNN, 2 threads",
        _STOCK_DOORS, _stock(settings.stock_plain, *_THEIR_OP), on_loopback=False,
    ),
    "stock-tuned": Server(
        "stock, tuned", "stock",
        f"the same with {_TUNED}",
        _STOCK_DOORS, _stock(settings.stock_tuned, *_THEIR_OP), on_loopback=False,
    ),
    "stock-ours": Server(
        "stock, tuned, our op", "stock",
        f"our stock runtime (RUNTIME=paddle_serving): our transforms in stock's server, {_TUNED}",
        _STOCK_DOORS, _stock(settings.stock_tuned, *_OUR_OP), on_loopback=False,
    ),
    "fastapi": Server(
        "FastAPI + ONNX Runtime", "peer",
        f"{CORES} uvicorn workers, each with a session of one thread; no batching",
        peer("/json", "/raw"),
        _peer("fastapi", "uvicorn service:app --host 127.0.0.1 --port PORT --workers CORES --no-access-log"),
    ),
    "mosec": Server(
        "mosec", "peer",
        f"{CORES} processes that decode, {CORES} that infer in batches of up to 8 within 1 ms, with one thread each",
        peer("/inference", "/inference"),
        _peer("mosec", "python service.py --address 127.0.0.1 --port PORT --timeout 60000"),
    ),
    "litserve": Server(
        "LitServe", "peer",
        f"{CORES} workers, each decodes and infers in batches of up to 8 within 1 ms, with one thread",
        peer("/json", None), _peer("litserve", "python service.py PORT"),
    ),
    "bentoml": Server(
        "BentoML", "peer",
        f"{2 * CORES} workers with adaptive batching of up to 8, each with one thread ({CORES} left cores idle)",
        peer("/json", None, json_body=_bento_body),
        _peer("bentoml", "bentoml serve service:Service --host 127.0.0.1 --port PORT", BENTOML_DO_NOT_TRACK="True"),
    ),
    "ray": Server(
        "Ray Serve", "peer",
        f"{CORES} replicas with serve.batch of up to 8, each with one thread; one HTTP proxy",
        peer("/", "/"), _peer("ray_serve", "python service.py PORT", RAY_USAGE_STATS_ENABLED="0"), on_loopback=False,
    ),
}  # fmt: skip
