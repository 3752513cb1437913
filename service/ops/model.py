"""What the others need to know of a serving model: how it is fed, what it answers, where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from service.errors import ModelError
from service.ops.content import sha256_of
from service.ops.converted import CONVERTED_FILE, converted_labels, read_converted
from service.ops.facts import Facts, read_facts, read_text

FACTS_FILE = "model.yml"
SERVER_FOLDER = "serving_server"
CHOICE_FILE = "engine.json"  # what the service itself keeps beside a model: see service.engines.kept_choice


@dataclass(frozen=True)
class Model:
    """The facts of one serving model, from ``model.yml`` beside ``serving_server/`` (written at export)."""

    name: str
    architecture: str
    program: Path  # serving_server/inference.pdmodel
    params: Path  # serving_server/inference.pdiparams
    input_name: str
    height: int
    width: int
    resize_short: int
    scale: float  # of uint8 values, 1/255
    mean: tuple[float, float, float]  # RGB, after scale
    std: tuple[float, float, float]
    output_name: str
    labels: tuple[str, ...]  # one a class, in class order
    onnx: Optional[Path] = None  # serving_server/inference.onnx; None: exported before there was one, or by stock

    @property
    def classes(self) -> int:
        """The number of classes: the length of one row of scores."""
        return len(self.labels)


def load_model(model_config: Path) -> Model:
    """The serving model at ``serving_models/<name>`` or, as stock has it, ``serving_models/<name>/serving_server``.

    A model of stock's own converter has no ``model.yml``; how it is fed is then what PaddleClas's serving op does.
    Raises ModelError, naming the file, what was found and what is accepted. The files' contents are not looked at:
    verify_files does that.
    """
    converted = _converted(model_config)
    facts = read_facts(_facts_file(model_config)) if converted is None else read_converted(converted)
    folder = SERVER_FOLDER if converted is None else "."
    image, answer, files = facts.section("input"), facts.section("output"), facts.section("files")
    _check_supported(image, answer)
    height, width = _crop(image)
    classes = answer.whole("classes")
    return Model(
        name=facts.text("name"),
        architecture=facts.text("architecture"),
        program=_server_file(files, "program", folder),
        params=_server_file(files, "params", folder),
        input_name=image.text("name"),
        height=height,
        width=width,
        resize_short=_resize_short(image, max(height, width)),
        scale=image.positive("scale"),
        mean=image.three_numbers("mean"),
        std=_std(image),
        output_name=answer.text("name"),
        labels=converted_labels(converted, classes) if converted else _labels(facts, classes),
        onnx=_server_file(files, "onnx", folder) if "onnx" in files.values else None,
    )


def load_verified(model_config: Path) -> Model:
    """As load_model, of files that are also what they are recorded to be. Raises ModelError as both do."""
    model = load_model(model_config)
    verify_files(model)
    return model


def verify_files(model: Model) -> None:
    """Raises ModelError where a file of any engine is not, by its SHA-256, the one that was exported.

    Of a model of stock's converter no SHA-256 is known, and nothing is checked.
    """
    expected = expected_sha256(model)
    for key, file in (("program", model.program), ("params", model.params), ("onnx", model.onnx)):
        if file is None or expected is None:
            continue
        found, wanted = sha256_of(file), expected.text(key)
        if found != wanted.lower():
            raise ModelError(f"{file}: SHA-256 is {found}, {expected.file.name} says {wanted}; export it again")


def expected_sha256(model: Model) -> Optional[Facts]:
    """The SHA-256 of each file as ``model.yml`` has it; None for a model of stock's converter."""
    if _converted(model.program.parent):
        return None
    return read_facts(_facts_file(model.program.parent)).section("sha256")


def onnx_file(model: Model, *, engine: str) -> Path:
    """The model's ONNX file. Raises ModelError where it has none."""
    if model.onnx is None:
        raise ModelError(
            f"{model.program.parent}: has no ONNX file, which native.engine: {engine} reads; export the model again,"
            " or take native.engine: paddle"
        )
    return model.onnx


def _converted(model_config: Path) -> Path | None:
    """The folder of a model that stock's converter made; None for ours, which has a model.yml beside."""
    ours = model_config.parent if model_config.name == SERVER_FOLDER else model_config
    if (ours / FACTS_FILE).is_file():
        return None
    folders = (model_config, model_config / SERVER_FOLDER)
    return next((folder for folder in folders if (folder / CONVERTED_FILE).is_file()), None)


def _facts_file(model_config: Path) -> Path:
    folder = model_config.parent if model_config.name == SERVER_FOLDER else model_config
    if not model_config.is_dir():
        found = "a file" if model_config.exists() else "no such directory"
        raise ModelError(f"{model_config}: {found}, accepted: serving_models/<name> or the {SERVER_FOLDER} in it")
    if not (folder / FACTS_FILE).is_file():
        raise ModelError(f"{folder}: no {FACTS_FILE} in it, which python -m serving_models export writes")
    return folder / FACTS_FILE


def _check_supported(image: Facts, answer: Facts) -> None:
    image.choice("dtype", "float32")
    image.choice("interpolation", "bilinear")
    image.choice("channel_order", "RGB")
    answer.choice("activation", "softmax")


def _crop(image: Facts) -> tuple[int, int]:
    channels, height, width = image.three_wholes("shape")
    if channels != 3:
        image.refuse("shape", "[3, height, width]")
    return height, width


def _resize_short(image: Facts, longest: int) -> int:
    length = image.whole("resize_short")
    if length < longest:
        image.refuse("resize_short", f"a whole number from {longest}, the longer side of input.shape")
    return length


def _std(image: Facts) -> tuple[float, float, float]:
    std = image.three_numbers("std")
    if min(std) <= 0:
        image.refuse("std", "three numbers above 0")
    return std


def _server_file(files: Facts, key: str, folder: str) -> Path:
    name = Path(files.text(key))
    if name.parent != Path(folder) or name.name == "..":
        files.refuse(key, f"{folder}/<file>")
    file = files.file.parent / name
    if not file.is_file() or file.stat().st_size == 0:
        raise ModelError(f"{file}: {'empty' if file.is_file() else 'no such file'}, named by {files.file.name}")
    return file


def _labels(facts: Facts, classes: int) -> tuple[str, ...]:
    name = facts.text("labels")
    if Path(name).name != name:
        facts.refuse("labels", f"the name of a file beside {facts.file.name}")
    file = facts.file.parent / name
    lines = read_text(file).rstrip("\n").split("\n")
    if len(lines) != classes:
        raise ModelError(f"{file}: {len(lines)} labels, but output.classes of {facts.file.name} is {classes}")
    return tuple(line.strip() for line in lines)
