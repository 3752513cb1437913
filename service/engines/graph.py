"""Which ONNX file an engine reads for a precision; int8 never without what was recorded of it."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from service.config import Config
from service.ops.int8 import load_int8
from service.ops.model import Model, onnx_file

log = logging.getLogger("regnetx.engine")


def graph_file(model: Model, *, engine: str, precision: str) -> Path:
    """The file, of which int8 has one of its own.

    Raises ModelError where the model has no ONNX file, ConfigError where its int8 form is missing, damaged, made from
    another ONNX file, or was never compared with float32 on this engine.
    """
    file = onnx_file(model, engine=engine)
    if precision != "int8":
        return file
    int8 = load_int8(model)
    _say(f"precision int8 with {engine}: {int8.of(engine)}")
    return int8.file


def precision_told(config: Config, model: Model) -> str:
    """The precision that is in force, as a person shall read it: of int8 also what it does to answers.

    Raises as ``graph_file``. ``auto`` is first resolved, see ``choice``.
    """
    settings = config.regnet.local_service_conf
    if settings.precision != "int8" or settings.on_gpu:
        return settings.precision
    return f"int8: {load_int8(model).of(config.native.engine)}"


@cache
def _say(text: str) -> None:
    """Once a process, which loads a model twice."""
    log.info(text)
