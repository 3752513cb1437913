"""What an evaluation counted -> a text for a person, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from service.config import Config
from service.ops.model import Model
from serving_models.evaluate import TOP, Evaluation

NAMED = 20  # files that could not be read; JSON names all of them


def as_text(counted: Evaluation, model: Model, config: Config) -> str:
    """Some lines, a fact a line."""
    return "\n".join(f"{what:<11} {fact}".rstrip() for what, fact in _lines(counted, model, config))


def as_json(counted: Evaluation, model: Model, config: Config) -> str:
    """One JSON object; fractions are null where no image was classified."""
    local = config.regnet.local_service_conf
    return json.dumps(
        {
            "model": model.name,
            "architecture": model.architecture,
            "classes": model.classes,
            "engine": config.native.engine,
            "precision": local.precision,
            "threads": local.thread_num,
            "batch_size": config.regnet.batch_size,
            "jpeg_decode": config.native.jpeg_decode,
            "images": counted.images,
            "of": counted.of,
            "classes_shown": len(counted.classes),
            "top1": counted.top1 / counted.images if counted.images else None,
            "top1_correct": counted.top1,
            "top5": counted.top5 / counted.images if counted.images else None,
            "top5_correct": counted.top5,
            "seconds": counted.seconds,
            "images_per_second": counted.rate,
            "unreadable": [asdict(unreadable) for unreadable in counted.unreadable],
            "interrupted": counted.interrupted,
        },
        indent=2,
    )


def _lines(counted: Evaluation, model: Model, config: Config) -> Iterator[tuple[str, str]]:
    local, images = config.regnet.local_service_conf, counted.images
    yield "model", f"{model.name} ({model.architecture}, {model.classes} classes, {model.height}x{model.width})"
    device = f"GPU {local.devices}" if local.on_gpu else f"CPU, {local.thread_num} thread{'s'[: local.thread_num > 1]}"
    yield "engine", f"{config.native.engine}, {local.precision}, {device}, batch size {config.regnet.batch_size}"
    if config.native.scales_jpeg:
        yield "decoding", f"JPEGs {config.native.jpeg_decode}"
    shown = f"of {len(counted.classes)} of the model's {model.classes} classes"
    early = f"; interrupted, there are {counted.of}" if counted.interrupted else ""
    yield "images", f"{images}, {shown}{early}"
    yield "top-1", _share(counted.top1, images)
    few = "" if model.classes > TOP else f"; the model has {model.classes} classes, so every answer counts as right"
    yield f"top-{TOP}", _share(counted.top5, images) + few
    yield "throughput", f"{counted.rate:.1f} images/s: reading, decoding, the model; {counted.seconds:.1f} s"
    if counted.unreadable:
        yield "not read", f"{len(counted.unreadable)}, which are not counted above:"
        for unreadable in counted.unreadable[:NAMED]:
            yield "", f"{unreadable.name}: {unreadable.reason}"
        if len(counted.unreadable) > NAMED:
            yield "", f"and {len(counted.unreadable) - NAMED} more; --json names all"


def _share(right: int, images: int) -> str:
    return f"{right / images:.2%} ({right} of {images})" if images else "no image was classified"
