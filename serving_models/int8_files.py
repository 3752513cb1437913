"""The int8 file of a model and its record -> beside the model's ONNX file, both or neither."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from service import __version__
from service.ops.content import sha256_of
from service.ops.int8 import INT8_FILE, RECORD_FILE
from service.ops.model import Model, expected_sha256
from serving_models.agreement import Compared
from serving_models.sample_images import Sample
from serving_models.workspace import locked, sync_one


@dataclass(frozen=True)
class Asked:
    """What a person asked for."""

    method: str
    per_channel: bool
    least_agreement: float


def write_record(folder: Path, model: Model, sample: Sample, compared: list[Compared], asked: Asked) -> None:
    """``inference.int8.yml`` in ``folder``, beside the int8 file that it describes."""
    source = expected_sha256(model)
    assert source is not None  # of a model with an ONNX file
    packages = sorted({"onnx", "onnxruntime", *(one.engine for one in compared)})
    record = {
        "sha256": {"int8": sha256_of(folder / INT8_FILE), "onnx": source.text("onnx")},
        "calibration": {
            "method": asked.method,
            "per_channel": asked.per_channel,
            "images": len(sample.calibration),
            "images_sha256": sample.sha256,
        },
        "left_out": {"unreadable": len(sample.unreadable), "repeated": sample.repeated},
        "agreement": {one.engine: _agreement(one, model) for one in compared},
        "least_agreement": asked.least_agreement,
        "versions": {"regnetx_serving": __version__} | {one: version(one) for one in packages},
    }
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
    (folder / RECORD_FILE).write_text(text, encoding="utf-8")


def publish_int8(folder: Path, server: Path) -> None:
    """Move both files from ``folder`` into ``serving_server``, on the same disk, over those that are there.

    A reader takes the file only with the record that has its SHA-256: killed between the two, the model has no int8.
    """
    names = (INT8_FILE, RECORD_FILE)
    for name in names:
        (folder / name).chmod(0o644)  # another user may serve the model
        sync_one(folder / name)
    with locked(server):
        for name in names:
            os.replace(folder / name, server / name)
        sync_one(server)


def _agreement(compared: Compared, model: Model) -> dict[str, Any]:
    one, worst = compared.agreement, compared.worst_class
    found: dict[str, Any] = {
        "images": one.images,
        "same": one.same,
        "max_abs_diff": one.max_abs_diff,
        "mean_abs_diff": compared.mean_abs_diff,
        "random_max_abs_diff": one.random_max_abs_diff,
    }
    if worst is not None:
        counts = {"images": int(compared.of_class[worst]), "same": int(compared.same_of_class[worst])}
        found["worst_class"] = {"label": model.labels[worst], **counts}
    return found
