"""config.yml + environment -> a typed, frozen configuration; what is wrong is named before anything starts.

The keys are those of Paddle Serving 0.9.0's pipeline configuration with their meaning; what is ours alone sits under
``native``, which the stock server ignores. Runs on Python 3.9, for the stock runtime reads the same file.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from service.config_source import Setting, lay_over, read_yaml
from service.errors import ConfigError, short, shown

# What ``--model`` on a command line sets, over file and environment.
MODEL_VARIABLE = "REGNETX__OP__LOCAL_SERVICE_CONF__MODEL_CONFIG"
# Stock's keys for an op whose model runs behind another server; this service runs its model itself.
OF_REMOTE_OPS = (
    "server_endpoints",
    "client_config",
    "client_type",
    "fetch_list",
    "use_encryption_model",
    "encryption_key",
)

Port = Annotated[int, Field(ge=0, le=65535)]
MOST = 2**31 - 1  # what the libraries below can count; as milliseconds, 24 days
MOST_SLOTS = 4096
Positive = Annotated[int, Field(ge=1, le=MOST)]
NotNegative = Annotated[int, Field(ge=0, le=MOST)]
Milliseconds = Annotated[int, Field(le=MOST)]  # stock writes "none" as -1
Processors = Annotated[int, Field(ge=1, le=256)]


class Section(BaseModel):
    """One mapping of config.yml: no unknown key, no silent conversion, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Tracer(Section):
    """``dag.tracer``: stock's statistics log; the native runtime keeps none."""

    interval_s: int = -1


class Dag(Section):
    """``dag``: how stock runs its graph of ops. The native runtime reads ``channel_size`` and the last two."""

    is_thread_op: bool = True
    client_type: Literal["brpc", "grpc"] = "brpc"
    retry: Positive = 1
    use_profile: bool = False
    channel_size: NotNegative = 0
    channel_recv_frist_arrive: bool = False
    tracer: Tracer = Tracer()
    enable_prometheus: bool = False
    prometheus_port: Port = 19393


class LocalService(Section):
    """``op.<name>.local_service_conf``: the model and the device it runs on."""

    client_type: Literal["local_predictor"] = "local_predictor"
    model_config_: str = Field(alias="model_config", min_length=1)
    workdir: str = ""
    thread_num: Processors = 2
    device_type: Literal[-1, 0, 1, 2, 3, 4, 5, 6] = -1
    devices: str = Field(default="", pattern=r"^(\d{1,3}(,\d{1,3})*)?$")
    fetch_list: tuple[str, ...] = Field(default=("prediction",), strict=False)
    mem_optim: bool = True
    ir_optim: bool = True
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    use_calib: bool = False
    use_mkldnn: bool = True
    mkldnn_cache_capacity: NotNegative = 0
    mkldnn_op_list: Optional[list[str]] = None
    mkldnn_bf16_op_list: Optional[list[str]] = None
    min_subgraph_size: Positive = 3

    @property
    def on_gpu(self) -> bool:
        """Whether the engines run on a GPU, by stock's rule: a ``device_type`` of -1 leaves it to ``devices``."""
        return self.device_type in (1, 2) or (self.device_type == -1 and bool(self.devices))

    @property
    def on_tensorrt(self) -> bool:
        """Whether the engines run on a GPU through TensorRT."""
        return self.device_type == 2

    @property
    def gpus(self) -> tuple[int, ...]:
        """The numbers of the GPUs that engine processes take in turn; none on a CPU."""
        return tuple(int(number) for number in self.devices.split(",") if number) or (0,) if self.on_gpu else ()


class Op(Section):
    """``op.<name>``: the one op of this service; its name is the service's name."""

    concurrency: Processors = 1
    timeout: Milliseconds = -1
    retry: Positive = 1
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    auto_batching_timeout: Milliseconds = -1
    local_service_conf: LocalService


class Native(Section):
    """``native``: what only the native runtime has."""

    host: str = Field(default="0.0.0.0", min_length=1)
    admin_host: Optional[str] = Field(default=None, min_length=1)
    name: Optional[str] = Field(default=None, pattern=r"^[^/]+$")
    engine: Literal["paddle", "onnxruntime", "openvino", "auto"] = "paddle"
    gpu_memory_mb: Optional[Annotated[int, Field(ge=64, le=2**20)]] = None
    tf32: bool = False
    engine_cache: Optional[str] = Field(default=None, min_length=1)
    slots: Optional[Annotated[int, Field(ge=1, le=MOST_SLOTS)]] = None
    decode_threads: Optional[Processors] = None
    max_body_bytes: Annotated[int, Field(ge=1024, le=MOST)] = 64 * 2**20
    max_buffered_bytes: Annotated[int, Field(ge=1024, le=2**40)] = 256 * 2**20
    max_connections: Positive = 1000
    read_timeout_ms: Positive = 60_000
    idle_timeout_ms: Positive = 75_000
    max_image_bytes: Positive = 20 * 2**20
    max_image_pixels: Positive = 50_000_000
    jpeg_decode: Literal["exact", "scaled"] = "exact"
    request_timeout_ms: Positive = 30_000
    max_connection_age_ms: NotNegative = 0
    drain_delay_ms: NotNegative = 0
    drain_timeout_ms: Positive = 30_000
    tls_certificate: Optional[str] = Field(default=None, min_length=1)
    tls_key: Optional[str] = Field(default=None, min_length=1)
    tls_client_ca: Optional[str] = Field(default=None, min_length=1)
    tokens_file: Optional[str] = Field(default=None, min_length=1)
    access_log: bool = False
    server_timing: bool = False
    model_version: bool = False
    reload_model_ms: NotNegative = 0
    # An hour: to wait for another process's TensorRT engine (20 min), build one (20 min) and warm up (5 min), and room.
    load_timeout_ms: NotNegative = 3_600_000
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _has_whole_tls(self) -> "Native":
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, absent = ("key", "certificate") if self.tls_certificate is None else ("certificate", "key")
            raise ValueError(f"tls_{given} is given and tls_{absent} is not; accepted: both, or neither for no TLS")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca is given and tls_certificate is not; accepted: it with both other tls keys")
        return self

    @property
    def scales_jpeg(self) -> bool:
        """Whether a large JPEG is reduced while it is decoded."""
        return self.jpeg_decode == "scaled"


