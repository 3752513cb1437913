"""Our checked configuration -> the dict that ``WebService.prepare_pipeline_config(yml_dict=...)`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.config import Config, LocalService, Native
from service.errors import ConfigError, short
from service.ops.model import Model

LOWEST_PORT = 1024  # pipeline_server.py, ServerYamlConfChecker
OF_DEVICES = (1, 2, 4, 5)  # device types for which stock reads numbers from `devices`
OF_LITE = (3, 4, 5, 6)  # device types of other libraries, which stock hands the precision on to
OF_DOORS = ("tls_certificate", "tls_key", "tls_client_ca", "tokens_file")
TOKENS_VARIABLE = "REGNETX_TOKENS"  # service.native.tokens.VARIABLE, which Python 3.9 cannot import


def pipeline_config(config: Config, model: Model) -> dict[str, Any]:
    """A new dict at each call, for stock writes its defaults into it.

    Everything is handed on as it is but: ``native`` (not stock's), absent values (stock would refuse null), the model's
    folder (absolute), ``fetch_list`` (left out: all that the model declares), a batch that would never be complete and
    ``enable_prometheus`` (off: the door of the native runtime, which stock has not).
    Raises ConfigError for what is right for the native runtime only.
    """
    _check_ports(config)
    _check_devices(config.regnet.local_service_conf)
    _check_precision(config.regnet.local_service_conf)
    values = config.model_dump(by_alias=True, exclude_none=True, exclude={"native"})
    # NOTE stock's own door would listen on all interfaces, with counters that miss what comes between two scrapes
    values["dag"]["enable_prometheus"] = False
    del values["dag"]["prometheus_port"]
    (op,) = values["op"].values()
    if config.regnet.auto_batching_timeout <= 0:
        # NOTE without a timeout stock waits until a batch is full, however long that takes
        op["batch_size"] = 1
    op["local_service_conf"]["model_config"] = str(model.program.parent.resolve())
    del op["local_service_conf"]["fetch_list"]
    return values


def refuse_closed_doors(native: Native, environment: Mapping[str, str]) -> None:
    """Raises ConfigError where TLS or tokens are asked for: stock has neither, and would let everybody in.

    The message holds no token.
    """
    found = [f"native.{key}: {short(repr(value))}" for key in OF_DOORS if (value := getattr(native, key)) is not None]
    found += [f"environment: {TOKENS_VARIABLE}"] if TOKENS_VARIABLE in environment else []
    if found:
        raise ConfigError(
            f"{found[0]} is not accepted by the stock runtime, which has neither TLS nor tokens; "
            "accepted: no such setting, and a gateway in front, or the native runtime"
        )


def _check_ports(config: Config) -> None:
    for key, port in (("http_port", config.http_port), ("rpc_port", config.rpc_port)):
        if port is not None and port < LOWEST_PORT:
            raise ConfigError(f"{key}: {port} is not accepted by the stock runtime; accepted: {LOWEST_PORT} to 65535")


def _check_devices(local: LocalService) -> None:
    if local.device_type in OF_DEVICES and not local.devices:
        raise ConfigError(
            f"devices: '' is not accepted by the stock runtime beside device_type {local.device_type}; "
            "accepted: numbers of devices, such as '0'"
        )


def _check_precision(local: LocalService) -> None:
    """Stock would compute float32 and say so nowhere but in its log."""
    if local.device_type in OF_LITE:
        return
    accepted = _precisions(local)
    if local.precision not in accepted:
        raise ConfigError(
            f"op.*.local_service_conf.precision: {local.precision} is not accepted by the stock runtime "
            f"{_device(local)}, where it would compute fp32; accepted: {', '.join(accepted)}"
        )


def _precisions(local: LocalService) -> tuple[str, ...]:
    """Those that stock's local_predict.py really sets."""
    if local.on_tensorrt:
        return "fp32", "fp16", "int8"
    if local.on_gpu:
        return ("fp32",)
    return ("fp32", "bf16") if local.ir_optim else ("fp32",)


def _device(local: LocalService) -> str:
    if local.on_gpu:
        return "on a GPU with TensorRT" if local.on_tensorrt else "on a GPU without TensorRT"
    return "on the CPU" if local.ir_optim else "on the CPU without ir_optim"
