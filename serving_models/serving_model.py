"""A network and the facts of its source -> the files of a serving model in an empty folder, read back and proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from service import __version__
from service.errors import ModelError
from service.ops.model import load_verified
from serving_models import onnx_model, prototxt
from serving_models.inference_model import InferenceModelFiles, load
from serving_models.paddle_runtime import INPUT_NAME, PADDLE_VERSION, Images, Scores, save_inference_model
from serving_models.program_files import read_program
from serving_models.sources import Source, file_sha256
from serving_models.workspace import WriteError

ALIAS = "prediction"  # the fetch alias that PaddleClas's services and clients ask for
PROGRAM = "serving_server/inference.pdmodel"
PARAMS = "serving_server/inference.pdiparams"
ONNX = "serving_server/inference.onnx"
FILES = {"program": PROGRAM, "params": PARAMS, "onnx": ONNX}
LABELS = "labels.txt"
REASON_LENGTH = 300
# float32 sums in another order differ by less; relative, because 1000 probabilities are small.
ABSOLUTE_TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 1e-3
# Of a score, between the ONNX file and the program: batch normalisation is folded into the weights of the former.
ONNX_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Input:
    """How images become the input: pixels, and the normalisation as in ``inference_yml.Feeding``."""

    height: int
    width: int
    resize_short: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Description:
    """What is written beside program and parameters."""

    name: str
    source: Source
    input: Input
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Verified:
    """How near what was written is to its source, for so many random images: the max abs difference of the scores."""

    inputs: int
    max_abs_diff: float  # of the program's to the source's
    onnx_max_abs_diff: float  # of the ONNX file's to the program's


def write_program(network: Any, description: Description, folder: Path) -> None:
    """Program and parameters, read back: the bytes on the disk are those of the source's weights."""
    server = folder / "serving_server"
    server.mkdir(parents=True)
    save_inference_model(network, server, height=description.input.height, width=description.input.width)
    _check_weights(folder, description.source)


def write_onnx(description: Description, folder: Path, images: Images, expected: Scores) -> float:
    """The same network as ONNX, for the engines beside Paddle; the max abs difference of its scores to ``expected``.

    Raises ModelError where they differ by more than ``ONNX_TOLERANCE``.
    """
    source, image, file = description.source, description.input, folder / ONNX
    try:
        onnx_model.write_onnx(source.weights, source.architecture, file, height=image.height, width=image.width)
        worst = float(np.abs(onnx_model.onnx_scores(file, images) - expected).max())
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:REASON_LENGTH]
        raise ModelError(f"{source.path}: ONNX Runtime cannot run what was made of it: {reason}") from None
    if not worst <= ONNX_TOLERANCE:
        raise ModelError(
            f"{source.path}: the scores of its ONNX form differ from Paddle's by up to {worst:.2g}; not exported"
        )
    return worst


def write_descriptions(description: Description, folder: Path, verified: Verified) -> None:
    """Everything else: prototxts for both sides, labels, model.yml; then loaded as the service loads it."""
    output = read_program(folder / PROGRAM).fetches[0]
    (folder / "serving_client").mkdir()
    config = prototxt.general_model_config(
        # NOTE stock's LocalPredictor checks aliases, and then feeds by name: they must be one.
        prototxt.Variable(INPUT_NAME, INPUT_NAME, (3, description.input.height, description.input.width)),
        prototxt.Variable(output, ALIAS, (len(description.labels),)),
    )
    for side in ("server", "client"):
        stem = folder / f"serving_{side}" / f"serving_{side}_conf"
        stem.with_suffix(".prototxt").write_text(prototxt.to_text(config), encoding="utf-8")
        stem.with_suffix(".stream.prototxt").write_bytes(config.SerializeToString())
    (folder / LABELS).write_text("\n".join(description.labels) + "\n", encoding="utf-8")
    facts = _facts(description, folder, output) | {"verified": asdict(verified)}
    text = yaml.dump(facts, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    (folder / "model.yml").write_text(text, encoding="utf-8")
    _check_descriptions(description, folder, config)


def compare(expected: Scores, found: Scores, source: Path) -> float:
    """The max abs difference between the source's scores and the export's.

    Raises ModelError where they differ by more than float32 arithmetic in another order explains.
    """
    if expected.shape != found.shape:
        raise ModelError(f"{source}: its scores are {expected.shape}, where the export's are {found.shape}")
    if not np.isfinite(expected).all():
        raise ModelError(f"{source}: its scores of random images are not finite numbers; not exported")
    worst = float(np.abs(expected - found).max())
    if not np.allclose(found, expected, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE):
        raise ModelError(
            f"{source}: the exported model's scores differ from the source's by up to {worst:.2g}; not exported"
        )
    return worst


def _facts(description: Description, folder: Path, output: str) -> dict[str, Any]:
    source, image = description.source, description.input
    return {
        "name": description.name,
        "architecture": source.architecture,
        "input": {
            "name": INPUT_NAME,
            "dtype": "float32",
            "shape": [3, image.height, image.width],
            "resize_short": image.resize_short,
            "interpolation": "bilinear",
            "channel_order": "RGB",
            "scale": image.scale,
            "mean": list(image.mean),
            "std": list(image.std),
        },
        "output": {"name": output, "alias": ALIAS, "activation": "softmax", "classes": len(description.labels)},
        "labels": LABELS,
        "files": FILES,
        "sha256": {key: file_sha256(folder / file) for key, file in FILES.items()},
        "source": {"kind": source.kind, "path": source.path.resolve().name, "sha256": source.sha256},
        "versions": {
            "regnetx_serving": __version__,
            "paddle": PADDLE_VERSION,
            **{package: version(package) for package in ("onnx", "onnxruntime")},
        },
    }


def _check_weights(folder: Path, source: Source) -> None:
    files = InferenceModelFiles(folder / "serving_server", folder / PROGRAM, folder / PARAMS)
    try:
        written = load(files).weights
    except (ModelError, OSError) as error:
        # Paddle writes on without a word when there is no space left.
        raise WriteError(f"the model was not written whole, is the disk full? {error}") from None
    if not _equal(written, source.weights):
        raise WriteError(f"{folder / PARAMS}: what was written is not what is read back")


def _equal(written: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    return written.keys() == weights.keys() and all(np.array_equal(written[name], weights[name]) for name in weights)


def _check_descriptions(description: Description, folder: Path, config: Any) -> None:
    model = load_verified(folder)
    if model.labels != description.labels or model.height != description.input.height:
        raise WriteError(f"{folder / 'model.yml'}: what was written is not what is read back")
    for side in ("server", "client"):
        stem = folder / f"serving_{side}" / f"serving_{side}_conf"
        text = prototxt.from_text(stem.with_suffix(".prototxt").read_text(encoding="utf-8"))
        binary = prototxt.from_binary(stem.with_suffix(".stream.prototxt").read_bytes())
        if not text == binary == config:
            raise WriteError(f"{stem}.prototxt: what was written is not what is read back")


class _Dumper(yaml.SafeDumper):
    """Lists in one line, as a person would write them."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
