"""The targets by name, and which of them are checked in a process of their own."""

from __future__ import annotations

from pathlib import Path

from fuzz.client_target import ClientTarget
from fuzz.config_target import ConfigTarget
from fuzz.grpc_target import GrpcTarget
from fuzz.http_target import HttpTarget
from fuzz.image_target import ImageTarget
from fuzz.model_target import ModelTarget
from fuzz.targets import Target

NAMES = ("http", "grpc", "image", "config", "model", "client")
OF_A_SERVICE = ("http", "grpc")  # the service is the other process


def target_named(name: str, model: Path) -> Target:
    """``model`` is the serving_server of an exported digits model."""
    if name == "http":
        return HttpTarget(model)
    if name == "grpc":
        return GrpcTarget(model)
    if name == "model":
        return ModelTarget(model)
    return {"image": ImageTarget, "config": ConfigTarget, "client": ClientTarget}[name]()
