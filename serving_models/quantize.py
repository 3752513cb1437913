"""A serving model and images -> the model's int8 form beside its ONNX file, and what that does to answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.engines.precision import INT8_FLAGS, cpu_has
from service.errors import ConfigError, ModelError
from service.ops.int8 import INT8_FILE
from service.ops.model import Model, load_model, onnx_file, verify_files
from serving_models import sample_images
from serving_models.agreement import ENGINES, RUN_AT_ONCE, Compared, compare
from serving_models.calibration import quantise_graph
from serving_models.int8_files import Asked, publish_int8, write_record
from serving_models.sample_images import Inputs, Sample
from serving_models.workspace import require_space, workspace

_COPIES = 4  # of the ONNX file, while it is quantised

# Called with what is being done now.
Report = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a person may choose."""

    images: Path
    limit: int = 500
    holdout: float = 0.5
    method: str = "minmax"
    per_channel: bool = True
    least_agreement: float = 0.99
    force: bool = False


@dataclass(frozen=True)
class Quantised:
    """What was written."""

    model: Model
    file: Path
    sample: Sample
    compared: list[Compared]
    not_compared: list[str]  # why an engine was not


def quantise(model_config: Path, options: Options, *, report: Report) -> Quantised:
    """Write ``inference.int8.onnx`` and its record into a serving model.

    Raises ModelError for a model or images that are refused and where too few answers stay the same, ConfigError where
    this machine cannot tell, and OSError of the disk. The model is then as it was.
    """
    model = load_model(model_config)
    source = onnx_file(model, engine="onnxruntime")
    verify_files(model)
    _require_cpu()
    report("looking at the images")
    sample = sample_images.sample_images(options.images, model, limit=options.limit, holdout=options.holdout)
    with workspace(source.parent.parent) as folder:
        require_space(folder, _COPIES * source.stat().st_size)
        file = folder / INT8_FILE
        report(f"calibrating with {len(sample.calibration)} images")
        _calibrate(source, file, sample, model, options)
        compared, not_compared = _compare_all(file, sample, model, report)
        if not options.force:
            _require_agreement(compared, options.least_agreement)
        asked = Asked(options.method, options.per_channel, options.least_agreement)
        write_record(folder, model, sample, compared, asked)
        publish_int8(folder, source.parent)
    return Quantised(model, source.parent / INT8_FILE, sample, compared, not_compared)


def _require_cpu() -> None:
    if not cpu_has("int8"):
        raise ConfigError(
            f"int8 is compared with float32 as it will be served, which needs a CPU with"
            f" {' or '.join(sorted(INT8_FLAGS))}; accepted: quantise on such a machine"
        )


def _calibrate(source: Path, target: Path, sample: Sample, model: Model, options: Options) -> None:
    paths = sample.calibration

    def inputs(first: int, last: int) -> Iterator[Inputs]:
        return sample_images.batches(paths[first:last], model, 1)

    try:
        quantise_graph(source, target, inputs, len(paths), method=options.method, per_channel=options.per_channel)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{source}: cannot be quantised: {' '.join(str(error).split())[:300]}") from None


def _compare_all(file: Path, sample: Sample, model: Model, report: Report) -> tuple[list[Compared], list[str]]:
    """With every engine that is installed."""
    compared, missing = [], []
    for engine in ENGINES:
        report(f"comparing {len(sample.comparison)} images with {engine}")
        try:
            one = compare(engine, model, file, sample_images.batches(sample.comparison, model, RUN_AT_ONCE))
        except ConfigError as error:
            missing.append(str(error))
            continue
        if not np.isfinite([one.agreement.max_abs_diff, one.agreement.random_max_abs_diff]).all():
            raise ModelError(f"{file.name}: its scores with {engine} are not finite numbers; nothing was written")
        compared.append(one)
    return compared, missing


def _require_agreement(compared: list[Compared], least: float) -> None:
    below = [f"{one.engine}: {one.agreement}" for one in compared if one.agreement.same < least * one.agreement.images]
    if below:
        raise ModelError(
            f"{'; '.join(below)}; that is below --least-agreement {least:g} and nothing was written; accepted: more or"
            " other images, another --method, a lower --least-agreement, or --force"
        )