class Config(Section):
    """The whole configuration of one service."""

    http_port: Optional[Port] = None
    rpc_port: Optional[Port] = None
    worker_num: Processors = 1
    build_dag_each_worker: bool = False
    grpc_gateway_port: Optional[Port] = None
    dag: Dag = Dag()
    op: dict[str, Op]
    native: Native = Native()

    @field_validator("op")
    @classmethod
    def _is_one(cls, op: dict[str, Op]) -> dict[str, Op]:
        if len(op) != 1 or "/" in next(iter(op)):
            found = short(", ".join(op)) or "nothing"
            raise ValueError(f"{found} found; accepted: exactly one op, with no / in its name")
        return op

    @model_validator(mode="after")
    def _has_a_door(self) -> "Config":
        if self.http_port is None and self.rpc_port is None:
            raise ValueError("http_port or rpc_port (or both) must be given")
        return self

    @property
    def regnet(self) -> Op:
        """The one op."""
        return next(iter(self.op.values()))

    @property
    def service_name(self) -> str:
        """The name in ``POST /<name>/prediction`` and in a gRPC request: ``native.name``, or else the op's."""
        return self.native.name or next(iter(self.op))

    @property
    def admin_port(self) -> Optional[int]:
        """The port of metrics and health; None: no such door."""
        return self.dag.prometheus_port if self.dag.enable_prometheus else None

    @property
    def admin_host(self) -> str:
        """The address of metrics and health."""
        return self.native.admin_host or self.native.host

    @property
    def frontends(self) -> int:
        """The number of frontend processes."""
        return self.worker_num if self.build_dag_each_worker else 1

    @property
    def threads_under_load(self) -> int:
        """CPU threads of one engine's run while others run too: its share of ``thread_num``."""
        return max(1, self.regnet.local_service_conf.thread_num // self.regnet.concurrency)

    @property
    def slots(self) -> int:
        """Images that may be between admission and answer in one frontend at the same time."""
        return self.native.slots or min(self.dag.channel_size, MOST_SLOTS) or 128

    @property
    def decode_threads(self) -> int:
        """Threads of one frontend that decode images: as many as it may use cores."""
        return self.native.decode_threads or len(os.sched_getaffinity(0))

    @property
    def timeout(self) -> float:
        """Seconds from a request's arrival until it is answered with ``err_no`` 6000."""
        milliseconds = self.regnet.timeout if self.regnet.timeout > 0 else self.native.request_timeout_ms
        return milliseconds / 1000


def load_config(path: Path, environment: Mapping[str, str]) -> Config:
    """Read ``path``, lay the environment over it and check everything. Raises ConfigError, one line a fault."""
    values = lay_over(read_yaml(path), environment, settings=settings())
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_sentence(fault)}" for fault in error.errors())) from None


def settings(section: type[BaseModel] = Config, path: tuple[str, ...] = ()) -> list[Setting]:
    """Every key of the configuration that holds a value, ``*`` standing for the op's name."""
    found = []
    for name, field in section.model_fields.items():
        here = (*path, field.alias or name)
        if name == "op":
            found += settings(Op, (*here, "*"))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += settings(field.annotation, here)
        else:
            found.append(Setting(here, is_text=field.annotation in (str, Optional[str])))
    return found


def _sentence(fault: ErrorDetails) -> str:
    """One fault as ``key: value is not accepted; accepted: what is``."""
    key = short(".".join(str(part) for part in fault["loc"]))
    if fault["type"] == "extra_forbidden" and fault["loc"][-1] in OF_REMOTE_OPS:
        return f"{key}: belongs to an op on another server; accepted: a model of this service, in local_service_conf"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(str(fault['loc'][-1]), _known_beside(fault['loc']))}"
    if fault["type"] == "missing":
        return f"{key}: missing; it must be given"
    if fault["type"] == "value_error":
        return f"{key}: {fault['msg']}".removeprefix(": ").replace("Value error, ", "")
    accepted = fault["msg"].replace("Input should be ", "").replace("String should", "a string that should")
    if "dictionary" in accepted:
        accepted = "keys and values"
    return f"{key}: {shown(fault['input'])} is not accepted; accepted: {accepted}"


def _known_beside(location: tuple[Any, ...]) -> list[str]:
    parent = ("op", "*", *location[2:-1]) if location[0] == "op" else location[:-1]
    depth = len(parent)
    return sorted({setting.path[depth] for setting in settings() if setting.path[:depth] == parent})


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]}?" if near else f"; accepted: {', '.join(known)}"
