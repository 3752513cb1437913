"""Our checked configuration -> the dict that ``WebService.prepare_pipeline_config(yml_dict=...)`` takes."""

from __future__ import annotations

from typing import Any

from service.config import Config, LocalService
from service.errors import ConfigError
from service.ops.model import Model

LOWEST_PORT = 1024  # pipeline_server.py, ServerYamlConfChecker
OF_DEVICES = (1, 2, 4, 5)  # device types for which stock reads numbers from `devices`


def pipeline_config(config: Config, model: Model) -> dict[str, Any]:
    """A new dict at each call, for stock writes its defaults into it.

    Everything is handed on as it is but: ``native`` (not stock's), absent values (stock would refuse null), the model's
    folder (absolute), ``fetch_list`` (left out: all that the model declares), a batch that would never be complete and
    ``enable_prometheus`` (off: the door of the native runtime, which stock has not).
    Raises ConfigError for what is right for the native runtime only.
    """
    _check_ports(config)
    _check_devices(config.regnet.local_service_conf)
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
