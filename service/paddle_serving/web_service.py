"""Configuration and model -> a stock pipeline server with our op, its known holes closed where that needs no fork."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from typing import Any

from paddle_serving_server.pipeline import PipelineServer  # type: ignore[import-not-found]
from paddle_serving_server.web_service import WebService  # type: ignore[import-not-found]

from service.config import Config
from service.ops.decode import Limits
from service.ops.model import Model
from service.paddle_serving.op import Recipe, RegnetOp, SafeRequestOp
from service.paddle_serving.pipeline_config import pipeline_config

LOG_BYTES, LOG_FILES = 10 * 2**20, 2  # stock: 512 MB, up to 20
Ports = Callable[[int, "int | None"], None]  # called with the gRPC port and the HTTP port


class Server(PipelineServer):  # type: ignore[misc]
    """Stock's server, which may have no HTTP door, and says when its processes have been started."""

    def __init__(self, name: str, when_started: Ports) -> None:
        super().__init__(name)
        self._when_started = when_started

    def _run_grpc_gateway(self, grpc_port: int, http_port: int | None) -> None:
        """The last thing stock does before it only waits. It fails itself where there is no ``http_port``."""
        if http_port is not None:
            super()._run_grpc_gateway(grpc_port, http_port)
        threading.Thread(target=self._when_started, args=(grpc_port, http_port), daemon=True).start()


class RegnetService(WebService):  # type: ignore[misc]
    """One op behind stock's two doors."""

    def __init__(self, config: Config, model: Model, when_started: Ports) -> None:
        super().__init__(name=config.service_name)
        self._server = Server(config.service_name, when_started)
        self._config, self._model = config, model

    def get_pipeline_response(self, read_op: Any) -> Any:
        """The last op. NOTE stock's own ``read_op``, which loads pickles, is left out: ops are found from the last."""
        native = self._config.native
        limits = Limits(max_bytes=native.max_image_bytes, max_pixels=native.max_image_pixels)
        name = next(iter(self._config.op))
        recipe = Recipe(self._model, limits, scales_jpeg=native.scales_jpeg)
        return RegnetOp(recipe, name=name, input_ops=[SafeRequestOp()])

    def run(self) -> None:
        """Answer requests; does not return."""
        quieten()
        self.prepare_pipeline_config(yml_dict=pipeline_config(self._config, self._model))
        self.run_service()


def quieten() -> None:
    """Stock's logs: warnings and errors alone, in files that stay small; it can configure neither."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers:
        if isinstance(handler, RotatingFileHandler):
            handler.maxBytes, handler.backupCount = LOG_BYTES, LOG_FILES
