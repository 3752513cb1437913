"""A source -> a serving model under its name, all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from service.errors import ModelError
from serving_models import network, paddle_runtime, serving_model
from serving_models.class_labels import labels_for, read_labels
from serving_models.download import Progress
from serving_models.isolated_run import isolated_scores, random_images
from serving_models.paddle_runtime import Images, Scores
from serving_models.serving_model import Description, Input, Verified
from serving_models.sources import Source, open_source
from serving_models.variants import VARIANTS
from serving_models.weights import load_strictly
from serving_models.workspace import publish, refuse_existing, refuse_name, require_space, workspace

VERIFIED_INPUTS = 8
_MAX_SIDE = 4096
_COPIES = 2  # of the weights: Paddle's and ONNX's

# Called with what is being done now.
Report = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a person may choose; None leaves it to the source."""

    root: Path
    name: str | None = None
    force: bool = False
    labels: Path | None = None
    image_size: int | None = None
    resize_short: int | None = None


@dataclass(frozen=True)
class Exported:
    """A model that was written, and how near its scores are to the source's."""

    folder: Path
    description: Description
    max_abs_diff: float


def export(source: str, options: Options, *, report: Report, progress: Progress) -> Exported:
    """Write a serving model.

    Raises ModelError for a source that is refused or a name that is taken, DownloadError, WriteError, and OSError of
    the disk. Nothing is left behind then.
    """
    _refuse_root(options.root)
    if options.name is not None:
        refuse_name(options.name)
        refuse_existing(options.root / options.name, force=options.force)
    with workspace(options.root) as folder:
        report("reading the source")
        found = open_source(source, folder / "source", progress)
        name = options.name or found.architecture.lower()
        target = options.root / name
        refuse_existing(target, force=options.force)
        description = Description(name, found, _input(found, options), _labels(found, options))
        max_abs_diff = _write(description, folder / "model", report)
        publish(folder / "model", target, force=options.force)
    return Exported(target, description, max_abs_diff)


def _refuse_root(root: Path) -> None:
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise ModelError(f"{str(root)!r}: accepted is a path of UTF-8; Paddle writes to no other") from None


def _write(description: Description, folder: Path, report: Report) -> float:
    source, image = description.source, description.input
    require_space(folder.parent, _COPIES * sum(array.nbytes for array in source.weights.values()))
    with ThreadPoolExecutor(1) as pool, paddle_runtime.reproducible_names():
        # Beside the writing: a process of its own has to start Paddle first.
        running = pool.submit(_program_scores, source, image) if source.model else None
        report(f"building {source.architecture} with {source.classes} classes")
        layer = network.build(source.architecture, source.classes)
        load_strictly(layer, source.weights, source=source.path)
        report("writing the inference model")
        serving_model.write_program(layer, description, folder)
        report("comparing its scores with the source's")
        images = random_images(VERIFIED_INPUTS, image.height, image.width)
        exported = _exported_scores(source, folder, images)
        # What came without a program is compared with the network itself, before export.
        expected = running.result() if running else paddle_runtime.network_scores(layer, images)
    max_abs_diff = serving_model.compare(expected, exported, source.path)
    report("writing the ONNX model")
    onnx_max_abs_diff = serving_model.write_onnx(description, folder, images, exported)
    serving_model.write_descriptions(description, folder, Verified(len(images), max_abs_diff, onnx_max_abs_diff))
    return max_abs_diff


def _exported_scores(source: Source, folder: Path, images: Images) -> Scores:
    """What the written program answers. Weights that no training makes, a variance below 0, stop Paddle itself."""
    try:
        return paddle_runtime.program_scores(folder / serving_model.PROGRAM, folder / serving_model.PARAMS, images)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[: serving_model.REASON_LENGTH]
        raise ModelError(f"{source.path}: Paddle cannot run what was made of it: {reason}") from None


def _program_scores(source: Source, image: Input) -> Scores:
    """What the source's own program answers."""
    assert source.model is not None
    output = isolated_scores(source.model.files, count=VERIFIED_INPUTS, height=image.height, width=image.width)
    return output if source.model.has_softmax else paddle_runtime.softmax(output)


def _labels(source: Source, options: Options) -> tuple[str, ...]:
    given = read_labels(options.labels) if options.labels else source.feeding.labels
    return labels_for(source.classes, given, options.labels or source.path)


def _input(source: Source, options: Options) -> Input:
    """The size: as chosen, else as inference.yml says, else as the program declares, else as published."""
    side = VARIANTS[source.architecture].input_size
    chosen = (options.image_size, options.image_size) if options.image_size else None
    height, width = chosen or source.feeding.crop or source.declared or (side, side)
    resize_short = options.resize_short or _resize_short(source, max(height, width), chosen=chosen is not None)
    if not max(height, width) <= resize_short <= _MAX_SIDE:
        sides = f"{height}x{width} crop"
        raise ModelError(
            f"{source.path}: short side resized to {resize_short}, {sides}; accepted is the crop to {_MAX_SIDE}"
        )
    feeding = source.feeding
    return Input(height, width, resize_short, scale=feeding.scale, mean=feeding.mean, std=feeding.std)


def _resize_short(source: Source, crop: int, *, chosen: bool) -> int:
    """As inference.yml says, unless the size was chosen; else ImageNet's 256, or its ratio to 224 for other crops."""
    if source.feeding.resize_short and not chosen:
        return source.feeding.resize_short
    return 256 if 224 <= crop <= 256 else round(crop * 256 / 224)
